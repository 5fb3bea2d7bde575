"""Where the tokens of pictures lie, by experiment, in a model that reads them among words.

Which tokens are a picture's is seen when the picture is exchanged: they change, and nothing else does. Where they lie is guessed
from what the processor shows to the model (ramps of grey say which part of the picture each of its frames or patches has), and
believed if single cells of the picture, painted over, move just the tokens that are said to lie there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ...errors import InputError, OptionError
from ...tokens import Interleaved, Patches, Place, Tokens, View
from ..encoding import Encoding
from ..tower import Tower
from .experiments import first_states, rounding
from .guesses import Frame, Guess, Run, inverse, mosaic, numbers_of, painted_over, possible, row_of, run_of, seen_frames
from .reading import SEEN, CrossAttentionError, Read, ReadingBoth, crossing
from .tower import find_tower

TRIALS = 48
"""So many pictures are painted, and no more, to find where the tokens of one lie; each is a pass through the tower."""
KEPT = 256
"""Of so many sizes of pictures it is remembered where their tokens lie, so that strangers' pictures fill no memory."""
COARSE = 3
"""In grids of so few rows or columns a token has to be just where it is said to be; in finer ones a neighbour may answer, as
towers mix what they see."""


class PlacingBoth(ReadingBoth):
    """A model that reads words and pictures in one sequence, and where the tokens of the pictures lie."""

    beside: str | None = None
    """Where a picture's tokens stand if the text has no placeholders for them: `before` or `behind` its own; empty if it has
    placeholders, None if that is not known yet."""
    marks: set[int]
    """The token numbers that stand where a picture's tokens are."""
    _runs: dict[Any, tuple[Run, ...]]
    _patches_of: dict[tuple[tuple[int, int], ...], Tower]
    _before: dict[tuple[int, ...], int]
    """How many of a picture's tokens stand before the text, by its pixels' shape."""

    @property
    def _mark(self) -> int | None:
        """The token number that stands for a part of a picture, if the model says it."""
        config: Any = getattr(self.model, "config", None)
        names = ("image_token_id", "image_token_index")
        return next((number for name in names if isinstance(number := getattr(config, name, None), int)), None)

    def _count_before(self, arguments: Mapping[str, Tensor]) -> int:
        """How many tokens of pictures the model itself puts before those of the text."""
        if self.beside != "before":
            return 0
        return next((self._before.get(picture_key(v), 0) for n, v in arguments.items() if n.startswith(SEEN)), 0)

    def _placed_tokens(
        self, encoding: Encoding, tokens: Tokens, runs: Sequence[Run], sizes: Sequence[tuple[int, int]] | None
    ) -> Tokens:
        """The tokens with the pictures' in their places."""
        patches: list[Patches] = []
        places: list[Place | None] = [None] * len(tokens)
        labels, special = list(tokens.labels), list(tokens.special)
        spans = None if tokens.spans is None else list(tokens.spans)
        positions = iter(self._marked(encoding))
        for picture, run in enumerate(runs):
            first = len(patches)
            for grid, box in run.grids:
                view = None if sizes is None or box is None or grid is None else View(*sizes[picture], box)
                patches.append(Patches(picture, grid, view))
            for cell in run.cells:
                at = next(positions)
                special[at] = cell is None
                if spans is not None:
                    spans[at] = None
                if cell is None:
                    continue
                places[at] = (first + cell[0], cell[1])
                grid = run.grids[cell[0]][0]
                labels[at] = f"{cell[1] // grid[1]},{cell[1] % grid[1]}" if grid else f"query {cell[1]}"
        return replace(
            tokens,
            labels=tuple(labels),
            special=tuple(special),
            spans=None if spans is None else tuple(spans),
            patches=tuple(patches),
            places=tuple(places),
        )

    def _marked(self, encoding: Encoding) -> list[int]:
        """The positions whose token number says that a picture's token is there."""
        ids = encoding.arguments["input_ids"][0].tolist()
        if self.beside == "behind":
            return list(range(len(ids), encoding.mask.shape[1]))
        if count := self._count_before(encoding.arguments):
            return list(range(count))
        return [at for at, number in enumerate(ids) if number in self.marks]

    def _known(self, key: Any, encoding: Encoding, find: Any) -> tuple[Run, ...]:
        """The runs of pictures of these sizes, found when such pictures come for the first time."""
        known = self._runs.get(key)
        if known is None or sum(len(run.cells) for run in known) != len(self._marked(encoding)):
            known = find()
            for oldest in list(self._runs)[: max(0, len(self._runs) - KEPT + 1)]:
                self._runs.pop(oldest, None)
            self._runs[key] = known
        return known

    def _states(self, encoding: Encoding) -> Tensor:
        """What the first block takes, `[T, D]`."""
        seen = first_states(self, encoding)
        if not seen:
            raise self._unclear(f"its first block ({self.found.names[0]}) is not called with a picture")
        return seen[0].transpose(1, self.position_axis)[0].detach().float()

    def _changed(self, one: Tensor, other: Tensor) -> list[int]:
        """The positions at which two states differ by more than rounding."""
        if one.shape != other.shape:
            raise self._unclear(f"another picture of the same size gives {len(other)} tokens instead of {len(one)}")
        away = (one - other).abs().amax(-1) > rounding(one) * one.abs().max()
        return [int(place) for place in away.nonzero().flatten()]

    def _runs_of(self, read: Read, encoding: Encoding) -> tuple[Run, ...]:
        """Where the tokens of an input's pictures lie: each is exchanged, and painted cell by cell."""
        sizes = [picture.size for picture in read.pictures]
        base = [Image.fromarray(mosaic(*size, seed)) for seed, size in enumerate(sizes)]

        def states(pictures: Sequence[Image.Image]) -> Tensor:
            return self._states(self.repainted(encoding, read.text, pictures))

        plain = states(base)
        self._check_length(plain, encoding)
        changed = []
        for number, picture in enumerate(base):
            pictures = [*base[:number], inverse(picture), *base[number + 1 :]]
            changed.append(self._changed(plain, states(pictures)))
        stretches = self._stretches(encoding, changed)
        found = []
        for number, (mine, stretch) in enumerate(zip(changed, stretches, strict=True)):

            def painted(*boxes: tuple[float, float, float, float], number: int = number) -> Tensor:
                return states([*base[:number], painted_over(base[number], *boxes), *base[number + 1 :]])

            shown = self._shown(read, base, number)
            order, guess = mine, None
            for order, guesses in self._arranged(encoding, mine, shown, sizes[number]):
                if (guess := self._best(guesses, order, plain, painted)) is not None:
                    break
            found.append(run_of(order, stretch, guess))
        return tuple(found)

    def _arranged(
        self, encoding: Encoding, mine: list[int], shown: Sequence[Frame], size: tuple[int, int]
    ) -> Iterator[tuple[list[int], list[Guess]]]:
        """The tokens of a picture in an order in which grids may follow each other, with guesses at these."""
        yield mine, list(possible(mine, shown, size))

    def repainted(self, encoding: Encoding, text: str, pictures: Sequence[Image.Image]) -> Encoding:
        """One input with other pictures of the same sizes."""
        made = self._arguments(text, pictures)
        pixels = {name: value for name, value in made.items() if name.startswith(SEEN)}
        return replace(encoding, arguments={**encoding.arguments, **pixels})

    def _check_length(self, states: Tensor, encoding: Encoding) -> None:
        if len(states) != encoding.mask.shape[1]:
            raise self._unclear(
                f"its first block has {len(states)} positions for {encoding.mask.shape[1]} tokens: a picture's stand beside "
                "those of the text, which has no placeholders for them"
            )

    def _stretches(self, encoding: Encoding, changed: Sequence[Sequence[int]]) -> list[list[int]]:
        """For each picture the positions of its token numbers, also those that stay as they are."""
        ids = encoding.arguments["input_ids"][0].tolist()
        if not all(changed) and self._mark is not None and self._mark not in ids:
            raise InputError(
                f"input_ids hold no placeholder for the picture (token {self._mark}), so that the model does not read it: give "
                "what its processor makes of the picture and the text together"
            )
        if not all(changed):
            raise CrossAttentionError(crossing(self.model))
        if self.beside:
            if len(changed) > 1:
                raise InputError(f"{type(self.model).__name__} reads one picture beside a text, got {len(changed)}")
            return [self._marked(encoding)]
        self.marks.update(ids[at] for mine in changed for at in mine)  # also of copies with another head
        marked = self._marked(encoding)
        ends = [mine[0] for mine in changed[1:]] + [len(ids)]
        starts = [-1, *ends[:-1]]
        return [[at for at in marked if start <= at < end] for start, end in zip(starts, ends, strict=True)]

    def _best(self, guesses: Sequence[Guess], mine: Sequence[int], plain: Tensor, painted: Any) -> Guess | None:
        """The first guess in which every painted cell moves just the token that is said to lie there."""
        best, least, seen = None, 1 << 30, dict[Any, Tensor]()

        def painted_once(box: Any) -> Tensor:
            if box not in seen:
                seen[box] = painted(box)
            return seen[box]

        for guess in guesses:
            if len(seen) >= TRIALS:
                break
            off = guess.off(mine, plain, painted_once)
            if off < least:
                best, least = guess, off
            if not off:
                break
        if best is None:
            return None
        fine = all(min(grid) > COARSE for grid, _ in best.grids)
        if least <= int(fine):
            return best
        return self._in_any_order(guesses[0], mine, plain, painted) if self.beside else None

    def _in_any_order(self, guess: Guess, mine: Sequence[int], plain: Tensor, painted: Any) -> Guess | None:
        """Tokens that lie in no order (some models draw theirs), after the digits of the rows and columns that they answer to; no
        cell may have two."""
        (grid, box), *_ = guess.grids

        def change(axis: int, numbers: Sequence[int]) -> Tensor:
            boxes = [row_of(box, grid, axis, number) for number in numbers]
            return (painted(*boxes) - plain)[list(mine)].norm(dim=-1)

        rows, columns = (numbers_of(grid[axis], partial(change, axis)) for axis in (0, 1))
        order = tuple((rows * grid[1] + columns).tolist())
        return replace(guess, order=order) if sorted(order) == list(range(grid[0] * grid[1])) else None

    def _shown(self, read: Read, base: Sequence[Image.Image], number: int) -> list[Frame]:
        """Which part of a picture each frame (or patch) has that the processor gives to the model."""
        width, height = base[number].size
        across, down = (np.rint(np.linspace(0, 255, pixels)).astype(np.uint8) for pixels in (width, height))
        ramps = [
            np.zeros((height, width), np.uint8),
            np.full((height, width), 255, np.uint8),
            np.broadcast_to(across[None, :], (height, width)),
            np.broadcast_to(down[:, None], (height, width)),
        ]
        made = []
        for ramp in ramps:
            picture = Image.fromarray(np.ascontiguousarray(ramp)).convert("RGB")
            arguments = self._arguments(read.text, [*base[:number], picture, *base[number + 1 :]])
            name = next((n for n in arguments if n.startswith(SEEN)), None)
            if name is None:
                return []
            made.append(arguments[name].detach().double().cpu().numpy())
        if len({each.shape for each in made}) > 1:
            return []
        return seen_frames(made, width, height)

    def _runs_of_arguments(self, encoding: Encoding) -> tuple[Run, ...]:
        """Of model arguments: which tokens a picture's are, as one picture, and their grid if it is told by their number."""
        name = next(n for n in encoding.arguments if n.startswith(SEEN))
        pixels = encoding.arguments[name]
        plain = self._states(encoding)
        self._check_length(plain, encoding)

        def other(part: Tensor) -> Tensor:
            return self._states(replace(encoding, arguments={**encoding.arguments, name: part}))

        changed = self._changed_by_each(plain, pixels, other)
        stretches = self._stretches(encoding, changed)
        frames = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
        placed = frames.dim() == 4 and (len(frames) == 1 or pixels.dim() == 4)
        found = []
        for number, (mine, stretch) in enumerate(zip(changed, stretches, strict=True)):
            guess = (
                self._guess_of_pixels(plain, pixels, number, mine, other)
                if placed
                else _guess_of_counts(encoding, len(mine))
            )
            found.append(run_of(mine, stretch, guess))
        return tuple(found)

    def _changed_by_each(self, plain: Tensor, pixels: Tensor, other: Callable[[Tensor], Tensor]) -> list[list[int]]:
        """Which tokens change with the pixels: of several pictures for each, if each changes tokens of its own."""
        every = self._changed(plain, other(pixels.flip(-1) + 1))
        if pixels.dim() != 4 or len(pixels) == 1:
            return [every]
        each = []
        for number in range(len(pixels)):
            moved = pixels.clone()
            moved[number] += 1
            each.append(self._changed(plain, other(moved)))
        return each if all(each) and sum(map(len, each)) == len(every) else [every]

    def _guess_of_pixels(
        self, plain: Tensor, pixels: Tensor, number: int, mine: list[int], other: Callable[[Tensor], Tensor]
    ) -> Guess | None:
        """Where a picture's tokens lie on its pixels, as painting parts of them shows."""
        height, width = pixels.shape[-2:]

        def painted(*boxes: tuple[float, float, float, float]) -> Tensor:
            moved = pixels.clone()
            part = moved if pixels.dim() == 4 else moved.flatten(0, 1)
            for left, top, right, bottom in (map(round, box) for box in boxes):
                part[number, :, top:bottom, left:right] += 1
            return other(moved)

        guesses = list(possible(mine, [Frame((0.0, 0.0, width, height), (height, width))], (width, height)))
        return self._best(guesses, mine, plain, painted)

    def tower(self, encoding: Encoding) -> Tower:
        """Where the tower's own patches lie, found when pictures of such sizes come for the first time.

        Raises:
            OptionError: if there is no tower, its patches form no grid, or there is no picture to try it with.
        """
        source = encoding.sources[0]
        if encoding.tokens[0].places is None:
            return super().tower(encoding)
        if not isinstance(source, Interleaved):
            raise OptionError("through_tower=True tries pictures, but these are model arguments: give (picture, text)")
        text, sizes = source.text, tuple((picture.shape[1], picture.shape[0]) for picture in source.pictures)

        def encoding_of(pictures: Sequence[Image.Image]) -> Encoding:
            return replace(encoding, arguments=self._arguments(text, pictures))

        def shown(pictures: Sequence[Image.Image], number: int) -> list[Frame]:
            return self._shown(Read(text, tuple(pictures)), pictures, number)

        if sizes not in self._patches_of:
            found = find_tower(self, sizes, encoding_of, shown)
            for oldest in list(self._patches_of)[: max(0, len(self._patches_of) - KEPT + 1)]:
                self._patches_of.pop(oldest, None)
            self._patches_of[sizes] = found
        return self._patches_of[sizes]


def _guess_of_counts(encoding: Encoding, count: int) -> Guess | None:
    """The grid of a picture whose `count` tokens each hold a square of the patches that the arguments count, as Qwen-VL's do."""
    grids = encoding.arguments.get("image_grid_thw")
    if grids is None or len(grids) != 1:
        return None
    frames, rows, columns = grids[0].tolist()
    merged = frames * rows * columns / max(1, count)
    side = round(merged**0.5)
    if side * side != merged or rows % side or columns % side or frames != 1:
        return None
    return Guess((((rows // side, columns // side), (0.0, 0.0, 1.0, 1.0)),))


def picture_key(pixels: Tensor) -> tuple[int, ...]:
    """What says how many tokens a picture has."""
    return tuple(pixels.shape[1:])
