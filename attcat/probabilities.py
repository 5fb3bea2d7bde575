"""From logits to probabilities: one place for explanations and metrics."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, Option, OptionError

Activation = Literal["softmax", "sigmoid", "none"]
"""One class of several, each class for itself, or no probabilities at all (a measured value, as in regression)."""

Quantity = Literal["logit", "log-odds", "probability", "log-probability"]
"""What is explained of a class: its logit, or what the logits make of it together."""


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


def quantity(logits: Tensor, classes: Tensor, which: Quantity, activation: Activation) -> Tensor:
    """What the model says of one class per row, as a number that can be differentiated.

        logit            y_c
        log-odds         ln p_c / (1 - p_c); of a softmax y_c - ln sum_{k != c} exp(y_k), of a sigmoid y_c itself
        probability      p_c
        log-probability  ln p_c

    A measured value has no probability, and so no odds: its log-odds are the value.

    Args:
        logits: `[N, C]`, all of them.
        classes: `[N]`.
        which: what is asked for.
        activation: how logits become probabilities, as `settled` gives it.

    Returns:
        `[N]`.

    Raises:
        OptionError: if there is no such quantity.
        InputError: if it is a probability of a measured value.
    """
    if which not in get_args(Quantity):
        raise OptionError(Option("quantity", which), f" is not one of {', '.join(get_args(Quantity))}")
    index = classes[:, None]
    value = logits.gather(1, index).squeeze(1)
    if which == "logit":
        return value
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if which == "log-odds":
        alone = activation != "softmax" or logits.shape[1] == 1
        return value if alone else value - wide.scatter(1, index, -torch.inf).logsumexp(-1)
    every = probabilities if which == "probability" else log_probabilities
    return every(wide, activation).gather(1, index).squeeze(1)
