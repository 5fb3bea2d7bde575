"""What is found about any model: its blocks, in one watched forward pass; and the adapter to write when that does not do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from ...capture.cuts import Piece
from ...capture.randomness import OwnRandomness
from ...capture.survey import NO_ATTENTION, Survey, Unclear, Visit, between, blocks_of, passing, survey
from ...errors import AttCATError, UnsupportedModelError
from ..adapter import GUIDE, Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..vision import VisionAdapter
from ..wrappers import names_of
from .detection import encoder_of
from .experiments import FAILURES, accepted
from .stages import Stage

log = logging.getLogger("attcat")


FAILED = "its forward pass failed on"
"""What is said where a model does not take what it is tried on."""


@dataclass(frozen=True)
class Found:
    """What was found about a model.

    Args:
        names: the names of the blocks within the model, in the order of their calls.
        kinds: the names of their classes.
        width: D of the hidden state.
        length: T of the hidden state in the forward pass that was watched.
        between: what stands between the blocks, if they do not take just what the one before them returns.
        attends: for each block, whether it attends over all tokens.
        stages: for each block its grid, if they have grids of their own.
        position_axis: 1 for hidden states `[B, T, D]`, 0 for `[T, B, D]`, 2 for `[B, D, T]`.
        again: whether some block attends several times.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    width: int
    length: int
    between: tuple[str, ...] = ()
    attends: tuple[bool, ...] = ()
    stages: tuple[Stage, ...] = ()
    position_axis: int = 1
    again: bool = False

    @classmethod
    def of(cls, watched: Survey) -> Found:
        """From the forward pass that was watched.

        Raises:
            Unclear: see `blocks_of`.
        """
        return cls._of(watched, blocks_of(watched))

    @classmethod
    def of_gradients(cls, watched: Survey) -> Found:
        """The same of a model that does not attend over all tokens.

        Raises:
            Unclear: see `passing`.
        """
        found = cls._of(watched, passing(watched))
        return replace(found, attends=(False,) * len(found.names), again=False)

    @classmethod
    def of_encoder(cls, watched: Survey) -> Found:
        """The same of an encoder that a decoder reads, which is part of the head.

        Raises:
            Unclear: see `encoder_of`.
        """
        return cls._of(watched, encoder_of(watched))

    @classmethod
    def _of(cls, watched: Survey, visits: Sequence[Visit]) -> Found:
        first, state = visits[0], visits[0].state
        assert state is not None
        names = tuple(visit.name for visit in visits)
        kinds = tuple(type(visit.module).__name__ for visit in visits)
        stands = tuple(between(watched, visits))
        return cls(
            names,
            kinds,
            state.shape[1 if first.position_axis == 2 else 2],
            first.length,
            stands,
            attends=tuple(visit.attends for visit in visits),
            position_axis=first.position_axis,
            again=any(visit.attends and not visit.is_block for visit in visits),
        )

    @classmethod
    def of_pieces(cls, pieces: Sequence[Piece], stages: Sequence[Stage]) -> Found:
        """The same of a model whose blocks have grids of their own, and begin at states that everything passes through."""
        names = tuple(piece.visit.name for piece in pieces)
        kinds = tuple(type(piece.visit.module).__name__ for piece in pieces)
        finest = max(stages, key=lambda stage: stage.count)
        length = finest.count + max(stage.prefix for stage in stages)
        return cls(names, kinds, stages[0].width, length, ("other layers",), (True,) * len(names), tuple(stages))

    def behind(self, front: Sequence[Visit]) -> Found:
        """The same with modules in front of the blocks that mix tokens: blocks too, which do not attend."""
        if not front:
            return self
        kinds = (*(type(visit.module).__name__ for visit in front), *self.kinds)
        names = (*(visit.name for visit in front), *self.names)
        around = ("a sum or another operation around what mixes tokens before the blocks", *self.between)
        return replace(self, names=names, kinds=kinds, between=around, attends=(*(False,) * len(front), *self.attends))

    def until(self, count: int) -> Found:
        """The first so many blocks."""
        return replace(self, names=self.names[:count], kinds=self.kinds[:count], attends=self.attends[:count])

    def since(self, count: int) -> Found:
        """All but the first so many blocks."""
        return replace(self, names=self.names[count:], kinds=self.kinds[count:], attends=self.attends[count:])

    def __str__(self) -> str:
        count, different = len(self.names), len(set(self.names))
        shared = "" if different == count else f", {different} of them different"
        kinds = ", ".join(dict.fromkeys(self.kinds))
        if self.stages:
            grids = ", ".join(dict.fromkeys(f"{stage.grid[0]} x {stage.grid[1]}" for stage in self.stages))
            return (
                f"{count} blocks ({self.names[0]} to {self.names[-1]}) with grids of their own ({grids}), which attend within "
                f"windows or over such a grid, width {self.width} at first"
            )
        outside = f"; outside of them stand {', '.join(self.between)}" if self.between else ""
        some = ""
        if not any(self.attends):
            some = ", none of which attends over all tokens: there are gradients but no attention weights"
        elif not all(self.attends):
            some = f", of which {sum(self.attends)} attend; the others have no attention weights"
        return (
            f"{count} blocks ({self.names[0]} to {self.names[-1]}, {kinds}{shared}{some}), width {self.width}{outside}"
        )


class Discovered(Adapter):
    """What both kinds share: blocks, the call, the logits of models that give no output object."""

    found: Found

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks that were seen."""
        return tuple(map(self.model.get_submodule, self.found.names))

    def like(self, model: nn.Module) -> Adapter:
        """The same adapter for another model of the same class, which is not inspected again; what rests on weights is checked
        anew when it is used.
        """
        other = copy(self)
        own = ("_twins", "_lone", "blocks", "proven", "head", "labels", "accepted")
        for name in own:
            vars(other).pop(name, None)
        other.model = model
        if self.trial is not None:
            other.trial = replace(self.trial, arguments=other.place(self.trial.arguments))
        return other

    @property
    def passes_state(self) -> bool:  # type: ignore[override]
        """Whether each block takes just what the one before it returned."""
        return not self.found.between

    @property
    def position_axis(self) -> int:  # type: ignore[override]
        """The axis of the tokens in the hidden state that was seen."""
        return self.found.position_axis

    @property
    def attends_again(self) -> bool:  # type: ignore[override]
        """Whether a block was seen to attend several times."""
        return self.found.again

    @property
    def attends(self) -> tuple[bool, ...]:
        """Which blocks were seen to attend."""
        return self.found.attends

    @cached_property
    def accepted(self) -> frozenset[str] | None:
        """The names of the model's arguments; None if it takes any."""
        return accepted(self.model.forward)

    def takes(self, name: str) -> bool:
        """Whether the model has an argument of that name."""
        return self.accepted is None or name in self.accepted

    def logits(self, output: Any) -> Any:
        """The class logits `[B, C]`: the output itself, its `logits`, or the first of several."""
        if isinstance(output, Mapping) and not hasattr(output, "logits"):
            output = output.get("logits", output)
        elif isinstance(output, (tuple, list)) and output and not hasattr(output, "logits"):
            output = output[0]
        return super().logits(output)

    def _blocks_in(self, watched: Survey) -> Found:
        try:
            return Found.of(watched)
        except Unclear as error:
            raise self._unclear(str(error), error.hopeless) from error

    def _run(self, own: Adapter, encoding: Encoding) -> Any:
        """The forward pass that is watched."""
        return own.predict(encoding)

    def _watch(self, encoding: Encoding) -> Survey:
        try:
            with borrowed(self) as own, OwnRandomness():
                return survey(own.model, lambda: self._run(own, encoding))
        except UnsupportedModelError:
            with borrowed(self) as own, OwnRandomness():  # what its output lacks matters only if there is attention
                whole = survey(own.model, lambda: own.call(encoding))
            if not whole.attention:
                raise self._unclear(NO_ATTENTION, hopeless=True) from None
            raise
        except AttCATError:
            raise
        except FAILURES as error:
            given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in encoding.arguments.items())
            raise self._unclear(f"{FAILED} {given}: {type(error).__name__}: {error}") from error

    def _unclear(self, reason: str, hopeless: bool = False) -> UnsupportedModelError:
        """The error, with the adapter to write, unless none would help."""
        if hopeless:
            return UnsupportedModelError(
                f"{type(self.model).__name__} cannot be explained: {reason}. AttCAT needs blocks that attend once over all "
                f"tokens and are called one after another; see {GUIDE}"
            )
        return UnsupportedModelError(
            f"no adapter for {names_of(self.model)[0]}, and it could not be found out: {reason}. "
            f"Write what is missing and register it before the Explainer is made ({GUIDE}):\n\n{_to_write(self)}\n"
        )

    def describe(self) -> str:
        """What was found, in words."""
        own = type(self).__module__.startswith(__package__ or "")
        by = "no adapter" if own else f"{self.family} ({type(self).__name__})"
        return f"{type(self.model).__name__}: {by}, found by a forward pass: {self.found}; {self._tokens_found}"

    @property
    def _tokens_found(self) -> str:
        raise NotImplementedError


def _to_write(adapter: Adapter) -> str:
    """The adapter that a user would write, ready to be pasted, with the longest list of modules as a guess."""
    model = adapter.model
    lists = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len({type(child) for child in module}) == 1
    ]
    path = max(lists, default=(0, "encoder.layers"))[1]
    kind, package = type(model).__name__, type(model).__module__.partition(".")[0]
    lines = [
        f'    @attcat.register("{package}.{kind}")',
        f"    class {kind}Adapter(attcat.{'VisionAdapter' if isinstance(adapter, VisionAdapter) else 'TextAdapter'}):",
        f'        family = "{kind}"',
        f'        block_paths = ("{path}",)  # where the list of blocks is',
    ]
    if isinstance(adapter, VisionAdapter):
        lines += ["        patch_size = (16, 16)", '        prefix = ("[CLS]",)  # the tokens before the patches']
    return "\n".join(
        [
            *lines,
            "",
            "        def read(self, encoding):  # which tokens the head reads, bool [B, T]",
            "            return super().read(encoding)  # the first",
        ]
    )
