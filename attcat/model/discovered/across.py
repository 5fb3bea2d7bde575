"""Words that read a picture by cross-attention in some of their blocks, and go on from it (Mllama).

The words are one sequence, as of other language models. What they read is made by a tower, perhaps of states of several of its
layers, so that none of its blocks passes all of it on: the states that are read are themselves the tokens of the picture, and
stand before those of the text. A text alone skips the blocks that read, and is explained by the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...capture.blocks import with_state
from ...capture.randomness import OwnRandomness
from ...capture.streams import Place, memory_of
from ...capture.survey import Survey, Unclear, between
from ...errors import InputError, OptionError
from ...tokens import Interleaved
from ..adapter import Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import Head, NextTokenHead
from ..tower import Tower
from .base import Found, log
from .experiments import differ, logits_of, ordinary_tokens, stopped_before, until_stopped
from .guesses import Frame, Guess, grids_of
from .mixed import DiscoveredMixed
from .placing import picture_key
from .reading import PIXELS, SEEN
from .streams import Lines
from .text import LENGTH, DiscoveredText, surrounded


class DiscoveredAcross(DiscoveredMixed):
    """A language model whose words read a picture by cross-attention.

    Args:
        words: the same model as words alone showed it.

    Raises:
        UnsupportedModelError: if it does not write, or it is not clear what reads the picture.
    """

    family = "discovered vision-language model with cross-attention"

    def __init__(self, words: DiscoveredMixed) -> None:
        anew = ("_twins", "_lone", "blocks", "proven", "head", "trial")
        vars(self).update({name: value for name, value in vars(words).items() if name not in anew})
        self.words_alone = words
        self.crosses, self.beside, self.no_pictures = False, "before", "its words read a picture by cross-attention"
        self.tiles: dict[tuple[int, ...], int] = {}  # in how many rows a picture's states are, by its pixels' shape
        self._runs, self._before, self._behinds = {}, {}, {}
        arguments = self._tried()
        _, self.causal = words._experience()
        if not self.causal or not issubclass(type(words.head), NextTokenHead):
            raise self._unclear("its words read a picture by cross-attention, and it does not go on from them")
        bare = self._bare(arguments)
        shape = arguments["input_ids"].shape
        self.by_token = tuple(name for name, given in arguments.items() if given.shape[:2] == shape)
        self.found = self._blocks_in(self._watch(self.head.point(bare, [None])))
        for name in ("blocks", "_twins"):
            vars(self).pop(name, None)
        self.trial = self._aimed(
            self.encode_arguments(arguments) if self.whole is None else self.encode(self.samples()[:1])
        )
        self._check_past(self.trial)
        log.info("%s", self.describe())

    def like(self, model: nn.Module) -> Adapter:
        """As `Discovered`, also of what explains words alone."""
        return self._beside(super().like(model), self.words_alone.like(model))

    def with_head(self, head_type: type[Head]) -> Adapter:
        """As `Adapter`, also of what explains words alone."""
        return self._beside(super().with_head(head_type), self.words_alone.with_head(head_type))

    def _beside(self, other: Adapter, words: Adapter) -> Adapter:
        assert isinstance(other, DiscoveredAcross)
        assert isinstance(words, DiscoveredMixed)
        other.words_alone = words
        return other

    def reading(self, encoding: Encoding) -> Adapter:
        """Without a picture the blocks that read one are not called."""
        return self if encoding.offset else self.words_alone

    def _tried(self) -> dict[str, Tensor]:
        """What the processor makes of a picture and a text; without one, tiles of noise of the model's own sizes.

        Raises:
            UnsupportedModelError: if there is no processor, and the model has no tiles.
        """
        if self.whole is not None:
            read = self.read_mixed(self.samples()[0])
            return self._arguments(read.text, read.pictures)
        sight = getattr(getattr(self.model, "config", None), "vision_config", None)
        side, tiles = getattr(sight, "image_size", None), getattr(sight, "max_num_tiles", None)
        if not isinstance(side, int) or not isinstance(tiles, int) or not self.takes("aspect_ratio_ids"):
            raise self._unclear("its words read a picture by cross-attention: give the processor for both, to try one")
        ids = ordinary_tokens(self, LENGTH)[None]
        noise = torch.randn(1, 1, tiles, 3, side, side, generator=torch.Generator().manual_seed(0))
        shape = {"aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long)}
        shape["aspect_ratio_mask"] = torch.ones(1, 1, tiles, dtype=torch.long)
        shape["cross_attention_mask"] = torch.ones(1, LENGTH, 1, tiles, dtype=torch.long)
        return self.place({"input_ids": ids, "attention_mask": torch.ones_like(ids), PIXELS: noise, **shape})

    # -- found by experiment -----------------------------------------------------------------------------------------

    def _blocks_in(self, watched: Survey) -> Found:
        """The blocks of the words, and which of them read the picture."""
        try:
            lines = Lines.of_words(watched)
            if stands := between(watched, lines.decoder):
                raise Unclear(f"between its blocks stand {', '.join(stands)}", hopeless=True)
        except Unclear as error:
            raise self._unclear(str(error), error.hopeless) from error
        self.streams = lines.streams
        if all(cross is None for cross in self.streams.cross):  # also if it is not known which call is over what
            raise self._unclear("it is not clear which of its blocks read the picture", hopeless=True)
        names = tuple(visit.name for visit in lines.decoder)
        kinds = tuple(type(visit.module).__name__ for visit in lines.decoder)
        state = lines.decoder[0].state
        assert state is not None
        return Found(names, kinds, state.shape[2], state.shape[1], (), (True,) * len(names))

    def _read_states(self, encoding: Encoding) -> Tensor:
        """What the words read of a picture, as the model has it, `[N, P, D]`."""
        assert self.streams is not None
        place = self.streams.places[0]

        def taken(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
            return memory_of(args, kwargs, place)

        with borrowed(self) as own, torch.no_grad(), OwnRandomness(), stopped_before(own.blocks[0], taken) as found:
            until_stopped(lambda: own.call(encoding))
        if not found:
            raise InputError("these arguments give the words no picture to read: give what the processor makes of both")
        return found[0]

    def _check_past(self, encoding: Encoding) -> None:
        """All that reaches the prediction of a picture is what the words read.

        Raises:
            UnsupportedModelError: if another picture changes it when that is held.
        """
        held, streams = self._read_states(encoding), self.streams
        assert streams is not None

        def hold(place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return with_state(place, held, args, kwargs)

        pixels = {n: v.flip(-1) * 0.5 + 0.3 for n, v in encoding.arguments.items() if n.startswith(SEEN)}
        other = replace(encoding, arguments={**encoding.arguments, **pixels})
        with borrowed(self) as own, ExitStack() as undo:
            for block, place in zip(own.blocks, streams.places, strict=True):
                undo.callback(block.register_forward_pre_hook(partial(hold, place), with_kwargs=True).remove)
            after = logits_of(own, other)
        if differ(logits_of(self, encoding), after):
            raise self._unclear("a picture reaches its words in other ways than by cross-attention", hopeless=True)

    def _arranged(
        self, encoding: Encoding, mine: list[int], shown: Sequence[Frame], size: tuple[int, int]
    ) -> Iterator[tuple[list[int], list[Guess]]]:
        """The states of a picture are in rows, one for each tile, perhaps behind a class token; rows that show nothing of it
        come last, and stand with the class tokens for all of it."""
        count = encoding.offset // self.tiles[_pixels(encoding.arguments)]
        tiles = len(mine) // count
        for front in (0, 1):
            grids = [grids_of(count - front, frame)[:1] for frame in shown]
            if len(mine) != count * tiles or not shown or len(shown) > tiles or not all(grids):
                continue
            cells = [tile * count + at for tile in range(len(shown)) for at in range(front, count)]
            rest = [at for at in range(len(mine)) if at not in set(cells)]
            placed = tuple((grid, frame.box) for (grid,), frame in zip(grids, shown, strict=True))
            yield [mine[at] for at in (*rest, *cells)], [Guess(placed, whole=len(rest), size=size)]
        yield mine, []

    def _stretches(self, encoding: Encoding, changed: Sequence[Sequence[int]]) -> list[list[int]]:
        """For each picture as many of the states that are read, one picture after another."""
        count = encoding.offset // len(changed)
        found = [list(range(number * count, (number + 1) * count)) for number in range(len(changed))]
        if not all(mine and set(mine) <= set(own) for mine, own in zip(changed, found, strict=True)):
            raise self._unclear("it is not clear which of the states that its words read are of which picture")
        return found

    def _in_any_order(self, guess: Guess, mine: Sequence[int], plain: Tensor, painted: Any) -> Guess | None:
        """None: its tiles have an order."""
        return None

    @property
    def _tokens_found(self) -> str:
        assert self.streams is not None
        read = sum(cross is not None for cross in self.streams.cross)
        return (
            f"its words read a picture by cross-attention, in {read} of these blocks; the picture's tokens are the states that "
            f"they read, and stand before those of the text; one picture at a time; {len(self.words_alone.blocks)} blocks read "
            "a text alone"
        )

    # -- as other adapters -------------------------------------------------------------------------------------------

    def words(self, encoding: Encoding) -> tuple[Tensor, ...]:
        """Those of the text."""
        return (encoding.arguments["input_ids"][:, encoding.offset :],)

    def call(self, encoding: Encoding) -> Any:
        """Without what is said of the picture's tokens, which the model is not given as words."""
        given = encoding.arguments
        found = {n: v[:, encoding.offset :] if n in self.by_token else v for n, v in given.items()}
        return DiscoveredText.call(self, replace(encoding, arguments=found))

    def _beside_words(self, encoding: Encoding) -> Encoding:
        """With the picture's tokens in front of the words; they have the number 0, which no one looks up."""
        key = _pixels(encoding.arguments)
        if key not in self._before:
            states = self._read_states(encoding)
            self.tiles[key], self._before[key] = len(states), states[..., 0].numel()
        count = self._before[key]
        found = {
            n: F.pad(v, (*(0, 0) * (v.dim() - 2), count, 0), value=int(n == "attention_mask"))
            if n in self.by_token
            else v
            for n, v in encoding.arguments.items()
        }
        tokens = surrounded(encoding.tokens[0], [f"[own {number}]" for number in range(1, count + 1)], [])
        mask = F.pad(encoding.mask, (count, 0), value=True)
        return replace(encoding, arguments=found, mask=mask, tokens=(tokens,), offset=count)

    def lengthened(self, further: Mapping[str, Tensor], start: int, length: int) -> Mapping[str, Tensor]:
        """As the model does itself: a later token sees what the last one sees."""
        more = length - start
        return {
            name: torch.cat([value, value[:, -1:].expand(-1, more, *value.shape[2:])], 1)
            if name in self.by_token
            else value
            for name, value in further.items()
        }

    def tower(self, encoding: Encoding) -> Tower:
        """There is none that holds all of what is read.

        Raises:
            OptionError: always for a picture.
        """
        if not isinstance(encoding.sources[0], Interleaved):
            return super().tower(encoding)
        raise OptionError(
            "through_tower=True follows the states of one block, but what these words read is made of several layers of the "
            "tower, patch by patch: the map has that resolution already"
        )


def _pixels(arguments: Mapping[str, Tensor]) -> tuple[int, ...]:
    """What says how many states the words read."""
    return next(picture_key(given) for name, given in arguments.items() if name.startswith(SEEN))
