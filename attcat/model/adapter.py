"""What the core asks about a model: the interface that every adapter fills in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..capture.blocks import Block
from ..capture.streams import Streams
from ..errors import OptionError, UnsupportedModelError
from .encoding import Encoding
from .heads import Head, head_of
from .tower import Tower
from .wrappers import main_device

GUIDE = "https://github.com/attcat/attcat/blob/main/README.md#write-an-adapter"


class Adapter(ABC):
    """What the core asks about a model.

    Args:
        model: the model, left exactly as it is.
        processor: tokenizer, image processor or transform; None if inputs are model arguments.
    """

    family: ClassVar[str]
    """A name for people, e.g. `BERT`."""
    block_paths: ClassVar[tuple[str, ...]] = ()
    """Where the list of blocks is, e.g. `bert.encoder.layer`; the first that exists is used (names change between releases)."""

    classes_with_head: ClassVar[str] = "a class that has a head"
    """What loads such a model with a head; named in an error."""

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        self.model = model
        self.processor = processor

    def __getstate__(self) -> dict[str, Any]:
        """Without the twins of the model, which a copy makes for itself; see `attcat.model.bound`."""
        return {name: value for name, value in vars(self).items() if name not in ("_twins", "_lone")}

    # -- asked by the core ---------------------------------------------------------------------------------------------

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks in order.

        Raises:
            UnsupportedModelError: if the model has none of `block_paths`, e.g. because it has no head around them.
        """
        for path in self.block_paths:
            found = _follow(self.model, path)
            if isinstance(found, (nn.ModuleList, nn.Sequential)) and len(found):
                return tuple(found)
        if any(_follow(self.model, path.partition(".")[2]) is not None for path in self.block_paths):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no head, so it predicts no class to explain: load the same weights with "
                f"{self.classes_with_head}"
            )
        raise UnsupportedModelError(
            f"{type(self.model).__name__} has no blocks at {' or '.join(self.block_paths)}: "
            f"the {type(self).__name__} does not fit this version of the model; see {GUIDE}"
        )

    trial: Encoding | None = None
    """An input that the model was inspected with; None for an adapter that someone wrote."""

    @cached_property
    def proven(self) -> dict[str, str]:
        """What was checked on the trial, and what is wrong with it, or nothing."""
        return {}

    @property
    def attends(self) -> tuple[bool, ...]:
        """For each block, whether it attends; one that does not gives no attention weights, and methods that weigh by them
        give it no contribution."""
        return (True,) * len(self.blocks)

    def aligned(self, block: int, state: Tensor, share: bool = False) -> Tensor:
        """A block's hidden state as `[B, T, D]` over the tokens that are named; where blocks have coarser grids, repeated.

        Args:
            block: its number.
            state: the hidden state, or its gradient, as the block has it.
            share: divide by the number of tokens that a position stands for, so that sums over tokens stay as they are: for
                gradients, as products of state and gradient are summed.
        """
        return state

    continuous: str | None = None
    """The name of the argument that holds the input as numbers that can be moved a little: pixels, samples; None for words."""

    has_stages: bool = False
    """Whether blocks have grids of their own, so that nothing is defined over all tokens but states and gradients."""

    reads_several: bool = False
    """Whether the head has the states of several blocks, so that the last one's output alone says nothing."""

    def received(self, index: int, block: Block) -> Tensor | None:
        """The attention that each token receives in a block that attends within windows or over coarser keys, `[B, T]`.

        Args:
            index: the block's number.
            block: what was seen of it.

        Returns:
            None where every query sees every token, and the matrix says it.
        """
        return None

    adds_between: bool = False
    """Whether the model may add something of its input to the states of some tokens between blocks, as features of a picture:
    what a block takes and the one before it did not return is then evidence like the first block's input."""

    until_next: bool = False
    """Whether a block lasts until the next one is called, as the piece of the forward pass between two states."""

    passes_state: bool = True
    """Whether what a block returns is a hidden state; not if the sum with its input stands outside of it."""

    position_axis: int = 1
    """The axis of the tokens in the blocks' hidden states: 1 for `[B, T, D]`; 0 for `[T, B, D]`, as torch's own layers have them
    by default; 2 for `[B, D, T]`, as convolutions have them."""

    attends_again: bool = False
    """Whether a block may attend several times over the same tokens; the heads of all of its calls are then taken together."""

    causal: bool | None = None
    """Whether a token sees only those before it; None if nobody says so: an experiment finds it when it is first asked."""

    streams: Streams | None = None
    """Of an encoder with a decoder, which blocks are whose, and how the decoder reads; None for one sequence."""

    def reading(self, encoding: Encoding) -> Adapter:
        """The adapter whose blocks a batch goes through: this one; or another, without blocks that read what the input lacks."""
        return self

    def words(self, encoding: Encoding) -> tuple[Tensor, ...]:
        """The token numbers that are looked up in the word embeddings, `[B, T]` for each sequence; none for a picture."""
        ids = encoding.arguments.get("input_ids")
        return () if ids is None else (ids,)

    @abstractmethod
    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Turn inputs into one batch for the model.

        Raises:
            InputError: if an input cannot be used.
            ProcessorError: if the processor does not fit.
        """

    @abstractmethod
    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the tokens of ready-made model arguments.

        Raises:
            InputError: if the arguments are not those of the model.
        """

    @abstractmethod
    def read(self, encoding: Encoding) -> Tensor:
        """Which tokens a classifier's head reads, bool `[B, T]`; other heads decide this themselves, see `attcat.model.heads`."""

    def samples(self) -> Any:
        """Inputs to check the model with, of different lengths; None if the adapter brings none."""
        return None

    def is_one(self, value: Any) -> bool:
        """Whether a list is one input, as the frames of a video, and not a list of inputs."""
        return False

    def cost(self, value: Any) -> int:
        """About how many tokens an input has, without encoding it; inputs of similar cost share a batch."""
        return 256

    def alike(self, value: Any) -> Hashable:
        """What inputs have to have in common to share a batch, e.g. the sizes of their pictures; None if any do."""
        return None

    def describe(self) -> str:
        """What is known about the model, in one line."""
        return f"{type(self.model).__name__}: {self.family} ({type(self).__name__}), {len(self.blocks)} blocks"

    def tower(self, encoding: Encoding) -> Tower:
        """Where the vision tower in front of a language model sees its own patches, of one input.

        Raises:
            OptionError: if there is none, or it is not known where they lie.
        """
        raise OptionError(
            f"through_tower=True is for a picture and a text in one sequence, and {type(self.model).__name__} was not given one"
        )

    removals: ClassVar[tuple[str, ...]] = ()
    """The ways in which `remove` removes tokens; the first is the default."""

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """The batch with tokens removed.

        Args:
            encoding: the batch.
            removed: bool `[B, T]`; by default every token that is neither special nor padding.
            how: one of `removals`.

        Raises:
            OptionError: if there is no such way.
            UnsupportedModelError: if this adapter cannot remove tokens.
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not say how to remove tokens: override remove()")

    def removal(self, how: str | None) -> str:
        """The name of a way to remove tokens, checked.

        Raises:
            OptionError: if there is no such way.
        """
        if how is None and self.removals:
            return self.removals[0]
        if how not in self.removals:
            known = ", ".join(self.removals) or "none"
            raise OptionError(f"no removal {how!r} for {type(self.model).__name__}: use one of {known}")
        return how

    def call(self, encoding: Encoding) -> Any:
        """Run the model."""
        return self.model(**self.head.arguments(encoding))

    def logits(self, output: Any) -> Any:
        """The logits in the model's output, in the shape that the head expects; a classifier's are `[B, C]`."""
        return self.head.logits(output)

    def predict(self, encoding: Encoding) -> tuple[Any, Tensor]:
        """Run the model.

        Returns:
            Its output, and the rows `[B, C]`; one number of each row is explained.

        Raises:
            UnsupportedModelError: if the output has no logits of the head's kind.
        """
        with self.head.reading(encoding):
            output = self.call(encoding)
        rows = self.head.rows(self.logits(output), encoding)
        if isinstance(output, MutableMapping):
            output["logits"] = rows  # what a target function finds there
        return output, rows

    head_type: type[Head] | None = None
    """The head; None to find it by the name of the model's class."""

    @cached_property
    def head(self) -> Head:
        """What the numbers in the model's output stand for, and where they are read."""
        head = self.head_type or head_of(self.model)
        return head(self.model, self.processor, self.labels, self.read)

    def with_head(self, head_type: type[Head]) -> Adapter:
        """The same adapter, which reads the model's output in another way."""
        other = copy(self)
        vars(other)["head"] = head_type(self.model, self.processor, self.labels, self.read)
        return other

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes, if the model knows them."""
        return config_labels(self.model)

    @property
    def can_batch(self) -> bool:
        """Whether the model accepts several examples at once."""
        return not self.head.one_input

    def like(self, model: nn.Module) -> Adapter:
        """The same adapter for another model of the same class, e.g. a copy in float64."""
        return type(self)(model, self.processor)

    @property
    def towers(self) -> tuple[Adapter, ...]:
        """The adapters that explain an input: this one; for a model of pictures and texts one per side, pictures first."""
        return (self,)

    # -- for adapters ----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return main_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating point type."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    def place(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Move tensors to the model's device, floating point ones to its type."""
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in arguments.items()
        }


def config_labels(model: nn.Module) -> tuple[str, ...] | None:
    """The class names in a transformers configuration."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    return tuple(str(names[index]) for index in sorted(names)) if names else None


def _follow(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
