"""Several methods on one input, side by side, so that nobody has to trust a single one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import render
from .errors import InputError, OptionError
from .explainer import Explainer, Target
from .explanation import Explanation
from .files import encode_png, write_by_suffix
from .methods import DEFAULT, METHODS, read_name
from .model.discovered import adapter_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

METHODS_COMPARED = (
    DEFAULT,
    "attcat",
    "attcat+plain",
    "cat",
    "attention",
    "rollout",
    "genatt",
    "transatt",
    "input_x_gradient+libra",
    "random",
)
"""What `compare` runs when no methods are named: the default, and cheap methods of every kind."""


@dataclass(frozen=True)
class Comparison:
    """One input, one class, several explanations.

    Args:
        explanations: in the order in which the methods were named.
        seconds: how long each took, in one run after a warm-up.

    Raises:
        ValueError: if there are none, or their tokens differ.
    """

    explanations: tuple[Explanation, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.explanations or len(self.explanations) != len(self.seconds):
            raise ValueError(f"{len(self.explanations)} explanations, but {len(self.seconds)} times")
        if any(explanation.tokens != self.explanations[0].tokens for explanation in self.explanations):
            raise ValueError("these explanations are of different inputs: there is nothing to compare")

    @property
    def is_image(self) -> bool:
        """True when the input is a picture."""
        return self.explanations[0].is_image

    @property
    def timed(self) -> tuple[tuple[Explanation, float], ...]:
        """Each explanation with the seconds that it took."""
        return tuple(zip(self.explanations, self.seconds, strict=True))

    @property
    def note(self) -> str:
        """What the colours cannot say: that scales differ, and which methods' scores say nothing about the class."""
        known = {one.method: METHODS.get(one.method) for one in self.explanations}
        blind = [name for name, method in known.items() if method is not None and not method.class_specific]
        if not blind:
            return render.comparison.OWN_SCALE
        same = f"The scores of {', '.join(blind)} would be the same for every class: they speak neither for it nor against it."
        return f"{render.comparison.OWN_SCALE} {same}"

    def show(self) -> None:
        """Print one line per method; in a notebook show them as HTML."""
        render.show(self, lambda: render.comparison.show(self.timed, note=self.note))

    def to_html(self) -> str:
        """A self-contained HTML page (no network, everything escaped)."""
        return render.comparison.page(self.timed, self.note)

    def to_image(self) -> Image.Image:
        """One figure with the picture and one heatmap per method; below them the words, if a text was read with it.

        Raises:
            InputError: if the input was not a picture, or its pixels are not known.
        """
        return render.comparison.figure(self.timed, self.note)

    def plot(self) -> Figure:
        """A figure of matplotlib with one axes per method, for a paper: `comparison.plot().savefig("methods.pdf")`.

        Raises:
            InputError: if matplotlib is not installed, or a picture's pixels are not known.
        """
        names = [render.comparison.name(explanation) for explanation in self.explanations]
        return render.side_by_side(self.explanations, names)

    def _repr_html_(self) -> str:
        return render.comparison.fragment(self.timed, self.note)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the comparison by suffix: .html, or for a picture .png.

        Raises:
            InputError: for another suffix, or .png of a text.
        """
        writers = {".html": lambda: self.to_html().encode(), ".png": lambda: encode_png(self.to_image())}
        return write_by_suffix(Path(path), writers)


def compare(
    model: Any,
    processor: Any,
    value: Any,
    methods: Sequence[str] = METHODS_COMPARED,
    *,
    target: Target = None,
    references: Sequence[Any] = (),
    truncation: bool = False,
) -> Comparison:
    """Explain one input with several methods.

        attcat.compare(model, tokenizer, "A gripping film.", ["attcat", "rollout", "random"]).show()

    Args:
        model: a classifier, as for `Explainer`.
        processor: its tokenizer, image processor or transform, likewise.
        value: a text, a pair of texts, a picture, or a picture and a text.
        methods: names, as for `Explainer`; `name+rule` names the gradient rule as well.
        target: the class that all of them explain; by default the predicted one.
        references: inputs of other classes, for methods that need them (`contrast_cat`).
        truncation: truncate a text that is longer than the model takes.

    Raises:
        OptionError: if there is no such method or rule.
        InputError: if the input cannot be explained, or a list is given.
    """
    if isinstance(value, list):
        raise InputError("a comparison takes one input: call it once per input")
    if not methods:
        raise OptionError("no methods to compare: name at least one")
    adapter = adapter_of(model, processor)
    explainers = []
    for name in methods:
        method = read_name(name).method
        options: dict[str, Any] = {"references": list(references)} if "references" in method.required else {}
        explainers.append(Explainer(adapter, method=name, **options))
    explainers[0](
        value, target, truncation=truncation
    )  # what is loaded or cached in the first run is not any method's cost
    explanations, seconds = [], []
    for explainer in explainers:
        start = time.perf_counter()
        explanations.append(explainer(value, target, truncation=truncation))
        seconds.append(time.perf_counter() - start)
    return Comparison(tuple(explanations), tuple(seconds))
