"""The result of a forward and a backward pass, as plain tensors: the values that methods are functions of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import CaptureError

Hidden = Literal["input", "output"]
Queries = Literal["mean", "pooled"]


@dataclass(frozen=True)
class Needs:
    """What a method reads from a Trace; nothing else is computed.

    Args:
        gradient: gradients of the target (with respect to hidden states, and attention if that is read).
        received: the attention that each token receives; linear memory.
        attention: the attention matrices, a block at a time; memory grows with the square of the sequence.
        relevance: the relevance of attention and of the first hidden state (one more forward and backward pass).
        biases: what the bias terms contribute at each token.
        order: whether tokens see only those before them (two more forward passes, once for a model).
    """

    gradient: bool = True
    received: bool = False
    attention: bool = False
    relevance: bool = False
    biases: bool = False
    order: bool = False


RECEIVED = Needs(received=True)
"""What AttCAT reads."""


@dataclass(frozen=True)
class Trace:
    """The result of one forward and one backward pass, for a batch of `B` examples and `L` blocks.

    Args:
        hidden: per block, the hidden state `[B, T, D]`.
        gradient: per block, the gradient of the target's logit with respect to it, `[B, T, D]`.
        received: per block, the attention that each token receives, `[B, T]`; padding receives none.
        attention: per block, the attention matrix `[B, H, T, T]`, rows are queries; recomputed whenever it is read.
        attention_gradient: per block, the gradient of the target with respect to it, `[B, H, T, T]`; recomputed likewise.
        attention_relevance: per block, its relevance, `[B, H, T, T]`.
        relevance: the relevance of the first block's input, `[B, T, D]`; None if not requested.
        last: the last block's output, `[B, T, D]`.
        biases: what the bias terms contribute to the target at each token under the gradient rule, `[B, T]`; those that belong to
            no single token are shared equally by all. None if not requested.
        logits: `[B, C]`.
        target: the class explained, `[B]`; None if the target was a function of the output.
        value: what is explained, `[B]`: the target's logit, or what the function returned.
        mask: True for real tokens, `[B, T]`.
        read: the tokens that the model's head reads, bool `[B, T]`.
        causal: per block, whether its tokens see only those before them; those of an encoder do not, those of its decoder do.
        added: per block, what was added to the states of some tokens before it, which the block before did not return,
            `[B, T, D]`; None where nothing was.

    Fields that the method does not need are empty.
    """

    hidden: tuple[Tensor, ...]
    gradient: tuple[Tensor, ...]
    received: tuple[Tensor, ...]
    logits: Tensor
    target: Tensor | None
    value: Tensor
    mask: Tensor
    read: Tensor
    attention: Sequence[Tensor] = ()
    attention_gradient: Sequence[Tensor] = ()
    attention_relevance: tuple[Tensor, ...] = ()
    relevance: Tensor | None = None
    last: Tensor | None = None
    biases: Tensor | None = None
    causal: tuple[bool, ...] = ()
    added: tuple[Tensor | None, ...] = ()

    @property
    def bias(self) -> Tensor | None:
        """What all bias terms contribute, `[B]`."""
        return None if self.biases is None else self.biases.sum(-1)

    def __post_init__(self) -> None:
        batch, length = self.mask.shape
        if self.read.shape != self.mask.shape or self.logits.shape[0] != batch:
            raise CaptureError(
                f"mask {tuple(self.mask.shape)}, read {tuple(self.read.shape)} and logits {tuple(self.logits.shape)} disagree"
            )
        for name, shape in (("hidden", 3), ("gradient", 3), ("received", 2)):
            for block, tensor in enumerate(getattr(self, name)):
                if tensor.dim() != shape or tensor.shape[:2] != (batch, length):
                    raise CaptureError(
                        f"block {block}: {name} has shape {tuple(tensor.shape)}, but there are {batch} examples of {length} "
                        "tokens: the adapter's tokens do not line up with the model's hidden states"
                    )
