"""Sanity checks: what any explanation has to pass before it is compared with others.

An explanation that does not change when the model's weights do, or when another class is explained, explains neither. One that
changes with its neighbours in a batch, or with noise that leaves the prediction unchanged, is not reliable.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.blocks import hidden_state, with_state
from ..errors import InputError, Option
from ..explainer import Explainer
from ..explanation import Explanation
from ..model import borrowed
from .agreement import kendall_tau


@dataclass(frozen=True)
class Randomised:
    """What is left of the explanations when some of the parameters are randomised.

    Args:
        stages: what was randomised: `head`, `block 12`, ..., `block 1`, `embeddings`; in a cascade also all stages before it.
        similarity: Spearman's rank correlation of content scores with those of the trained model, float64 `[S, N]`.
    """

    stages: tuple[str, ...]
    similarity: Tensor


@dataclass(frozen=True)
class Asked:
    """What was explained for each input, to explain the same again with a changed model, or alone.

    Args:
        inputs: a list of inputs.
        target: as for an Explainer: one for all, or a list with one per input; None for the predicted class.
        token: whose prediction is explained, likewise.
    """

    inputs: list[Any]
    target: Any = None
    token: Any = None

    def first(self, explainer: Explainer) -> list[Explanation]:
        """The explanations to compare with.

        Raises:
            InputError: if the model gives two explanations of each input.
        """
        found = explainer(self.inputs, self.target, token=self.token)
        if not all(isinstance(explanation, Explanation) for explanation in found):
            raise InputError(
                f"{type(explainer.adapter.model).__name__} gives two explanations of each input: check one of explainer.sides"
            )
        return found

    def again(self, explainer: Explainer, found: Sequence[Explanation]) -> list[Explanation]:
        """The same classes of the same inputs, by index; for a function, the function."""
        return explainer(self.inputs, self._targets(found), token=self.token)

    def alone(self, explainer: Explainer, found: Sequence[Explanation], number: int) -> Explanation:
        """As `again`, for one of the inputs."""
        token = self.token[number] if isinstance(self.token, list) else self.token
        return explainer(self.inputs[number], self._targets(found)[number], token=token)

    def alone_first(self, explainer: Explainer, number: int) -> Explanation:
        """As `first`, for one of the inputs on its own."""
        target, token = (one[number] if isinstance(one, list) else one for one in (self.target, self.token))
        (found,) = Asked([self.inputs[number]], target, token).first(explainer)
        return found

    def _targets(self, found: Sequence[Explanation]) -> list[Any]:
        given = self.target if isinstance(self.target, list) else [self.target] * len(self.inputs)
        return [one if callable(one) else explanation.again for one, explanation in zip(given, found, strict=True)]


def parameter_randomisation(
    explainer: Explainer,
    inputs: Sequence[Any],
    *,
    target: Any = None,
    token: Any = None,
    cascading: bool = True,
    seed: int = 0,
) -> Randomised:
    """Randomise parameters from the head down to the embeddings, and explain the same classes again.

    Works on copies; the user's model is not touched. A parameter is replaced by normal noise with its own mean and standard
    deviation, which keeps the order of magnitude of activations.

    Args:
        explainer: whose method is checked.
        inputs: a list of inputs.
        target: what is explained, as an Explainer takes it; by default the class that the trained model predicts.
        token: whose prediction is explained, in models that have one for each token.
        cascading: accumulate the stages, or randomise each alone.
        seed: of the noise.

    Returns:
        A `Randomised`: similarity should fall towards 0. NaN where the scores are constant.
        Source: Adebayo et al., NeurIPS 2018, sections 3.1 (cascading) and 3.2 (independent).
    """
    asked = Asked(list(inputs), target, token)
    before = asked.first(explainer)
    stages = _stages(explainer, lambda own: asked.alone(own, before, 0))
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(explainer.adapter.model)
    found = []
    for names in stages.values():
        if not cascading:
            model = copy.deepcopy(explainer.adapter.model)
        parameters = dict(model.named_parameters())
        for name in names:
            _redraw(parameters[name], generator)
        found.append(rank_correlation(before, asked.again(explainer.like(model), before)))
    return Randomised(tuple(stages), torch.stack(found))


def _redraw(parameter: nn.Parameter, generator: torch.Generator) -> None:
    noise = torch.randn(parameter.shape, generator=generator)
    wide = parameter.detach().float()
    spread = wide.std(correction=0)
    parameter.data.copy_(noise.to(wide) * spread + wide.mean())


def _stages(explainer: Explainer, run: Callable[[Explainer], object]) -> dict[str, list[str]]:
    """Names of parameters from top to bottom: what runs after the blocks, each block, everything else."""
    adapter = explainer.adapter
    model, blocks = adapter.model, dict.fromkeys(adapter.blocks)
    inside = {id(p): number for number, block in enumerate(blocks) for p in block.parameters()}
    behind = {id(p) for module in _run_behind(explainer, run) for p in module.parameters(recurse=False)}
    stages: dict[str, list[str]] = {"head": []}
    stages.update({f"block {number + 1}": [] for number in reversed(range(len(blocks)))})
    stages["embeddings"] = []
    for name, parameter in model.named_parameters():
        number = inside.get(id(parameter))
        outside = "head" if id(parameter) in behind else "embeddings"
        stages[outside if number is None else f"block {number + 1}"].append(name)
    return stages


def _run_behind(explainer: Explainer, run: Callable[[Explainer], object]) -> list[nn.Module]:
    """The modules that run after the last block, seen in one forward pass."""
    order: list[nn.Module] = []
    with _borrowed(explainer) as own, ExitStack() as undo:
        adapter = own.adapter
        for one in adapter.model.modules():
            undo.callback(one.register_forward_hook(lambda module, *_: order.append(module)).remove)
        run(own)
    # A method may run the model several times: the last time counts.
    last = max(place for place, module in enumerate(order) if module is adapter.blocks[-1])
    return order[last + 1 :]


def rank_correlation(first: Sequence[Explanation], second: Sequence[Explanation]) -> Tensor:
    """Spearman's rank correlation of the content tokens' scores, float64 `[N]`; NaN where one of them is constant."""
    import warnings

    from scipy.stats import ConstantInputWarning, spearmanr

    found = []
    for one, other in zip(first, second, strict=True):
        content = ~one.special
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            found.append(float(spearmanr(one.scores[content], other.scores[content]).statistic))
    return torch.tensor(found, dtype=torch.float64)


def label_flip(explainer: Explainer, inputs: Sequence[Any]) -> Tensor:
    """Kendall's tau between the explanations of the predicted class and of the runner-up, on content tokens.

    Returns:
        float64 `[N]`, -1 to 1: 1 means that the method ignores the class. A model with two classes whose logits
        mirror each other should give -1.

    Raises:
        InputError: if the model has one class.
    """
    first, second = explain_two(explainer, inputs)
    pairs = [(a.scores[~a.special], b.scores[~b.special]) for a, b in zip(first, second, strict=True)]
    return kendall_tau([one for one, _ in pairs], [other for _, other in pairs])


def explain_two(
    explainer: Explainer, inputs: Sequence[Any], *, truncation: bool = False
) -> tuple[list[Explanation], list[Explanation]]:
    """The predicted class and the runner-up, explained in one forward pass.

    Raises:
        InputError: if the model has one class.
    """
    pairs = explainer(list(inputs), top_k=2, truncation=truncation)
    if any(len(pair) < 2 for pair in pairs):
        raise InputError("the model has one class: there is no second one to explain")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def completeness_gap(explainer: Explainer, inputs: Sequence[Any]) -> Tensor:
    """How far scores and bias terms are from the explained value, as a share of it.

        |y - sum_i s_i - b| / |y|

    Returns:
        float64 `[N]`, 0 for a complete method; NaN where the value is 0. See `Explanation.completeness`.

    Raises:
        InputError: if the explainer was made without `completeness=True`.
    """
    shares = []
    for explanation in explainer(list(inputs)):
        gap, value = explanation.completeness, explanation.value
        if gap is None:
            raise InputError("the bias terms were not measured: make the Explainer with ", Option("completeness", True))
        shares.append(abs(gap) / abs(value) if value else math.nan)
    return torch.tensor(shares, dtype=torch.float64)


def max_sensitivity(
    explainer: Explainer,
    inputs: Sequence[Any],
    *,
    target: Any = None,
    token: Any = None,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Tensor:
    """The largest relative change of the scores under small noise at the first block's input.

        max over noise d of |S(h + d) - S(h)| / |S(h)|,    d uniform in [-radius, radius] times the deviation of h

    The noise is added there because words cannot change a little; the classes stay those that were explained without noise.
    `target` and `token` are as for an Explainer.

    Returns:
        float64 `[N]`; lower is better. Source: Yeh et al., NeurIPS 2019, definition 2 (on the input), by sampling.
    """
    found = []
    generator = torch.Generator().manual_seed(seed)
    asked = Asked(list(inputs), target, token)
    every = [asked.alone_first(explainer, number) for number in range(len(asked.inputs))]
    for number, clean in enumerate(every):
        worst = 0.0
        for _ in range(samples):
            with _noise(explainer, radius, int(torch.randint(2**31, (), generator=generator))) as noised:
                noisy = asked.alone(noised, every, number)
            worst = max(worst, _distance(noisy, clean))
        found.append(worst)
    return torch.tensor(found, dtype=torch.float64)


@contextmanager
def _borrowed(explainer: Explainer) -> Iterator[Explainer]:
    """The same Explainer of a model that may be written on."""
    with borrowed(explainer.adapter) as adapter:
        own = explainer.like()
        own.adapter = adapter
        yield own


@contextmanager
def _noise(explainer: Explainer, radius: float, seed: int) -> Iterator[Explainer]:
    """An Explainer with the same noise in every pass over the first block."""

    def disturb(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place, state = hidden_state(module, args, kwargs)
        noise = torch.rand(state.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        state = state + (radius * state.detach().float().std() * noise.to(state.device)).to(state.dtype)
        return with_state(place, state, args, kwargs)

    with _borrowed(explainer) as own, ExitStack() as undo:
        undo.callback(own.adapter.blocks[0].register_forward_pre_hook(disturb, with_kwargs=True).remove)
        yield own


def batch_invariance(explainer: Explainer, inputs: Sequence[Any], *, target: Any = None, token: Any = None) -> Tensor:
    """The largest relative difference between the scores of an input alone and in a batch with the others.

    `target` and `token` are as for an Explainer.

    Returns:
        float64 `[N]`; about 1e-6 in float32.
    """
    asked = Asked(list(inputs), target, token)
    together = asked.first(explainer)
    alone = [asked.alone(explainer, together, number) for number in range(len(together))]
    return torch.tensor([_distance(a, b) for a, b in zip(alone, together, strict=True)], dtype=torch.float64)


def _distance(one: Explanation, other: Explanation) -> float:
    """|a - b| / |b|, 0 for two zeros."""
    change, size = float((one.scores - other.scores).norm()), float(other.scores.norm())
    return change / size if size else float(change > 0)


CHECKS: dict[str, Callable[[Explainer, Sequence[Any]], Tensor]] = {
    "label_flip": label_flip,
    "completeness_gap": completeness_gap,
    "max_sensitivity": max_sensitivity,
    "batch_invariance": batch_invariance,
}
"""Checks that give one number per input."""
