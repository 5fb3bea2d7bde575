"""Inputs from which tokens are removed, and what the model then predicts: the basis of every faithfulness metric.

An evaluation asks for thousands of predictions on copies of a few inputs. The copies are sorted by length and batched across
examples and fractions, identical copies are run once, and the passes are plain forward passes: most of the time of an
evaluation is the model's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..capture.blocks import hidden_state, with_state
from ..capture.randomness import OwnRandomness
from ..capture.unwound import unwound
from ..errors import InputError, OptionError, UnsupportedModelError
from ..explainer import Explainer, batches
from ..explanation import Explanation
from ..model import Adapter, Encoding, borrowed, content_of, first_of
from ..model.bound import resolved
from ..model.heads import SpanHead
from ..probabilities import Activation, log_probabilities, settled
from ..tokens import Tokens

Job = tuple[int, Tensor]
"""An example's number, and which of its tokens are removed: bool `[T]`, specials included."""

Scores = Explanation | Tensor | np.ndarray | Sequence[float]
"""One score per token, `[T]`, or one per content token."""


class Ablation:
    """Inputs of one model, and a way to remove tokens from them.

        ablation = Ablation(explainer, texts, how="pad")
        ablation.intact                      # logits [N, C] of the inputs as they are
        ablation.logits([(0, removed), ...])  # logits [J, C] without some tokens

    Args:
        model: an Explainer, whose method does not matter, or an Adapter.
        inputs: texts, pairs of texts, pictures, or model arguments of one example each.
        how: one of the adapter's `removals`: for a text `mask`, `pad` or `delete`, for a picture `zero`, `mean`, `blur`
            or `drop` (patch tokens are removed before the first block); by default the first of these.
        budget: about how many tokens share a forward pass.
        truncation: truncate a text that is longer than the model takes.
        token: whose prediction is watched, for taggers and language models: one, or one per input; see `Explainer`. It is
            found in the intact input, is never removed, and is followed when deletion moves it.

    Raises:
        InputError: if there are no inputs, or one cannot be used.
        OptionError: if the adapter does not know `how`, or the task does not allow it.
    """

    def __init__(
        self,
        model: Explainer | Adapter,
        inputs: Sequence[Any],
        how: str | None = None,
        *,
        budget: int = 4096,
        truncation: bool = False,
        token: Any = None,
    ) -> None:
        if not inputs:
            raise InputError("no inputs: there is nothing to evaluate")
        self.adapter: Adapter = model.adapter if isinstance(model, Explainer) else model
        self.how = self.adapter.removal(how)
        if self.how == "drop" and self.adapter.has_stages:
            raise OptionError(
                f"{type(self.adapter.model).__name__} attends within windows or over coarser and coarser grids, which no token "
                f"can be dropped from: use another removal ({', '.join(self.adapter.removals[:-1])})"
            )
        self.budget = budget
        if self.adapter.head.one_input:
            raise OptionError(
                f"{type(self.adapter.model).__name__} reads every input as several rows ({self.adapter.head.task}), from which "
                "tokens are not removed one by one: explain it, or evaluate a classifier"
            )
        encodings = tuple(_encode(self.adapter, inputs, truncation))
        self._places = [(part, row) for part, e in enumerate(encodings) for row in range(len(e.tokens))]
        self.tokens: tuple[Tokens, ...] = tuple(tokens for e in encodings for tokens in e.tokens)
        if len(self.tokens) != len(inputs):
            raise InputError(
                f"{len(inputs)} inputs hold {len(self.tokens)} examples: give model arguments of one row each"
            )
        if self.how == "delete" and isinstance(self.adapter.head, SpanHead):
            raise OptionError(
                "an answer is a stretch of the text, which delete would break apart: use the removal mask or pad"
            )
        self.encodings = tuple(_pointed(self.adapter, encodings, token, len(inputs)))
        self.content = tuple(content for e in self.encodings for content in _removable(self.adapter, e))
        self.passes = 0
        self._known: dict[tuple[int, bytes], Tensor] = {}
        for number, content in enumerate(self.content):
            if not content.any():
                raise InputError(
                    f"input {number} has only tokens that stay (special, or explained): there is nothing to remove"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def intact(self) -> Tensor:
        """float32 `[N, C]`: the logits of the inputs as they are."""
        return self.logits([(number, torch.zeros_like(content)) for number, content in enumerate(self.content)])

    @property
    def activation(self) -> Activation:
        """How logits become probabilities; `none` for measured values (regression), which have none."""
        return settled(self.adapter.head.activation, self.intact.shape[1])

    @property
    def predicted(self) -> Tensor:
        """int64 `[N]`: the class of the highest logit.

        Raises:
            InputError: if there are several outputs that are measured values.
        """
        if self.activation == "none" and self.intact.shape[1] > 1:
            raise InputError(
                f"the {self.intact.shape[1]} outputs are measured values, none of which is predicted over the others: say "
                "which to watch, e.g. classes=[0, ...]"
            )
        return self.intact.argmax(-1)

    def seconds_per_pass(self) -> float:
        """How long a plain pass takes per input, batched like the copies, in seconds. Measure after a first pass."""
        jobs = [(number, torch.zeros_like(content)) for number, content in enumerate(self.content)]
        with borrowed(self.adapter) as own, OwnRandomness():
            parts = [[jobs[position] for position in batch] for batch in self._batches(jobs)]
            start = time.perf_counter()
            for part in parts:
                self._run(own, part)
        return (time.perf_counter() - start) / len(jobs)

    def logits(self, jobs: Sequence[Job]) -> Tensor:
        """The model's output without some tokens.

        Returns:
            float32 `[J, C]` on the CPU. `passes` counts how many rows were run: earlier results are remembered.

        Raises:
            UnsupportedModelError: if tokens cannot be dropped inside this model.
        """
        keys = [(number, np.packbits(removed.numpy()).tobytes()) for number, removed in jobs]
        new = {key: job for key, job in zip(keys, jobs, strict=True) if key not in self._known}
        names, fresh = list(new), list(new.values())

        def run() -> None:
            with borrowed(self.adapter) as own, OwnRandomness():
                for batch in self._batches(fresh):
                    found = self._run(own, [fresh[position] for position in batch])
                    self.passes += len(batch)
                    self._known.update((names[position], row) for position, row in zip(batch, found, strict=True))

        unwound(run)
        rows = [self._known[key] for key in keys]
        width = max(map(len, rows))  # a longer text has more candidate answers: those that a text lacks are ruled out
        return torch.stack([F.pad(row, (0, width - len(row)), value=-torch.inf) for row in rows])

    def log_probabilities(self, jobs: Sequence[Job], classes: Tensor) -> Tensor:
        """The log-probability of one class per job, float64 `[J]`, by the model's own activation.

        Raises:
            InputError: if the outputs are measured values.
        """
        every = log_probabilities(self.logits(jobs).double(), self.activation)
        return every.gather(1, classes[:, None]).squeeze(1)

    def levels(self, jobs: Sequence[Job], classes: Tensor) -> Tensor:
        """What falls when tokens are removed, float64 `[J]`: the class's probability, or the measured value itself."""
        if self.activation != "none":
            return self.log_probabilities(jobs, classes).exp()
        return self.logits(jobs).double().gather(1, classes[:, None]).squeeze(1)

    def predicts(self, jobs: Sequence[Job], classes: Tensor) -> Tensor:
        """Whether the class is (still) predicted, bool `[J]`: the first of several, or on its own more probable than not.

        True for a measured value, which has no competitor.
        """
        logits = self.logits(jobs)
        if self.activation == "sigmoid":
            return logits.gather(1, classes[:, None]).squeeze(1) > 0
        return torch.ones_like(classes).bool() if self.activation == "none" else logits.argmax(-1) == classes

    def _batches(self, jobs: Sequence[Job]) -> Iterator[list[int]]:
        """Positions of jobs that can share a forward pass and are of similar length."""
        shrinks = self.how in ("delete", "drop")
        left = [len(removed) - shrinks * int(removed.sum()) for _, removed in jobs]
        apart: dict[tuple[int, int], list[int]] = {}
        for position, (number, _) in enumerate(jobs):
            # Rows without some tokens and without padding have to be equally long.
            alike = left[position] if self.how == "drop" else 0
            apart.setdefault((self._places[number][0], alike), []).append(position)
        size = None if self.adapter.can_batch else 1
        for positions in apart.values():
            for batch in batches([left[position] for position in positions], size, self.budget):
                yield [positions[index] for index in batch]

    def _run(self, own: Adapter, jobs: Sequence[Job]) -> Tensor:
        places = [self._places[number] for number, _ in jobs]
        batch = self.encodings[places[0][0]].rows([row for _, row in places])
        removed = _aligned([removed for _, removed in jobs], batch)
        # Not inference_mode: what a model caches in this pass has to serve in a backward pass later.
        with torch.no_grad(), self._dropping(own, batch, removed) if self.how == "drop" else nullcontext():
            if self.how != "drop" and removed.any():
                batch = self.adapter.remove(batch, removed, self.how)
            found = own.predict(batch)[1].float().cpu()
        # Of very many classes some may be ruled out with -inf, e.g. the spans that are not an answer.
        if not (found if self.adapter.head.kept is None else found.max(-1).values).isfinite().all():
            raise InputError(
                f"the model's logits are not finite when tokens are removed by {self.how}: use another removal"
            )
        return found

    @contextmanager
    def _dropping(self, own: Adapter, batch: Encoding, removed: Tensor) -> Iterator[None]:
        """Remove tokens from the first block's input while the model runs."""
        hook = _without(removed, content_of(batch), own.position_axis)
        handle = own.blocks[0].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise UnsupportedModelError(
                f"{type(self.adapter.model).__name__} cannot run without some of its tokens (positions inside its blocks?): "
                f"use another removal ({', '.join(self.adapter.removals[:-1])}); it said: {error}"
            ) from error
        finally:
            handle.remove()


Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def _without(removed: Tensor, content: Tensor, position_axis: int = 1) -> Hook:
    """A hook that hands a block its hidden state without removed tokens, as many in each row.

    The state is `[B, T, D]`, or has its positions along another axis, as an adapter's `position_axis` says.
    Where no content would be left (a head may average over it), one token with the mean state stays.
    """
    empty = bool((removed | ~content).all())
    first = first_of(content)
    kept = (~removed | (first if empty else False)).nonzero()[:, 1].reshape(len(removed), -1)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place, own = hidden_state(module, args, kwargs)
        state = own.transpose(1, position_axis)
        if empty:
            share = content[:, :, None].to(state.dtype)
            mean = (state * share).sum(1, keepdim=True) / share.sum(1, keepdim=True)
            state = torch.where(first[:, :, None], mean, state)
        state = state.gather(1, kept[:, :, None].expand(-1, -1, state.shape[-1]))
        return with_state(place, state.transpose(1, position_axis), args, kwargs)

    return hook


def _encode(adapter: Adapter, inputs: Sequence[Any], truncation: bool) -> Iterator[Encoding]:
    if adapter.can_batch and not any(isinstance(value, Mapping) for value in inputs):
        for _, alike in groupby(inputs, adapter.alike):
            yield adapter.encode(list(alike), truncation=truncation)
        return
    for value in inputs:
        mapping = isinstance(value, Mapping)
        yield adapter.encode_arguments(value) if mapping else adapter.encode([value], truncation=truncation)


def _pointed(adapter: Adapter, encodings: Sequence[Encoding], token: Any, count: int) -> Iterator[Encoding]:
    """The encoding with the position whose prediction is watched, as in the intact inputs."""
    tokens = token if isinstance(token, list) else [token] * count
    if len(tokens) != count:
        raise InputError(f"{len(tokens)} tokens for {count} inputs: give one, or one per input")
    named = iter(tokens)
    for encoding in encodings:
        yield resolved(adapter, adapter.head.point(encoding, [next(named) for _ in encoding.tokens]))


def _removable(adapter: Adapter, encoding: Encoding) -> Iterator[Tensor]:
    """For each example of a batch, the tokens that may be removed, bool `[T]` without padding."""
    content = content_of(encoding) & ~adapter.head.pinned(encoding)
    yield from (row[real].cpu() for row, real in zip(content, encoding.mask, strict=True))


def _aligned(removed: Sequence[Tensor], batch: Encoding) -> Tensor:
    """Which positions of a padded batch are removed, bool `[B, T]`."""
    found = torch.zeros_like(batch.mask)
    found[batch.mask] = torch.cat(list(removed)).to(found.device)
    return found


def content_scores(ablation: Ablation, scores: Sequence[Scores]) -> list[Tensor]:
    """The scores of each example's content tokens, float64 `[n]`, from wherever they come.

    Args:
        ablation: the inputs.
        scores: one entry per input: an Explanation, or one number per token, specials included or left out.

    Raises:
        InputError: if the numbers do not fit the tokens, or are not finite.
    """
    if len(scores) != len(ablation):
        raise InputError(f"{len(scores)} lists of scores for {len(ablation)} inputs: give one per input")
    return [_checked(number, values, ablation.content[number]) for number, values in enumerate(scores)]


def as_tensor(values: Scores) -> Tensor:
    """Scores from wherever they come as float64 on the CPU."""
    plain = values.scores if isinstance(values, Explanation) else values
    return torch.as_tensor(plain, dtype=torch.float64).detach().cpu()


def _checked(number: int, values: Scores, content: Tensor) -> Tensor:
    found = as_tensor(values)
    tokens, inner = len(content), int(content.sum())
    if found.dim() != 1 or len(found) not in (tokens, inner):
        raise InputError(
            f"input {number} has {tokens} tokens, of which {inner} are not special, but scores of shape {tuple(found.shape)}: "
            "give one score per token, with or without the special ones"
        )
    found = found[content] if len(found) == tokens else found
    if not found.isfinite().all():
        raise InputError(f"the scores of input {number} are not all finite")
    return found
