"""On first use a discovered model is asked whether what was found about it holds; what fails is refused, with the figure.

An adapter that someone wrote has been through `attcat check`. One that was found by experiment has not: the two checks on
which every score rests are made here, on the trial input that the model was inspected with, once per adapter (a few passes
over a short text or one picture).
"""

from __future__ import annotations

import math

import torch

from ..capture.unwound import lack_of_memory
from ..errors import CaptureError, UnsupportedModelError
from ..model import Adapter, Encoding
from ..trace import in_float64, incompleteness, looks_back, passed_by, past_the_blocks, slope_error
from .settings import Settings

STEPS = (1e-2, 1e-3, 1e-1, 1e-4)
"""Finite differences in float32, the likeliest first."""

SLOPE = 0.1
"""How far the gradient may be from the change that it foretells, where it can only be measured in float32."""

EXACT = 0.02
"""The same in float64. What has no gradient in part can be off by little on one input and by half on another (YOSO)."""

MISSING = 0.03
"""The share of a logit that may be missing under libra, in float32."""


def settle(adapter: Adapter, encoding: Encoding | None) -> None:
    """Find out whether tokens see only those before them, where the adapter does not say so and its blocks are of one sequence.

    Args:
        adapter: which keeps what is found.
        encoding: to try it on; None if there is nothing yet.
    """
    if adapter.causal is None and adapter.streams is None and not adapter.has_stages and encoding is not None:
        adapter.causal = looks_back(adapter, encoding)


def prove(adapter: Adapter, settings: Settings) -> None:
    """Check what these settings rest on, if it has not been checked before.

    Raises:
        UnsupportedModelError: if a check fails; the message has the figure.
    """
    method = settings.method
    over_all = method.needs.attention or method.needs.relevance
    of_one_shape = "backward" in method.passes and settings.several and not method.states  # puts states into blocks
    if adapter.has_stages and (over_all or of_one_shape):
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} attends within windows or over coarser and coarser grids: there is no attention "
            f"over all tokens, which {method.name} needs; use method='attcat', 'cat' or 'input_x_gradient'"
        )
    if adapter.has_stages and method.needs.received and not any(adapter.attends):
        raise UnsupportedModelError(
            f"the attention of {type(adapter.model).__name__} has no keys that stand for places on the picture, so that no token "
            f"receives any, which {method.name} needs; use method='cat'"
        )
    if (over_all or method.needs.received) and not any(adapter.attends):
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} does not attend over all tokens (windows, blocks of tokens, recurrent or other "
            f"layers instead of attention): there are no attention weights, which {method.name} needs; use method='cat' or "
            "'input_x_gradient'"
        )
    if method.needs.order:
        settle(adapter, adapter.trial)
    if adapter.trial is None:
        return
    checks = []
    if "backward" in settings.method.passes:
        checks.append(("gradient", _gradient))
    if settings.rule in ("libra", "graded"):  # which are the same but for the softmax of attention
        checks.append(("libra", _libra))
    for name, check in checks:
        if name not in adapter.proven:
            adapter.proven[name] = check(adapter)
        if adapter.proven[name]:
            raise UnsupportedModelError(
                f"{type(adapter.model).__name__} cannot be explained so: {adapter.proven[name]}"
            )


def _gradient(adapter: Adapter) -> str:
    """What is wrong with the gradient at the hidden states; empty if nothing is."""
    assert adapter.trial is not None
    if past := past_the_blocks(adapter, adapter.trial):
        return (
            f"{100 * past:.2g} % of the gradient at its embeddings does not come through what its first block "
            f"({type(adapter.blocks[0]).__name__}) takes: there is a way past the blocks. Name modules that take the whole "
            "hidden state in an adapter, or use method='occlusion'"
        )
    if (adapter.streams is not None or not adapter.passes_state) and (around := passed_by(adapter, adapter.trial)):
        return (
            f"what block {around[0]} takes is not the hidden state, for some of the gradient passes it by (a sum outside of the "
            f"blocks, around a norm?). Name modules that take the hidden state in an adapter, or use method='occlusion'"
        )
    if torch.finfo(adapter.dtype).eps > 1e-6:
        return ""  # finite differences drown in the rounding of half precision
    error, limit = slope_error(adapter, adapter.trial, STEPS, enough=EXACT), SLOPE
    if error is None or not error <= EXACT:
        # Steps that are small enough for kinks, and effects that are small, drown in float32's rounding.
        for wide in (False, True):
            exact = _exact_slope_error(adapter, wide)
            error, limit = (error, limit) if exact is None or math.isnan(exact) else (exact, EXACT)
            if error is None or error <= limit:
                break
    if error is None or error <= limit:
        return ""
    return (
        f"when its embeddings are moved a little, its logits change otherwise than the gradient at the first block foretells, by "
        f"{error:.0%} of the change (at most {limit:.0%}): a part of its forward pass has no gradient, or it is all kinks. Use "
        "method='occlusion'"
    )


def _exact_slope_error(adapter: Adapter, wide: bool = False) -> float | None:
    """The same with a copy in float64, whose steps can be small; None if there is no copy, NaN if it computes none."""
    assert adapter.trial is not None
    try:
        exact, trial = in_float64(adapter, adapter.trial, wide)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None
    try:
        return slope_error(exact, trial, enough=EXACT)
    except RuntimeError as error:  # not every kernel takes float64
        # float32's figure alone would refuse a model for kinks that it may not have.
        if lack_of_memory(error) is not None:
            raise
        return None


def _libra(adapter: Adapter) -> str:
    """What is wrong with the rule libra; empty if nothing is."""
    assert adapter.trial is not None
    limit = MISSING + 20 * torch.finfo(adapter.dtype).eps
    try:
        missing = incompleteness(adapter, adapter.trial)
    except CaptureError:  # the biases' share cannot be measured: there is no figure
        return ""
    if missing <= limit:
        return ""
    return (
        f"under the rule libra gradient times input misses {missing:.0%} of the logit (at most {limit:.0%}), because it "
        "computes something that the rule does not know. Use rule='plain'"
    )
