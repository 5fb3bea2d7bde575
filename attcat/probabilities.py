"""From logits to probabilities: the one place, for explanations and for metrics."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

Activation = Literal["softmax", "sigmoid", "none"]
"""One class of several, each class for itself, or no probabilities at all (a measured value, as in regression)."""


def settled(activation: Activation | None, classes: int) -> Activation:
    """The activation of a model that does not name one: softmax; for a single logit, sigmoid."""
    return activation or ("softmax" if classes > 1 else "sigmoid")


def log_probabilities(logits: Tensor, activation: Activation, rest: float | None = None) -> Tensor:
    """The log-probability of every class.

    Args:
        logits: `[..., C]`.
        activation: how they become probabilities.
        rest: for softmax, log of the sum of exp(logit) over further classes that are not among `logits`.

    Returns:
        `[..., C]`, in the dtype of the logits.

    Raises:
        InputError: if the logits are measured values, which have no probability.
    """
    if activation == "none":
        raise InputError("the outputs are measured values, which have no probability: read .logits")
    if activation == "sigmoid":
        return F.logsigmoid(logits)
    if rest is None:
        return logits.log_softmax(-1)
    return logits - torch.cat([logits, logits.new_full((*logits.shape[:-1], 1), rest)], -1).logsumexp(-1, keepdim=True)


def probabilities(logits: Tensor, activation: Activation, rest: float | None = None) -> Tensor:
    """The probability of every class, `[..., C]`; arguments and errors as for `log_probabilities`."""
    return log_probabilities(logits, activation, rest).exp()
