"""What every model and its adapter have to promise, checked on one model: `check_adapter`, and `attcat check`.

Each check measures one number and compares it with a limit. Nothing is taken on the adapter's word: attention is compared with
its matrix, gradients with finite differences, what the head reads with what happens when it is changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .capture.attention import Call, parts_of
from .capture.modes import Uncut, run_under
from .capture.rules import make_rule
from .capture.unwound import unwound
from .errors import CaptureError, InputError
from .methods import METHODS
from .model import Adapter, Encoding, SignalAdapter, TextAdapter, VisionAdapter
from .model.discovered import adapter_of
from .model.discovered.experiments import (
    FAILURES,
    differ,
    distance,
    encoding_of,
    first_states,
    logits_of,
    logits_without,
    mixed,
    ordinary_tokens,
    picture_size,
    placed,
    rounding,
)
from .model.discovered.mixed import DiscoveredMixed
from .model.discovered.painted import painted_off
from .model.heads import Head, Token
from .trace import (
    Recording,
    Trace,
    in_float64,
    incompleteness,
    looks_back,
    one_attention,
    passed_by,
    past_the_blocks,
    record,
    slope_error,
)


@dataclass(frozen=True)
class Check:
    """One promise, and what was measured.

    Args:
        name: what is promised.
        passed: whether the measured figure is within the limit; None if the check does not apply, `advice` says why.
        measured: the figure.
        limit: the highest figure that passes.
        advice: what a failure means and what to do about it.
    """

    name: str
    passed: bool | None
    measured: float
    limit: float
    advice: str

    def __str__(self) -> str:
        if self.passed is None:
            return f"not asked  {self.name}: {self.advice}"
        figure = f"{self.measured:.3g} (limit {self.limit:.3g})"
        return (
            f"passed     {self.name}: {figure}" if self.passed else f"failed     {self.name}: {figure}; {self.advice}"
        )


def check_adapter(
    model: nn.Module, processor: Any = None, inputs: Any = None, *, token: Token | list[Token] = None
) -> list[Check]:
    """Check everything that an explanation relies on.

    Args:
        model: a model with its head, served by an adapter or not.
        processor: its tokenizer, image processor or transform; None to check with ready-made model arguments.
        inputs: what to check with, as for `Explainer`, preferably of different lengths; by default two texts that suit the
            head, or token numbers or noise of the model's own size.
        token: for heads that predict tokens, whose prediction is checked, as for `Explainer`; by default the head's own
            choice, or the second word.

    Returns:
        One `Check` per promise, in a fixed order; for a model with two sides, e.g. CLIP, those of each side.

    Raises:
        UnsupportedModelError: if no adapter serves the model, and inspecting it does not replace one.
        InputError: if there are no default inputs for this kind of adapter.
        OutOfMemoryError: if the device has too little memory for the model and a copy of it.
    """
    return unwound(partial(_every_check, model, processor, inputs, token))


def _every_check(model: nn.Module, processor: Any, inputs: Any, token: Token | list[Token]) -> list[Check]:
    adapter = adapter_of(model, processor)
    inputs = _default_inputs(adapter) if inputs is None else inputs
    towers = adapter.towers
    sides = [f"{tower.family}: " if len(towers) > 1 else "" for tower in towers]
    return [check for tower, side in zip(towers, sides, strict=True) for check in _checks(tower, inputs, token, side)]


def _checks(adapter: Adapter, inputs: Any, token: Token | list[Token], side: str) -> Iterator[Check]:
    """The checks of one side of a model, with its name in front."""
    bench = _Bench(adapter, _encode(adapter, inputs, token))
    for promise, (advice, measure) in CHECKS.items():
        name = side + promise
        try:
            measured, limit = measure(bench)
        except _NotAsked as reason:
            yield Check(name, None, 0.0, 0.0, str(reason))
        except CaptureError as error:
            yield Check(name, False, float("inf"), 0.0, str(error))
        else:
            yield Check(name, bool(measured <= limit), float(measured), float(limit), advice)


class _NotAsked(Exception):  # noqa: N818 - an answer, not an error
    pass


def _encode(adapter: Adapter, inputs: Any, token: Token | list[Token]) -> Encoding:
    """The batch to check with, and the tokens whose predictions are checked, where the head has one for each."""
    if isinstance(inputs, Encoding):
        encoding = inputs
    elif isinstance(inputs, Mapping):
        encoding = adapter.encode_arguments(inputs)
    else:
        listed = list(inputs) if isinstance(inputs, list) else [inputs]
        encoding = adapter.encode(listed if adapter.can_batch else listed[:1])
    rows = range(len(encoding.tokens))
    if token is None:
        return adapter.head.point(encoding, [adapter.head.trial(encoding, row) for row in rows])
    return adapter.head.point(encoding, token if isinstance(token, list) else [token for _ in rows])


def _default_inputs(adapter: Adapter) -> Any:
    samples = adapter.samples()
    if samples is not None:
        return samples
    if isinstance(adapter, TextAdapter):
        if not adapter.can_batch and adapter.streams is not None and adapter.trial is not None:
            return adapter.trial  # a source and what follows it
        if not adapter.can_batch:
            ids = ordinary_tokens(adapter, adapter.fixed_length or 9)
            return encoding_of(adapter, ids[None], torch.ones(1, len(ids), dtype=torch.long))
        ids, mask = ordinary_tokens(adapter, 9).repeat(2, 1), torch.ones(2, 9, dtype=torch.long)
        ids[1, 5], mask[1, 6:] = ids[0, -1], 0  # each ends as texts of this model do
        return encoding_of(adapter, ids.masked_fill(mask == 0, adapter.pad_id or 0), mask)
    if isinstance(adapter, SignalAdapter) and adapter.trial is not None:
        return adapter.trial
    if isinstance(adapter, VisionAdapter):
        size = (2, 3, *picture_size(adapter))
        return {"pixel_values": torch.randn(size, generator=torch.Generator().manual_seed(0))}
    raise InputError(
        f"{type(adapter).__name__} is neither a TextAdapter nor a VisionAdapter: give inputs to check with"
    )


@dataclass
class _Bench:
    """A model, a batch, and what has been measured with them so far."""

    adapter: Adapter
    encoding: Encoding

    def record(self, rule: str, **options: Any) -> Recording:
        return record(self.adapter, self.encoding, make_rule(rule), **options)

    @cached_property
    def logits(self) -> Tensor:
        return logits_of(self.adapter, self.encoding)

    @cached_property
    def classes(self) -> Tensor:
        """The predicted classes, `[B]`."""
        return self.logits.argmax(-1)

    def explained(self, logits: Tensor) -> Tensor:
        """The logits of the predicted classes, `[B]`, in another pass's logits `[B, C]`."""
        return logits.gather(1, self.classes[:, None]).squeeze(1)

    @property
    def padding(self) -> Tensor:
        return ~self.encoding.mask

    def row(self, row: int) -> _Bench:
        """One example of the batch, without its padding."""
        return _Bench(self.adapter, self.encoding.alone(row))

    @cached_property
    def double(self) -> _Bench:
        """The first example, with a copy of the model in float64."""
        return self._in_float64(wide=False)

    @cached_property
    def wide(self) -> _Bench | None:
        """The same, where the model's code makes no tensor in float32 either; None if it cannot run so."""
        try:
            return self._in_float64(wide=True)
        except _NotAsked:
            return None

    def _in_float64(self, wide: bool) -> _Bench:
        try:
            adapter, one = in_float64(self.adapter, self.encoding.alone(0), wide)
            logits_of(adapter, one)  # not every kernel takes float64
        except (*FAILURES, NotImplementedError) as error:
            raise _NotAsked(f"the model cannot be copied in float64 ({str(error).partition(chr(10))[0]})") from error
        return _Bench(adapter, one)


def _finite(logits: Tensor) -> Tensor:
    """Logits with 0 for the classes that are ruled out, e.g. the spans that are not an answer."""
    return logits.masked_fill(logits == -torch.inf, 0.0)


# -- the checks: each measures a figure, and names the limit ---------------------------------------------------------

Measured = tuple[float, float]


def _attention_calls(bench: _Bench) -> Measured:
    blocks = bench.record("plain").blocks
    if len(blocks) != len(bench.adapter.blocks):
        return abs(len(blocks) - len(bench.adapter.blocks)), 0
    for index in _attending(bench):
        one_attention(index, blocks[index])
    return 0, 0


def _tokens(bench: _Bench) -> Measured:
    state = bench.record("plain").inputs[0]
    return abs(state.shape[1] - bench.encoding.mask.shape[1]), 0


def _rows(bench: _Bench) -> Measured:
    recording, sums = bench.record("plain"), []
    with torch.no_grad():
        for index in _attending(bench):
            for part in parts_of(one_attention(index, recording.blocks[index])):
                matrix = part.weights() if isinstance(part, Call) else part  # with the column of a sink
                sums.append(matrix.sum(-1).mean(1)[bench.encoding.mask])
    return max(float((s - 1).abs().max()) for s in sums), _loose(sums[0])


def _padding_receives(bench: _Bench) -> Measured:
    if not bench.padding.any():
        raise _NotAsked("the inputs have no padding")
    trace = _trace(bench, "plain")
    worst = 0.0
    for matrix in _matrices(bench):
        received = matrix.transpose(1, 2)[bench.encoding.mask].mean(1)  # a row for each real query
        hidden = bench.padding[:, None].expand(-1, matrix.shape[2], -1)[bench.encoding.mask]
        worst = max(worst, float(received[hidden].abs().max()))
    return max(worst, *(float(w[bench.padding].abs().max()) for w in trace.received)), 1e-6


def _received(bench: _Bench) -> Measured:
    mask = bench.encoding.mask.float()
    weights = mask / mask.sum(-1, keepdim=True)
    recording, worst = bench.record("plain"), 0.0
    with torch.no_grad():
        for index in _attending(bench):
            for part in parts_of(one_attention(index, recording.blocks[index])):
                if isinstance(part, Call):
                    matrix = part.weights()
                    expected = torch.einsum("bq,bhqk->bk", weights.to(matrix.dtype), matrix) / matrix.shape[1]
                    worst = max(worst, distance(expected, part.received(weights, chunk=1)))
    return worst, _loose(weights)


COARSE = (1e-2, 1e-1, 1e-3)
"""Finite differences in float32."""


def _finite_difference(bench: _Bench) -> Measured:
    exact, limit = bench.double, 5e-3
    error = slope_error(exact.adapter, exact.encoding)
    if (error is None or not error <= limit) and bench.wide is not None:  # a small effect drowns in logits of float32
        again = slope_error(bench.wide.adapter, bench.wide.encoding)
        exact, error = (exact, error) if again is None or math.isnan(again) else (bench.wide, again)
    if error is not None and limit < error <= CUT:
        with _uncut(exact.adapter.model):
            error = slope_error(exact.adapter, exact.encoding)
    if error is not None and math.isnan(error):
        # In float64 some compute what they do not in their own type: a mask of float64's lowest number, cast, is infinite.
        own = bench.row(0)
        error, limit = slope_error(own.adapter, own.encoding, COARSE), 5e-2
    if error is None:
        raise _NotAsked("neither pixels, samples nor word embeddings can be moved with an effect on the logits")
    return error, limit


CUT = 2e-2
"""A model may itself end gradients (`x.detach()`, as detectors do of the queries that they select), as far as the explainer
allows on first use: what is asked then is whether the gradient would be right without."""


@contextmanager
def _uncut(model: nn.Module) -> Iterator[None]:
    """Let gradients through where the model's own code detaches a tensor; what we detach in it stays so."""
    remove = run_under(model, Uncut)
    try:
        yield
    finally:
        remove()


def _mixed(bench: _Bench) -> Measured:
    one = bench.row(0)
    if not isinstance(one.adapter, TextAdapter) or "input_ids" not in one.encoding.arguments:
        raise _NotAsked("the model reads no words")
    return sum(len(places) for places in mixed(one.adapter, one.encoding).values()), 0


def _passed_by(bench: _Bench) -> Measured:
    one = bench.row(0)
    past = past_the_blocks(one.adapter, one.encoding)
    if past is None:
        raise _NotAsked("neither word embeddings nor pixels can be differentiated by")
    around = (
        0 if one.adapter.passes_state and one.adapter.streams is None else len(passed_by(one.adapter, one.encoding))
    )
    return past + around, 0


def _classes(bench: _Bench) -> Measured:
    one = bench.row(0)
    if not isinstance(one.adapter, TextAdapter) or type(one.adapter.head) is not Head:
        raise _NotAsked("the model classifies no text as a whole")
    length = one.encoding.mask.shape[1] - sum(one.adapter.own_tokens) - 1
    if length < 1 or one.adapter.fixed_length:
        raise _NotAsked("the text cannot be shorter")
    cut, tokens = length // 2, one.encoding.tokens[0]
    if tokens.places is not None:  # of which there are as many as placeholders
        cut = next(at for at, place in enumerate(tokens.places) if place is None and not tokens.special[at])
    kept = [place for place in range(length + 1) if place != cut]  # some models need the end of the text
    shorter = {n: v[:, kept] if v.shape[1:] == (length + 1,) else v for n, v in one.encoding.arguments.items()}
    logits = logits_of(one.adapter, one.adapter.encode_arguments(shorter))
    return abs(logits.shape[1] - logits_of(one.adapter, one.encoding).shape[1]), 0


def _untouched(bench: _Bench) -> Measured:
    expected = _finite(bench.logits)
    worst = max(distance(expected, _finite(bench.record(rule).logits.detach())) for rule in ("plain", "libra"))
    return worst, _loose(bench.logits)


def _reads(bench: _Bench) -> Measured:
    if bench.adapter.has_stages:
        raise _NotAsked("its last block has a coarser grid than its tokens")
    if bench.adapter.reads_several:
        raise _NotAsked("its head has the states of several blocks")
    one = bench.row(0)
    read = one.adapter.head.read(one.encoding, one.classes)[0]
    unread = (~read).nonzero().flatten().tolist()
    wrong = int(bool(unread) and _matter(one, unread))
    positions = read.nonzero().flatten().tolist()
    for position in positions[:: max(1, len(positions) // 8)]:
        # One of many tokens may move one logit by less than rounding: then float64 decides.
        wrong += not (_matter(one, [position]) or _matter(bench.double, [position]))
    return wrong, 0


def _matter(one: _Bench, positions: list[int]) -> bool:
    """Whether the explained logit is another when the last block passes on other states at some positions."""
    before = one.explained(one.logits)
    return differ(before, one.explained(logits_without(one.adapter, one.encoding, positions)))


def _ahead(bench: _Bench) -> Measured:
    said = bench.adapter.causal
    if said is None or bench.adapter.streams is not None:
        raise _NotAsked(
            "the adapter does not say whether its tokens see those behind them, which is found on first use"
        )
    found = looks_back(bench.adapter, bench.encoding)
    if found is None:
        raise _NotAsked("a single token")
    return int(found is not said), 0


def _alone(bench: _Bench) -> Measured:
    if len(bench.encoding.tokens) < 2 or bench.adapter.head.one_input:
        raise _NotAsked("one input at a time" if not bench.adapter.can_batch else "a single input was given")
    together, worst = _scores(bench), 0.0
    for row in range(len(bench.encoding.tokens)):
        one = bench.row(row)
        alone = _scores(one)[:, 0, one.encoding.mask[0]]
        worst = max(worst, distance(alone, together[:, row, bench.encoding.mask[row]]))
    return worst, 10 * _loose(bench.logits)


def _size(bench: _Bench) -> tuple[int, int]:
    """Height and width of the pixels that the model is given."""
    if not isinstance(bench.adapter, VisionAdapter):
        raise _NotAsked("the model reads text")
    pixels = bench.encoding.arguments["pixel_values"]
    if pixels.dim() != 4:
        raise _NotAsked("the model is given patches of a picture in a row, not its pixels")
    return pixels.shape[-2], pixels.shape[-1]


def _grid(bench: _Bench) -> Measured:
    adapter = bench.adapter
    height, width = _size(bench)
    assert isinstance(adapter, VisionAdapter)
    (rows, columns), (down, across) = adapter.grid(height, width), adapter.patch_size
    return abs(rows * down - height) + abs(columns * across - width), 0


def _placed(bench: _Bench) -> Measured:
    adapter = bench.adapter
    if isinstance(adapter, SignalAdapter):
        return _off(bench.row(0), adapter), 1
    reader = getattr(adapter, "sense", adapter)
    if isinstance(reader, DiscoveredMixed):
        found_off = painted_off(reader, bench.encoding)
        if found_off is None:
            raise _NotAsked("there is no picture among the inputs whose tokens lie in places on it")
        return found_off
    height, width = _size(bench)
    assert isinstance(adapter, VisionAdapter)

    def states_of(pixels: Tensor) -> Tensor:
        repeated = bench.row(0).encoding.rows([0] * len(pixels))
        encoding = replace(repeated, arguments={**repeated.arguments, **adapter.place({"pixel_values": pixels})})
        state = adapter.aligned(0, _turned(adapter, first_states(adapter, encoding)[0]))
        return state[:, : state.shape[1] - len(adapter.suffix)]

    found = placed(states_of, (height, width), adapter.grid(height, width), adapter.patch_size)
    if found is None or found.before:
        return float("inf"), 0
    return found.off, 0 if found.alone else 1


def _turned(adapter: Adapter, state: Tensor) -> Tensor:
    """A block's input with the examples in front, `[B, T, D]`."""
    return state if adapter.position_axis == 1 else state.transpose(1, adapter.position_axis)


def _off(bench: _Bench, adapter: SignalAdapter) -> float:
    """By how many tokens the one that changes most lies from that whose part of the input is replaced, at worst."""
    given = bench.encoding.arguments[adapter.continuous]
    places = adapter.places(tuple(given.shape[1:]))
    boxes, content = places.boxes, (~places.special).nonzero()[0]
    other = torch.randn(given.shape, generator=torch.Generator().manual_seed(1)).to(given) * given.std()
    states, worst = [], 0.0
    tried = content[:: max(1, len(content) // 5)]
    for place in (None, *tried):
        changed = given.clone()
        if place is not None:
            area = places.area(place)
            changed[0][area] = other[0][area]
        encoding = replace(bench.encoding, arguments={**bench.encoding.arguments, adapter.continuous: changed})
        states.append(adapter.aligned(0, _turned(adapter, first_states(adapter, encoding)[0]))[0])
    for place, state in zip(tried, states[1:], strict=True):
        found = int((state - states[0]).norm(dim=-1).argmax())
        away = np.abs(boxes[found].mean(1) - boxes[place].mean(1)) / np.diff(boxes[place])[:, 0]
        worst = max(worst, float("inf") if np.isnan(away).any() else float(away.max()))
    return worst


def _offsets(bench: _Bench) -> Measured:
    worst, asked = 0.0, False
    for source, tokens in zip(bench.encoding.sources, bench.encoding.tokens, strict=True):
        if not isinstance(source, (str, tuple)) or tokens.spans is None:
            continue
        asked = True
        for segment, text in enumerate((source,) if isinstance(source, str) else source):
            covered = [False] * len(text)
            for index, span in enumerate(tokens.spans):
                if span is not None and ((tokens.segments[index] if tokens.segments else 0) or 0) == segment:
                    covered[span[0] : span[1]] = [True] * (span[1] - span[0])
            missing = sum(not seen and not c.isspace() for seen, c in zip(covered, text, strict=True))
            worst = max(worst, missing / len(text))
    if not asked:
        raise _NotAsked("no text with character offsets (a fast tokenizer gives them)")
    return worst, 0


def _complete(bench: _Bench) -> Measured:
    try:
        exact = bench.double
    except _NotAsked:
        exact = bench.row(0)  # less exact, but the same question
    limit = 1e-4 if exact.logits.dtype == torch.float64 else 300 * _loose(exact.logits)
    return incompleteness(exact.adapter, exact.encoding), limit


def _left(bench: _Bench) -> Measured:
    _trace(bench, "libra")  # some models fill caches in their first call
    before = snapshot(bench.adapter.model)
    _trace(bench, "libra")
    return len(changes(before, snapshot(bench.adapter.model))), 0


CHECKS: dict[str, tuple[str, Callable[[_Bench], Measured]]] = {
    "one attention call per block": ("the adapter's blocks are not those that are called", _attention_calls),
    "tokens line up with hidden states": ("encode() names another number of tokens than the blocks have", _tokens),
    "attention rows sum to 1": ("what was taken for attention weights is something else", _rows),
    "padding receives no attention": (
        "the model attends to padding: is the attention mask passed on?",
        _padding_receives,
    ),
    "chunked received attention equals the matrix's": (
        "this is a bug in AttCAT: please report the model",
        _received,
    ),
    "gradients agree with finite differences": (
        "a part of the forward pass is not differentiated, or there is a way past the first block's input",
        _finite_difference,
    ),
    "a word is seen at its own token before the first block": (
        "tokens are mixed below the first block: name the layers that do it as blocks",
        _mixed,
    ),
    "every path leads through the blocks": (
        "what these blocks take is not the hidden state: blocks of another adapter, or a sum outside of them",
        _passed_by,
    ),
    "as many classes for a shorter text": ("the model gives a number for each token, not for each class", _classes),
    "explaining leaves the logits untouched": (
        "an operation is replaced that this model uses in another way",
        _untouched,
    ),
    "the head reads the tokens that it is said to": ("override read() of the adapter", _reads),
    "tokens see as far as they are said to": ("set causal of the adapter, or leave it out", _ahead),
    "the same scores alone and in a batch": ("padding or neighbours change the scores: set can_batch = False", _alone),
    "grid times patch size is the picture": ("patch_size or grid() does not fit; pixels are left over", _grid),
    "a patch is seen at its own token": (
        "rows or columns (of a sound, moments) by which the worst is off: patch_size, grid() or prefix do not fit",
        _placed,
    ),
    "offsets rebuild the text": ("the share of characters that no token covers: another tokenizer?", _offsets),
    "complete under libra": ("gradient times input misses a part of the logit: use the gradient rule plain", _complete),
    "the model is left as it was found": ("an attribute, hook or flag changed: see attcat.testing.snapshot", _left),
}


def _matrices(bench: _Bench) -> list[Tensor]:
    recording = bench.record("plain", attention=True)
    return [recording.matrix(index).detach() for index in _attending(bench)]


def _attending(bench: _Bench) -> list[int]:
    if bench.adapter.streams is not None:
        raise _NotAsked(bench.adapter.streams.apart)
    if bench.adapter.has_stages:
        raise _NotAsked("its blocks attend within windows or over coarser grids, not over all tokens")
    attending = [index for index, attends in enumerate(bench.adapter.attends) if attends]
    if not attending:
        raise _NotAsked("no block attends over all tokens")
    return attending


def _trace(bench: _Bench, rule: str) -> Trace:
    recording = bench.record(rule)
    return recording.trace(recording.logits[:, 0], needs=METHODS[_weighed(bench)].needs)


def _scores(bench: _Bench) -> Tensor:
    return METHODS[_weighed(bench)].function(_trace(bench, "libra"))


def _weighed(bench: _Bench) -> str:
    """A method that reads as much attention as there is."""
    streams = bench.adapter.streams
    return "attcat" if (streams.weighs if streams is not None else any(bench.adapter.attends)) else "cat"


def _loose(like: Tensor) -> float:
    """Three times what rounding explains when sums are taken in another order."""
    return 3 * rounding(like)


# -- the model before and after --------------------------------------------------------------------------------------


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that an explanation must not change, by name.

    Tensors are kept as the sum of their values and torch's count of changes in place.
    """
    config: Any = getattr(model, "config", None)
    found: dict[str, Any] = {"grad mode": torch.is_grad_enabled(), "random state": torch.get_rng_state().tolist()}
    for name, module in model.named_modules():
        hooks = [
            len(vars(module).get(kind, ())) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ]
        found[f"{name or 'model'}: hooks"] = hooks
        found[f"{name or 'model'}: training"] = module.training
        found[f"{name or 'model'}: attributes"] = sorted(vars(module))
        flags = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
        found[f"{name or 'model'}: values"] = flags
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        gradient = None if tensor.grad is None else float(tensor.grad.double().sum())
        kept: tuple[Any, ...] = ()  # offloaded weights are placeholders, made anew after each call
        if tensor.device.type != "meta":
            plain = type(tensor) in (Tensor, nn.Parameter)  # quantised ones have no sum
            kept = (id(tensor), tensor._version, float(tensor.detach().double().sum()) if plain else None)
        found[f"{name}: tensor"] = (tensor.requires_grad, gradient, *kept)
    if hasattr(config, "to_dict"):
        found["config"] = copy.deepcopy(config.to_dict())
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names under which two snapshots differ."""
    return [name for name in {**before, **after} if before.get(name, _GONE) != after.get(name, _GONE)]


_GONE = object()
