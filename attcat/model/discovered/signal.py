"""A model of sounds or videos that no adapter knows: where its tokens lie and what the head reads, by experiment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...capture.randomness import OwnRandomness
from ...capture.survey import Survey
from ...errors import InputError
from ...tokens import Tokens
from ..adapter import Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import TokenHead, head_of
from ..signal import Places, SignalAdapter
from .base import Discovered, Found, log
from .experiments import differ, logits_of, logits_without, mixers, stopped_before, until_stopped
from .lattice import Lattice, lattice_of

WIDEST = 5.0
"""Steps that a token may see: a stem of overlapping convolutions sees two or three."""


class DiscoveredSignal(Discovered, SignalAdapter):
    """A model of a sampled signal that no adapter knows."""

    fixed: ClassVar[tuple[int, ...]] = ()
    """Axes of the input along which tokens do not differ, as colours."""

    def _inspect(self, arguments: dict[str, Any], source: Any) -> None:
        """Find everything, with the arguments of one input."""
        self.head_type = head_of(self.model)
        self._lattices: dict[tuple[int, ...], Lattice] = {}
        self._lengths: dict[tuple[int, ...], int] = {}
        watched = self._watch(self._unnamed(arguments))
        self.found = self._blocks(watched)
        self.found = self.found.behind(mixers(self, watched, self.found.names[0], self._unnamed(arguments)))
        trial = self.named(arguments, source)
        if isinstance(self.head, TokenHead):
            trial = self.head.point(trial, [len(trial.tokens[0]) // 2])
        self.reads = self._reads(trial)
        self.trial = trial
        log.info("%s", self.describe())

    def _blocks(self, watched: Survey) -> Found:
        return self._blocks_in(watched)

    @abstractmethod
    def _grids(self, shape: tuple[int, ...], length: int) -> Iterator[tuple[int, ...]]:
        """Grids that the tokens may form, the likeliest first."""

    def call(self, encoding: Encoding) -> Any:
        """Run the model with the arguments that it knows by name."""
        return self.model(**{name: v for name, v in encoding.arguments.items() if self.takes(name)})

    def places(self, shape: tuple[int, ...]) -> Places:
        """The lattice of an input of this shape; see `AudioAdapter.places`.

        Raises:
            InputError: if the model fails on such an input, which another did not make it do.
        """
        if shape not in self._lengths:
            given = torch.zeros(1, *shape)
            try:
                self._lengths[shape] = self._embed(given).shape[1]
            except (RuntimeError, ValueError) as error:
                if not self._lengths:
                    raise
                raise InputError(
                    f"{type(self.model).__name__} fails on an input of shape {list(shape)}, which may be too short or too long: "
                    f"{error}"
                ) from error
        return Places(self._lattice(shape).boxes(self._lengths[shape]))

    def read(self, encoding: Encoding) -> Tensor:
        """Tokens in front, all moments, or both, as the experiment showed."""
        apart, moments = self.reads
        special = torch.from_numpy(self.places(tuple(encoding.arguments[self.continuous].shape[1:])).special)
        read = torch.full_like(encoding.mask, moments) & ~special.to(encoding.mask.device)
        read[:, list(apart)] = True
        return read

    @property
    def _which_read(self) -> str:
        return "all of them" if self.reads[1] else f"the tokens {', '.join(map(str, self.reads[0]))}"

    def _unnamed(self, arguments: dict[str, Any]) -> Encoding:
        return Encoding(arguments, torch.ones(1, 0, dtype=torch.bool), (Tokens((), ()),), (None,))

    def _run(self, own: Adapter, encoding: Encoding) -> Any:
        """Without the logits, which a head may read at tokens that are not known yet."""
        return own.call(encoding)

    def _embed(self, given: Tensor) -> Tensor:
        """The first block's input `[1, T, D]`; the blocks are not run."""
        encoding = self._unnamed(self.place({self.continuous: given}))
        with borrowed(self) as own, OwnRandomness(), stopped_before(own.blocks[0]) as states:
            until_stopped(lambda: own.call(encoding))
        return states[0]

    def _lattice(self, shape: tuple[int, ...]) -> Lattice:
        """Where the tokens lie; of a waveform the steps are the same whatever its length."""
        if shape in self._lattices:
            return self._lattices[shape]
        known = next(iter(self._lattices.values()), None)
        length = self._lengths[shape]
        if known is not None and len(shape) == 1:
            grid = (length - known.start,)
            found: Lattice | None = replace(known, grid=grid, size=shape)
        else:
            noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) / 10
            found = lattice_of(
                self._embed, self.place({"noise": noise})["noise"], list(self._grids(shape, length)), self.fixed
            )
        if found is None:
            raise self._unclear(
                f"it is not known what its {length} tokens stand for: what a few of them see of the input "
                f"{list(shape)} does not lie on a lattice"
            )
        if (widest := max((found.widths[axis] for axis in found.axes), default=0.0)) > WIDEST:
            raise self._unclear(
                f"a token that its first block ({self.found.names[0]}) takes sees {widest:.0f} times the stretch that it stands "
                "for: tokens are mixed before the blocks, so that scores would lie elsewhere",
                hopeless=True,
            )
        self._lattices[shape] = found
        return found

    def _reads(self, trial: Encoding) -> tuple[tuple[int, ...], bool]:
        """Which tokens in front the head reads, and whether it reads the others; nothing where the head says it."""
        if self.head.reads_tokens:
            return (), True
        before, length = logits_of(self, trial), len(trial.tokens[0])
        special = self.places(tuple(trial.arguments[self.continuous].shape[1:])).special
        apart, content = special.nonzero()[0].tolist(), (~special).nonzero()[0].tolist()

        def matters(*positions: int) -> bool:
            return differ(before, logits_without(self, trial, positions))

        read = tuple(position for position in apart if matters(position))
        if not matters(*content):
            if read:
                return read, False
            raise self._unclear("no token's last state changes its logits (are the weights of its head zero?)")
        tried = [content[0], content[len(content) // 2], content[-1]]
        for one in (content[0], content[-1]):  # of a model without a token of its own for this
            if not matters(*(position for position in content if position != one)):
                return (*read, one), False
        if not all(matters(position) for position in tried):
            raise self._unclear(f"its head reads some content, but not all of {tried} (of {length} tokens)")
        return read, True
