"""What is found about any model: its blocks, in one watched forward pass; and the adapter to write when that does not do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.survey import Survey, Unclear, Visit, between, blocks_of, passing, stages_of, survey
from ...errors import AttCATError, UnsupportedModelError
from ..adapter import GUIDE, Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..vision import VisionAdapter
from ..wrappers import names_of
from .experiments import FAILURES, accepted

log = logging.getLogger("attcat")


@dataclass(frozen=True)
class Stage:
    """The grid of a block, and the axes of its hidden state.

    Args:
        grid: rows and columns.
        last: whether features are the last axis: `[B, T, D]` or `[B, rows, columns, D]`; else `[B, D, rows, columns]`.
        width: D.
    """

    grid: tuple[int, int]
    last: bool
    width: int

    @classmethod
    def of(cls, visit: Visit, picture: tuple[int, int]) -> Stage:
        """By the axes that have the picture's proportions.

        Raises:
            Unclear: if none or several have.
        """
        assert visit.taken is not None
        shape, (height, width) = tuple(visit.taken.shape), picture
        if len(shape) == 3:
            rows = round((shape[1] * height / width) ** 0.5)
            found = (
                [cls((rows, shape[1] // rows), True, shape[2])]
                if rows and rows * (shape[1] // rows) == shape[1]
                else []
            )
        else:
            made = (cls((shape[1], shape[2]), True, shape[3]), cls((shape[2], shape[3]), False, shape[1]))
            found = [stage for stage in made if stage.grid[0] * width == stage.grid[1] * height]
        if len(found) != 1 or found[0].grid[0] * width != found[0].grid[1] * height:
            raise Unclear(
                f"{visit.name} takes a state of shape {shape}, in which a grid of the picture's shape is not seen"
            )
        return found[0]

    def flat(self, state: Tensor) -> Tensor:
        """`[B, rows * columns, D]`."""
        if state.dim() == 3:
            return state
        return (state if self.last else state.permute(0, 2, 3, 1)).flatten(1, 2)

    def places(self, fine: tuple[int, int]) -> Tensor:
        """For each patch of a finer grid the position of this one that its centre lies in."""
        rows, columns = (
            ((torch.arange(many) + 0.5) * few / many).long() for many, few in zip(fine, self.grid, strict=True)
        )
        return (rows[:, None] * self.grid[1] + columns).flatten()


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
    def _of(cls, watched: Survey, visits: Sequence[Visit]) -> Found:
        state = visits[0].state
        assert state is not None
        names = tuple(visit.name for visit in visits)
        kinds = tuple(type(visit.module).__name__ for visit in visits)
        stands = tuple(between(watched, visits))
        first = visits[0]
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
    def of_stages(cls, watched: Survey, picture: tuple[int, int]) -> Found:
        """The same of a model whose blocks have grids of their own.

        Raises:
            Unclear: if it is not known which axes are the grid's, or the first grid is not the finest.
        """
        visits = stages_of(watched)
        stages = tuple(Stage.of(visit, picture) for visit in visits)
        first = stages[0]
        if any(stage.grid[0] > first.grid[0] or stage.grid[1] > first.grid[1] for stage in stages):
            raise Unclear("a later block has a finer grid than the first")
        names = tuple(visit.name for visit in visits)
        kinds = tuple(type(visit.module).__name__ for visit in visits)
        length, free = first.grid[0] * first.grid[1], (False,) * len(visits)
        return cls(names, kinds, first.width, length, ("other layers",), free, stages)

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

    def _watch(self, encoding: Encoding) -> Survey:
        try:
            with borrowed(self) as own, OwnRandomness():
                return survey(own.model, lambda: own.predict(encoding))
        except AttCATError:
            raise
        except FAILURES as error:
            given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in encoding.arguments.items())
            raise self._unclear(f"its forward pass failed on {given}: {type(error).__name__}: {error}") from error

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
        return f"{type(self.model).__name__}: no adapter, found by a forward pass: {self.found}; {self._tokens_found}"

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
