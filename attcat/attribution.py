"""The numbers of one example: unpadded, checked once, immutable. They carry their tokens and input, and need no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from . import plain
from .errors import InputError, Option
from .plain import recorded
from .probabilities import Activation, probabilities, settled
from .tokens import (
    Interleaved,
    Segment,
    Shares,
    Span,
    Tokens,
    View,
    Waveform,
    Word,
    check_size,
    group_of,
    group_times,
    group_words,
    on_one_grid,
)

__all__ = ["Attribution", "Window", "read_only", "recorded"]


@dataclass(frozen=True)
class Window:
    """A part of a long text that the model read on its own.

    Args:
        start: first character of the text (of the second one of a pair).
        end: one past the last character.
        logits: the model's output for this part, `[C]`.

    Raises:
        ValueError: if a field has another type, or the end comes before the start.
    """

    start: int
    end: int
    logits: tuple[float, ...]

    def __post_init__(self) -> None:
        plain.settle(self, _WINDOW)
        if self.start > self.end:
            raise ValueError(f"a window from character {self.start} to {self.end} ends before it starts")


_WINDOW = {"start": plain.whole(), "end": plain.whole(), "logits": plain.tuple_of(plain.real_or_ruled_out)}


CLASSLESS = frozenset({"attention", "rollout", "random"})
"""Methods that know no class: nothing that they score speaks for one or against it."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Which tokens decided a prediction.

    Immutable, both for whoever made it and for whoever reads it: tensors are copied on the way in and out, mappings and
    pixels are read-only copies. `dataclasses.replace` makes a changed copy.

    Args:
        layers: contribution of every token at every block, float32 `[L, T]` on the CPU.
        tokens: what the `T` positions stand for.
        logits: the model's output for this example, float32 `[C]`; out of very many classes (a vocabulary, all spans of a
            text) only the best, in descending order.
        target: the class that is explained, or None when the target was a function of the output.
        labels: the names of the `C` classes.
        method: name of the method.
        options: what the method was run with (`rule`, `hidden`, `queries`, ...), as plain JSON values.
        source: the input: a string, a pair of strings, a picture as uint8 `[H, W, 3]`, a video as uint8 `[F, H, W, 3]`, a
            sound as a `Waveform`, or a text with pictures as an `Interleaved`; None for model arguments.
        model: class name of the model.
        dropped: how many tokens were cut from a text that was too long.
        value: the number that is explained: the target's logit, or what the target function returned.
        bias: what the model's bias terms contribute to it under the gradient rule, if that was measured.
        against: the class that `target` is contrasted with, in a contrast.
        measured: what the method reports about its own accuracy, e.g. `convergence_delta` of integrated gradients, in logits.
        task: what the model was made for, e.g. `classification` or `token classification`.
        activation: from logits to probabilities: `softmax`, `sigmoid` (each class for itself), or `none` for measured values
            (regression). None stands for softmax; for a single logit, for sigmoid.
        rest: log of the sum of exp(logit) over the classes that are not among `logits`; it keeps probabilities exact.
        position: the token whose prediction is explained (a tag, a `[MASK]`, what follows it); None if it is the whole input's.
        windows: the parts in which a long text was read, in order; then `logits`, `value` and `bias` are means over them, and
            the score of a token is the mean over the windows that contain it. Empty if the text was read in one piece.
        answers: in question answering, for each class the characters of the context that it stands for; None for no answer.
        classes: the model's own indices of the `C` classes; None if all are kept, in their order.
        start: how many tokens were given; the ones after them the model had written itself. None if it had written nothing.

    Raises:
        ValueError: if a field has another type, holds a number that is not finite (a logit may be minus infinity: a class that
            the model rules out), or contradicts another; the message names the field, what was given and what is expected.
    """

    layers: Tensor
    tokens: Tokens
    logits: Tensor
    target: int | None
    labels: tuple[str, ...]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str | tuple[str, str] | np.ndarray | Waveform | Interleaved | None = None
    model: str = ""
    dropped: int = 0
    value: float | None = None
    bias: float | None = None
    against: int | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    task: str = "classification"
    activation: Activation | None = None
    rest: float | None = None
    position: int | None = None
    answers: tuple[Span | None, ...] | None = None
    windows: tuple[Window, ...] = ()
    classes: tuple[int, ...] | None = None
    start: int | None = None

    def __post_init__(self) -> None:
        plain.settle(self, _FIELDS)
        object.__setattr__(self, "activation", settled(self.activation, len(self.labels)))
        layers, logits = tuple(self.layers.shape), tuple(self.logits.shape)
        if len(layers) != 2 or layers[1] != len(self.tokens) or 0 in layers:
            raise ValueError(f"layers has shape {layers}, expected [L, {len(self.tokens)}]")
        if logits != (len(self.labels),):
            raise ValueError(f"{len(self.labels)} labels for logits of shape {logits}")
        if self.target is not None and self.target >= len(self.labels):
            raise ValueError(f"target {self.target} is not one of {len(self.labels)} classes")
        if self.against is not None and (self.target in (None, self.against) or self.against >= len(self.labels)):
            raise ValueError(
                f"against is {self.against}, expected one of the {len(self.labels)} classes other than the target, "
                f"which is {self.target}"
            )
        if self.position is not None and self.position >= len(self.tokens):
            raise ValueError(f"position {self.position} is not one of {len(self.tokens)} tokens")
        if self.start is not None and self.start > len(self.tokens):
            raise ValueError(f"{self.start} tokens were given, but there are only {len(self.tokens)}")
        if any(len(window.logits) != len(self.labels) for window in self.windows):
            raise ValueError(f"a window has logits for a number of classes other than {len(self.labels)}")
        if self.answers is not None and len(self.answers) != len(self.labels):
            raise ValueError(f"{len(self.answers)} answers for {len(self.labels)} labels")
        if self.classes is not None and len(set(self.classes)) != len(self.labels):
            raise ValueError(f"{len(set(self.classes))} different class numbers for {len(self.labels)} labels")
        if isinstance(self.source, np.ndarray):
            _check_picture(self.source, self.tokens)
        elif isinstance(self.source, Waveform):
            _check_times(self.source, self.tokens)
        elif isinstance(self.source, Interleaved):
            _check_interleaved(self.source, self.tokens)
        elif self.source is not None:
            _check_spans(self.texts, self.tokens)
        _check_extents(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled and copied by its fields: a copy is checked and read-only like the original.
        return _made, (type(self), {f.name: getattr(self, f.name) for f in fields(self)})

    # -- what was predicted ------------------------------------------------------------------------------------------

    @property
    def probabilities(self) -> Tensor:
        """float32 `[C]`: softmax of the logits, or their sigmoid where each class stands for itself.

        Raises:
            InputError: if the outputs are measured values (regression), which have none.
        """
        return probabilities(self.logits, self._activation, self.rest)

    @property
    def window_probabilities(self) -> Tensor:
        """float32 `[W, C]`: what the model predicted for each window on its own.

        Raises:
            InputError: if the outputs are measured values, or the text was not read in windows.
        """
        if not self.windows:
            raise InputError(
                "the text was read in one piece: explain it with ", Option("window", True), " to get windows"
            )
        return probabilities(torch.tensor([window.logits for window in self.windows]), self._activation, self.rest)

    @property
    def _activation(self) -> Activation:
        assert self.activation is not None  # settled when the attribution was made
        return self.activation

    @property
    def label(self) -> str:
        """Name of the class that is explained (`custom target` when the target was a function).

        A measured value follows its name, e.g. `rating = 3.7`.
        """
        if self.target is None:
            return "custom target"
        label = self.labels[self.target]
        if self.against is not None:
            return f"{label} rather than {self.labels[self.against]}"
        return f"{label} = {float(self.logits[self.target]):.4g}" if self.activation == "none" else label

    @property
    def again(self) -> Any:
        """The target by the model's own index, a contrast as two: give it to an Explainer to explain the same again.

        `target` is the place among the classes that are kept, which are few out of a vocabulary. Of a box or a pixel it is
        that place with the class, `("box", 3, 0)`.

        Raises:
            InputError: if the target was a function, which is not kept.
        """
        if self.target is None:
            raise InputError(
                "the target was a function of the output, which is not kept: give the function itself again"
            )
        numbers = self.classes or range(len(self.labels))
        target = numbers[self.target]
        meant = target if self.against is None else (target, numbers[self.against])
        return (*self.options["place"], meant) if "place" in self.options else meant

    @property
    def class_specific(self) -> bool:
        """Whether the scores depend on the class; those of attention weights alone, for one, are the same for every class."""
        return self.method not in CLASSLESS

    @property
    def predicted(self) -> int:
        """Index of the class with the highest logit."""
        return int(self.logits.argmax())

    @property
    def predictions(self) -> tuple[int, ...]:
        """Indices of all predicted classes: the one with the highest logit; in multi-label models all above one half."""
        if self.activation == "sigmoid" and len(self.logits) > 1:
            return tuple((self.logits > 0).nonzero().flatten().tolist())
        return (self.predicted,)

    @property
    def probability(self) -> float | None:
        """Probability of the class that is explained; None when the target is a function or a measured value."""
        return None if self.target is None or self.activation == "none" else float(self.probabilities[self.target])

    @property
    def answer(self) -> Word | None:
        """The answer that is explained: its text, its characters in the context, and its own summed score.

        None for `(no answer)`, and for other tasks than question answering.
        """
        span = None if self.answers is None or self.target is None else self.answers[self.target]
        if span is None:
            return None
        start, end = span
        score = sum(word.score for word in self.words() if word.segment == 1 and word.start < end and word.end > start)
        return Word(self.texts[1][start:end], start, end, score, segment=1)

    @property
    def recipe(self) -> str:
        """Method and options in one line, e.g. `attcat (rule=libra, hidden=input, queries=mean)`."""
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.method} ({options})" if options else self.method

    # -- what decided it ---------------------------------------------------------------------------------------------

    @property
    def scores(self) -> Tensor:
        """float32 `[T]`: one signed score per token, specials included; the sum of `layers` over blocks."""
        return self.layers.sum(0)

    @property
    def special(self) -> Tensor:
        """bool `[T]`: True for tokens that stand for no part of the input."""
        return torch.tensor(self.tokens.special, dtype=torch.bool)

    @property
    def completeness(self) -> float | None:
        """How far the scores and the bias terms are from what they explain: `value - scores.sum() - bias`, in logits.

        0 for `input_x_gradient` of the logit under the rule `libra`, which loses nothing. Under `graded` and `attnlrp` softmax
        takes a part that neither has: 0 at a beta of 0 only. Of log-odds the entropy of the other classes is missing. The
        scores of AttCAT, CAT and OddsCAT are summed over blocks, and do not add up. None where the bias terms were not
        measured: make the Explainer with `completeness=True`.
        """
        if self.bias is None or self.value is None:
            return None
        return self.value - float(self.scores.sum()) - self.bias

    @property
    def special_share(self) -> float:
        """Share of the total absolute score that fell on special tokens, 0 to 1 (0 when every score is 0)."""
        magnitude = self.scores.abs()
        total = float(magnitude.sum())
        return float(magnitude[self.special].sum()) / total if total else 0.0

    @property
    def is_image(self) -> bool:
        """True when the tokens are patches of a picture."""
        return self.tokens.grid is not None and self.tokens.frames is None

    @property
    def is_video(self) -> bool:
        """True when the tokens are patches of groups of frames."""
        return self.tokens.frames is not None

    @property
    def is_sound(self) -> bool:
        """True when the tokens are moments of a sound."""
        return self.tokens.times is not None

    @property
    def is_mixed(self) -> bool:
        """True when words and patches of pictures stand in one sequence."""
        return self.tokens.patches is not None

    @property
    def texts(self) -> tuple[str, ...]:
        """The strings that were explained: one, or two for a pair.

        Raises:
            InputError: if the input was a picture or bare model arguments.
        """
        if isinstance(self.source, str):
            return (self.source,)
        if isinstance(self.source, tuple):
            return self.source
        if isinstance(self.source, Interleaved):
            return (self.source.text,)
        raise InputError("this explanation holds no text: explain a string with a tokenizer to get words")

    def words(self) -> list[Word]:
        """Words of the original text in reading order, each with the sum of its pieces' scores.

        White space that is a separate token (byte-level tokenizers) belongs to no word.

        Raises:
            InputError: if the input was not a text, or the tokenizer gave no character offsets.
        """
        if self.tokens.spans is None:
            raise InputError(
                "no character offsets: words() needs a text and a fast tokenizer; read .tokens and .scores instead"
            )
        texts, scores = self.texts, self.scores
        return [
            Word(texts[segment][start:end], start, end, float(scores[positions].sum()), segment)
            for segment, start, end, positions in group_words(self.tokens, texts)
        ]

    @property
    def grid(self) -> Tensor:
        """float32 `[rows, columns]`: the scores of the patches; of a video, `[groups, rows, columns]`.

        Raises:
            InputError: if the input was neither a picture nor a video.
        """
        if self.tokens.grid is None:
            what, use = ("sound", "segments()") if self.is_sound else ("text", "words()")
            if self.is_mixed:
                what, use = "text with pictures", "words(), heatmap(image) or of_image(image)"
            raise InputError(f"this explanation is of a {what}: use {use}, not grid or heatmap()")
        groups = () if self.tokens.frames is None else (len(self.tokens.frames),)
        return self.scores[~self.special].reshape(*groups, *self.tokens.grid)

    def segments(self) -> list[Segment]:
        """Stretches of the sound in the order of time, each with its start and end in seconds and its score.

        The score is the sum over the tokens of one moment: of a spectrogram, over its bands. Stretches overlap where the
        model's patches do. A model that pads a short sound has tokens behind its end, which are special and not listed.

        Raises:
            InputError: if the input was not a sound, or its times are not known.
        """
        if self.tokens.times is None:
            raise InputError(
                "no times: segments() needs a sound, and the model's feature extractor, which says how many samples make a second"
            )
        scores = self.scores
        return [Segment(*time, float(scores[at].sum())) for time, at in group_times(self.tokens.times)]

    def of_block(self, number: int) -> Self:
        """What one block contributed, as an attribution of its own: its scores are that block's row of `layers`.

        Args:
            number: of the block, from 1, as the report counts them.

        Raises:
            InputError: if there is no such block, or the method gives no contributions by block.
        """
        count = len(self.layers)
        if count == 1:
            raise InputError(f"{self.method} gives one score for each token, and not one for each block")
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= count:
            raise InputError(f"no block {number!r}: this explanation has {count}, counted from 1")
        # A part of the scores has no completeness: its bias is not known.
        options = {**self.options, "block": number}
        return replace(self, layers=self.layers[number - 1 : number], options=options, bias=None)

    def of_frame(self, number: int) -> Self:
        """The part of a video's attribution that lies on one frame, as that of a picture.

        Args:
            number: of the frame, from 0. All frames of a group share their scores.

        Raises:
            InputError: if the input was not a video, or has no such frame.
        """
        tokens = self.tokens
        if tokens.frames is None or tokens.grid is None:
            raise InputError("this explanation is not of a video: it has no frames")
        try:
            group = group_of(tokens.frames, number)
        except IndexError as error:
            raise InputError(str(error)) from error
        size = tokens.grid[0] * tokens.grid[1]
        chosen = (~self.special).nonzero().flatten()[group * size : (group + 1) * size]
        labels = tuple(tokens.labels[place] for place in chosen.tolist())
        part = Tokens(labels, (False,) * size, grid=tokens.grid, view=tokens.view)
        picture = self.source[number] if isinstance(self.source, np.ndarray) else None
        return replace(self, layers=self.layers[:, chosen], tokens=part, source=picture, position=None)

    @property
    def pictures(self) -> int:
        """How many pictures the tokens of a mixed sequence lie on."""
        return 1 + max((patches.picture for patches in self.tokens.patches or ()), default=-1)

    def of_image(self, number: int = 0) -> Self:
        """The part of a mixed sequence's attribution that lies on one picture, as that of a picture.

        Where several grids lie on it (tiles and a thumbnail), each token's score is spread evenly over its cell and counted on
        one grid that is as fine as the finest: sums stay as they are.

        Args:
            number: of the picture, from 0.

        Raises:
            InputError: if this is not of a mixed sequence, there is no such picture, or its tokens lie nowhere in it.
        """
        if not 0 <= number < self.pictures:
            what = f"there are {self.pictures}, counted from 0" if self.is_mixed else "it is not of words and pictures"
            raise InputError(f"this explanation has no picture {number}: {what}")
        source = self.source.pictures[number] if isinstance(self.source, Interleaved) else None
        layers, grid, view = _on_picture(self.layers, self.tokens, number)
        labels = tuple(f"{row},{column}" for row in range(grid[0]) for column in range(grid[1]))
        tokens = Tokens(labels, (False,) * len(labels), grid=grid, view=view)
        return replace(self, layers=layers, tokens=tokens, source=source, bias=None, position=None, start=None)

    def of_text(self) -> Self:
        """The part of a mixed sequence's attribution that lies on words and special tokens, as that of a text.

        Raises:
            InputError: if this is not of a mixed sequence.
        """
        if self.tokens.places is None:
            raise InputError("this explanation is not of words and pictures in one sequence: it has one part only")
        chosen = [place is None for place in self.tokens.places]
        kept = self.tokens.kept(chosen)
        tokens = replace(kept, patches=None, places=None)
        source = self.source.text if isinstance(self.source, Interleaved) else None
        start = None if self.start is None else sum(chosen[: self.start])
        position = None if self.position is None or not chosen[self.position] else sum(chosen[: self.position])
        layers = self.layers[:, chosen]
        # A part of the scores has no completeness: its bias is not known.
        return replace(self, layers=layers, tokens=tokens, source=source, bias=None, position=position, start=start)

    def shares(self) -> Shares:
        """How much of the total magnitude lies on each picture, the text, what the model had written, and special tokens.

        A large share does not mean that the answer is right, see docs/mixed.md.
        """
        scores, places = self.scores, self.tokens.places or (None,) * len(self.tokens)
        count, start = self.pictures, len(self.tokens) if self.start is None else self.start
        of = torch.empty(len(self.tokens), dtype=torch.long)
        for at, (place, special) in enumerate(zip(places, self.tokens.special, strict=True)):
            if place is not None:
                of[at] = (self.tokens.patches or ())[place[0]].picture
            else:
                of[at] = count + (2 if special else 1 if at >= start else 0)
        sums = torch.zeros(2, count + 3, dtype=torch.float64)
        sums.index_add_(1, of, torch.stack([scores.abs(), scores]).double())
        total = float(sums[0].sum()) or 1.0
        *pictures, text, written, special_ = (float(share) / total for share in sums[0])
        return Shares(tuple(pictures), text, written, special_, tuple(sums[1].tolist()), self.completeness)

    @property
    def view(self) -> View:
        """Where the grid lies on the picture; the whole picture, if the tokens do not say.

        Without a picture either, a cell is the size of a pixel.

        Raises:
            InputError: if the input was not a picture.
        """
        height, width = self.source.shape[-3:-1] if isinstance(self.source, np.ndarray) else self.grid.shape[-2:]
        return self.tokens.view or View(width, height, (0, 0, width, height))

    def heatmap(self, image: int = 0) -> np.ndarray:
        """The patch scores, bilinearly upsampled onto the original picture.

        The processor's resize and crop are undone: each value lies over the pixel that it came from.

        Args:
            image: of several pictures in a mixed sequence the number of one, from 0; see `of_image`.

        Returns:
            float32 `[H, W]`, in the original picture's pixels; NaN where the model saw nothing. Of a video, `[F, H, W]`:
            frames of a group have the same.

        Raises:
            InputError: if the input was neither a picture nor a video.
        """
        if self.is_mixed:
            return self.of_image(image).heatmap()
        if image:
            raise InputError(f"no picture {image}: this explanation is of one")
        grid, view = self.grid.numpy(), self.view
        if self.tokens.frames is None:
            return view.spread(grid).astype(np.float32)
        groups = [view.spread(values).astype(np.float32) for values in grid]
        return np.stack([groups[group_of(self.tokens.frames, at)] for at in range(self.tokens.frames[-1][1])])


class _Copied:
    """A tensor of a frozen value: kept as a copy, handed out as a copy."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else _copy(instance.__dict__[self.name])

    def __set__(self, instance: object, value: Any) -> None:
        instance.__dict__[self.name] = _copy(value)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value  # anything else is refused by its check


# Set after the class is made: inside it, a dataclass would take them for the fields' defaults.
for _name in ("layers", "logits"):
    setattr(Attribution, _name, _Copied(_name))


def _made(kind: type[Attribution], given: dict[str, Any]) -> Attribution:
    return kind(**given)


def read_only(source: Any) -> Any:
    """A read-only source: pixels as a copy that cannot be made writable again; anything else as it is."""
    if not isinstance(source, np.ndarray) or source.dtype != np.uint8:
        return source
    return plain.read_only(source)


# -- what the fields hold ------------------------------------------------------------------------------------------------


def _source(value: Any) -> Any:
    if isinstance(value, str):
        return plain.text(value)
    if isinstance(value, tuple):
        return plain.tuple_of(plain.text, 2)(value)
    if value is None or isinstance(value, (np.ndarray, Waveform, Interleaved)):
        return read_only(value)
    raise ValueError(
        f"got {type(value).__name__}, expected a string, a pair of strings, a picture, a Waveform, an Interleaved or None"
    )


def _float32(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.device.type != "cpu":
        what = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"got {what}, expected float32 on the CPU")
    return value


def _layers(value: Any) -> Tensor:
    if not _float32(value).abs().sum() < plain.LARGEST_FLOAT:
        raise ValueError("got numbers that are not finite or too large to be summed, expected contributions")
    return _float32(value)


def _logits(value: Any) -> Tensor:
    finite = _float32(value).isfinite()
    if not (finite | (value == -torch.inf)).all() or not finite.any():
        raise ValueError("got numbers that are not finite, expected logits (minus infinity only next to finite ones)")
    return _float32(value)


def _activation(value: Any) -> Any:
    if value not in get_args(Activation):
        raise ValueError(f"got {value!r}, expected one of {', '.join(get_args(Activation))}")
    return value


_FIELDS: dict[str, plain.Check] = {
    "layers": _layers,
    "tokens": plain.a(Tokens),
    "logits": _logits,
    "target": plain.optional(plain.whole()),
    "labels": plain.tuple_of(plain.text),
    "method": plain.text,
    "options": plain.frozen,
    "source": _source,
    "model": plain.text,
    "dropped": plain.whole(),
    "value": plain.optional(plain.real),
    "bias": plain.optional(plain.real),
    "against": plain.optional(plain.whole()),
    "measured": plain.numbers,
    "task": plain.text,
    "activation": plain.optional(_activation),
    "rest": plain.optional(plain.real),
    "position": plain.optional(plain.whole()),
    "answers": plain.optional(plain.tuple_of(plain.optional(plain.span))),
    "windows": plain.tuple_of(plain.a(Window)),
    "classes": plain.optional(plain.tuple_of(plain.whole())),
    "start": plain.optional(plain.whole()),
}


def _check_picture(picture: np.ndarray, tokens: Tokens) -> None:
    axes = 3 if tokens.frames is None else 4
    if picture.dtype != np.uint8 or picture.ndim != axes or picture.shape[-1] != 3 or not picture.size:
        what = "a picture is uint8 [H, W, 3]" if tokens.frames is None else "a video is uint8 [F, H, W, 3]"
        raise ValueError(f"{what}, got {picture.dtype} {list(picture.shape)}")
    if tokens.frames is not None and tokens.frames[-1][1] != len(picture):
        raise ValueError(f"the tokens stand for {tokens.frames[-1][1]} frames, the video has {len(picture)}")
    if tokens.grid is None:
        raise ValueError("a picture is explained by a grid of patches, but the tokens have none")
    view = tokens.view
    height, width = picture.shape[-3:-1]
    check_size(tokens.grid, height, width)
    if view is not None and (view.height, view.width) != (height, width):
        raise ValueError(f"the view is of {view.width} x {view.height} pixels, the picture has {width} x {height}")


def _check_times(sound: Waveform, tokens: Tokens) -> None:
    if tokens.times is None:
        raise ValueError("a sound is explained by tokens that have times, but these have none")
    late = [time for time in tokens.times if time is not None and time[0] >= sound.seconds]
    if late:
        raise ValueError(f"a token starts after {late[0][0]:.3f} s, the sound has {sound.seconds:.3f} s")


def _check_interleaved(source: Interleaved, tokens: Tokens) -> None:
    if tokens.patches is None:
        raise ValueError("a text with pictures is explained by words and patches, but the tokens have no patches")
    for patches in tokens.patches:
        if patches.picture >= len(source.pictures):
            raise ValueError(f"a grid lies on picture {patches.picture}, but there are {len(source.pictures)}")
        height, width = source.pictures[patches.picture].shape[:2]
        if patches.grid is not None:
            check_size(patches.grid, height, width)
        if patches.view is not None and (patches.view.height, patches.view.width) != (height, width):
            raise ValueError(
                f"a view is of {patches.view.width} x {patches.view.height} pixels, the picture has {width} x {height}"
            )
    _check_spans((source.text,), tokens)


def _on_picture(layers: Tensor, tokens: Tokens, picture: int) -> tuple[Tensor, tuple[int, int], View | None]:
    """The contributions on a picture, `[L, cells]`, on one grid, and where that lies.

    Raises:
        InputError: if the tokens of the picture lie nowhere in it, or it is not known where its tiles lie.
    """
    placed = [
        (one, _cells_of(layers, tokens, at, one.grid))
        for at, one in enumerate(tokens.patches or ())
        if one.picture == picture and one.grid is not None
    ]
    try:
        found, grid, view = on_one_grid(placed)
    except ValueError as error:
        raise InputError(f"picture {picture}: {error}") from error
    return torch.from_numpy(found).float(), grid, view


def _cells_of(layers: Tensor, tokens: Tokens, number: int, grid: tuple[int, int]) -> np.ndarray:
    """The contributions of a grid's cells, `[L, cells]`; 0 for cells without a token."""
    found = torch.zeros(len(layers), grid[0] * grid[1])
    for at, place in enumerate(tokens.places or ()):
        if place is not None and place[0] == number:
            found[:, place[1]] = layers[:, at]
    return found.numpy()


def _check_spans(texts: tuple[str, ...], tokens: Tokens) -> None:
    if tokens.grid is not None:
        raise ValueError("a text is not explained by a grid of patches, but the tokens have one")
    for position, span in enumerate(tokens.spans or ()):
        segment = (tokens.segments[position] if tokens.segments else 0) or 0
        if span is not None and not (0 <= segment < len(texts) and 0 <= span[0] <= span[1] <= len(texts[segment])):
            raise ValueError(f"token {position} has the characters {span} of text {segment}, which do not exist")


def _check_extents(given: Attribution) -> None:
    """Check that answers lie in the context, and windows in the text, if there is one."""
    texts = given.texts if isinstance(given.source, (str, tuple, Interleaved)) else ()
    context = len(texts[1]) if len(texts) == 2 and given.tokens.spans is not None else 0
    if any(span is not None and span[1] > context for span in given.answers or ()):
        raise ValueError(f"an answer lies outside of the context, of which {context} characters are known")
    if texts and any(window.end > len(texts[-1]) for window in given.windows):
        raise ValueError(f"a window ends beyond the {len(texts[-1])} characters of the text")
