"""One batch, one forward pass, many targets: one backward pass and one Explanation per target of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..attribution import read_only
from ..capture.relevance import Relevance
from ..errors import InputError, Option, TargetError
from ..explanation import Explanation
from ..model import Adapter, Encoding
from ..model.bound import resolved
from ..targets import Goal, Rank, Target
from ..trace import Hidden, Passes, Recording, Trace, record
from . import tower
from .proof import settle
from .rows import ALL
from .settings import Settings


@dataclass(frozen=True)
class BatchExplainer:
    """Explains batches for one model, or for one side of a model that has two.

    Args:
        adapter: the adapter of the model, or of the side.
        given: how to explain, for any model.
        through_tower: carry the scores of pictures' tokens on to the patches of the vision tower.
    """

    adapter: Adapter
    given: Settings
    through_tower: bool = False

    @property
    def settings(self) -> Settings:
        """How to explain this model: with what suits its head, and the order in which its tokens see each other."""
        return self.given.of_head(self.adapter.head).of_order(self.adapter.causal)

    def explain(self, encoding: Encoding, targets: Sequence[Sequence[Target]]) -> list[list[Explanation]]:
        """One forward pass; one backward pass and one Explanation per target of an input."""
        encoding = replace(encoding, sources=tuple(map(read_only, encoding.sources)))  # copied once for all targets
        encoding, head = resolved(self.adapter, encoding), self.adapter.head
        recording = self.record(encoding)
        rows, count = range(len(encoding.tokens)), recording.logits.shape[1]
        labels = [head.labels(encoding, row, count) for row in rows]
        every = [self.listed(targets[0 if head.one_input else row], count) for row in rows]
        if head.aims:
            pairs = zip(every, recording.logits.detach(), strict=True)
            every = [[head.prefer(target, logits) for target in row] for row, logits in pairs]
        rounds = max(map(len, every))
        found: list[list[Explanation]] = [[] for _ in targets]
        for index in range(rounds):
            measure = partial(head.measure, self.settings.quantity)
            goal = Goal.of(recording.logits, [row[index] for row in every], labels, measure)
            read = replace(recording, read=head.read(encoding, goal.classes))
            explained = self._once(encoding, read, goal, labels, index < rounds - 1)
            for explanations, row in zip(found, head.shown(encoding, goal.classes), strict=True):
                explanations.append(explained[row])
        return found

    def listed(self, targets: Any, count: int) -> list[Any]:
        """The targets of a row one by one, when there are `count` classes."""
        head = self.adapter.head
        if targets is ALL:
            if head.kept is not None:
                raise TargetError(
                    f"{count} classes are too many to explain all of them: use ",
                    Option("top_k", 3),
                    ", or a list of targets",
                )
            return list(range(count))
        if head.activation == "none" and count > 1 and any(one is None or isinstance(one, Rank) for one in targets):
            raise TargetError(
                f"the {count} outputs are measured values, none of which is predicted over the others: name one, e.g. ",
                Option("target", 0),
                "; or all, with ",
                Option("target", "all"),
            )
        return [one for one in targets if not isinstance(one, Rank) or one.place < count]

    def _once(
        self, encoding: Encoding, recording: Recording, goal: Goal, labels: list[Sequence[str]], keep: bool
    ) -> list[Explanation]:
        trace = self._trace(recording, goal, encoding, keep)
        passes = Passes(self.adapter, encoding, goal, self.settings.make_rule, self._hidden)
        contributions = self.contributions(trace, passes)
        for name, values in {"value": trace.value, "bias": trace.bias, **passes.measured}.items():
            self._check_finite(name, values)
        mask, head = trace.mask.cpu(), self.adapter.head
        classes, against = goal.classes.tolist(), goal.against.tolist()
        chosen = [
            Chosen.of(logits, [classes[row], against[row]], head.kept)
            for row, logits in enumerate(trace.logits.float().cpu())
        ]
        found = [
            Explanation(
                layers=contributions[:, row, mask[row]],
                tokens=tokens,
                logits=chosen[row].logits,
                target=chosen[row].place(classes[row]),
                against=chosen[row].place(against[row]),
                labels=tuple(
                    head.titled(labels[row][index], encoding, row, recording.output)
                    if index == classes[row]
                    else labels[row][index]
                    for index in chosen[row].classes
                ),
                task=head.task,
                activation=head.activation,
                rest=chosen[row].rest,
                position=head.position(encoding, row),
                answers=head.answers(encoding, row, chosen[row].classes),
                classes=None if head.kept is None else tuple(chosen[row].classes),
                method=self.settings.method.name,
                options=self.options_of(classes[row], against[row]) | _placed(head.place_of(encoding, row)),
                source=encoding.sources[row],
                model=type(self.adapter.model).__name__,
                dropped=encoding.dropped[row],
                value=float(trace.value[row]),
                bias=self.bias_of(trace, row),
                measured={name: float(values[row]) for name, values in passes.measured.items()},
            )
            for row, tokens in enumerate(encoding.tokens)
        ]
        if not self.through_tower:
            return found
        return [tower.carried(self.adapter, self.settings, encoding, trace, contributions, one) for one in found]

    def options_of(self, target: int, against: int) -> dict[str, Any]:
        """What a row was explained with: a function and a contrast are explained as they are, whatever the quantity."""
        options = self.settings.options
        if self.settings.needs.order and self.adapter.causal:
            options["causal"] = True
        if target < 0 or against >= 0:
            options.pop("quantity", None)
        return options

    def _trace(self, recording: Recording, goal: Goal, encoding: Encoding, keep: bool) -> Trace:
        with torch.enable_grad():
            value = goal.value(recording.output, recording.logits)
        needs, queries = self.settings.needs, self.settings.queries
        trace = recording.trace(value, goal.classes, needs=needs, hidden=self._hidden, queries=queries, keep=keep)
        if not self.settings.method.needs.relevance:
            return trace
        again = record(self.adapter, encoding, Relevance())
        with torch.enable_grad():
            relevance, of_attention = again.relevance(goal.value(again.output, again.logits))
        return replace(trace, relevance=relevance, attention_relevance=of_attention)

    @property
    def _hidden(self) -> Hidden:
        return self.settings.hidden if self.settings.method.states else "input"

    def record(self, encoding: Encoding) -> Recording:
        """One forward pass under the rule, with what the method reads."""
        needs = self.settings.needs
        if needs.order:
            settle(self.adapter, encoding)
        return record(
            self.adapter,
            encoding,
            self.settings.make_rule(),
            attention=needs.attention,
            biases=needs.biases,
            gradient=needs.gradient,
        )

    def bias_of(self, trace: Trace, row: int) -> float | None:
        """What the biases contribute beside the scores, if that was asked for."""
        if trace.bias is None or not self.settings.completeness:
            return None
        return 0.0 if self.settings.method.needs.biases else float(trace.bias[row])

    def contributions(self, trace: Trace, passes: Passes | None) -> Tensor:
        """The method's, float32 `[L, B, T]` on the CPU; `passes` for a method that runs the model again.

        Raises:
            InputError: if they are not finite.
        """
        further = (passes,) if self.settings.method.several else ()
        contributions = self.settings.method.function(trace, *further, **self.settings.own).float().cpu()
        for name, values in {"scores": contributions, "value": trace.value, "bias": trace.bias}.items():
            self._check_finite(name, values)
        return contributions

    def _check_finite(self, name: str, values: Tensor | None) -> None:
        if values is not None and not values.isfinite().all():
            raise InputError(
                f"the {self.settings.method.name} {name} are not finite: the pass overflowed in {self.adapter.dtype}"
            )


def _placed(place: tuple[Any, ...]) -> dict[str, Any]:
    return {"place": list(place)} if place else {}


@dataclass(frozen=True)
class Chosen:
    """The classes that an Explanation keeps, when there are too many to keep all.

    Args:
        classes: their numbers.
        logits: their logits, float32 `[K]`.
        rest: log of the sum of exp(logit) over the others; None if there are none.
    """

    classes: list[int]
    logits: Tensor
    rest: float | None = None

    @classmethod
    def of(cls, logits: Tensor, named: Sequence[int], kept: int | None) -> Chosen:
        """All classes in order; or the best `kept` and those that are named (not negative), in descending order."""
        if kept is None or kept >= len(logits):
            return cls(list(range(len(logits))), logits)
        best = {*logits.topk(kept).indices.tolist(), *(index for index in named if index >= 0)}
        classes = sorted((i for i in best if logits[i] > -torch.inf), key=lambda i: float(-logits[i]))
        others = logits.clone()
        others[classes] = -torch.inf
        rest = float(others.logsumexp(0))
        return cls(classes, logits[classes], rest if rest > -float("inf") else None)

    def place(self, index: int) -> int | None:
        """The place of a class among those that are kept; None for -1."""
        return None if index < 0 else self.classes.index(index)
