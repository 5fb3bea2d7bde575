"""From the tokens of pictures to the patches of the vision tower that made them: one more backward pass."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.blocks import with_state
from ..capture.randomness import OwnRandomness
from ..capture.rules import Rule
from ..capture.torch_calls import Interception
from ..errors import CaptureError
from ..model import Adapter, Encoding, borrowed
from ..model.discovered.experiments import stopped_before, until_stopped
from ..model.tower import Tower, tower_state


def through_tower(
    adapter: Adapter, encoding: Encoding, tower: Tower, rule: Rule, scores: Tensor, gradient: Tensor | None
) -> Tensor:
    """Carry scores of pictures' tokens on to the tower's patches.

    With e the states in front of the tower's first block, and h those of the tokens that the tower makes of them,

        r_j = sum_d ( dv/de * e )_{j,d},    v = sum_i u_i . h_i(e),    u_i . h_i = s_i

    where u_i is the vector closest to the gradient at token i whose product with the token's state is its score s_i:

        u_i = g_i + (s_i - g_i . h_i) / |h_i|^2 * h_i

    So a score that is gradient times state goes on by the chain rule. Without a gradient, each patch gets the part of the token's
    state that it made. Under a complete rule the r_j of all positions add up to the scores, but for what the tower's biases give.

    Args:
        adapter: of the model.
        encoding: the only example.
        tower: where the patches lie.
        rule: gradient rule, made for this pass.
        scores: s, `[T]`, 0 for tokens that are not carried.
        gradient: g, `[T, D]`; None if the scores are not made of it.

    Returns:
        float32 `[positions]` in the order of `tower.places`.

    Raises:
        CaptureError: if the tokens do not depend on the tower's states.
    """
    leaves: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = tower_state(args, kwargs)
        if found is None or len(leaves) == tower.calls:
            return None
        place, state = found
        torch.set_grad_enabled(True)
        leaves.append(state.detach().clone().requires_grad_())
        return with_state(place, leaves[-1], args, kwargs)

    with borrowed(adapter) as own, OwnRandomness(), torch.no_grad(), ExitStack() as undo:
        block = own.model.get_submodule(tower.block)
        undo.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        seen = undo.enter_context(stopped_before(own.blocks[0]))
        undo.enter_context(Interception(rule, []))
        until_stopped(partial(own.call, encoding))
    if not seen or not leaves or not seen[0].requires_grad:
        raise CaptureError(f"through_tower=True: the tokens do not depend on what {tower.block} is given")
    state = seen[0].transpose(1, adapter.position_axis)[0]
    count, width = state.shape  # what a decoder wrote stands behind these, and may be wider
    scores, gradient = scores[:count], None if gradient is None else gradient[:count, :width]
    with torch.enable_grad():
        value = (state * directions(state.detach().float(), scores, gradient).to(state.dtype)).sum()
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    parts = [
        torch.zeros_like(leaf).sum(-1) if slope is None else (leaf.detach().float() * slope.float()).sum(-1)
        for leaf, slope in zip(leaves, found, strict=True)
    ]
    return torch.cat([part.float().flatten() for part in parts])


def directions(state: Tensor, scores: Tensor, gradient: Tensor | None) -> Tensor:
    """The vectors closest to the gradient `[T, D]` whose products with the states `[T, D]` are the scores `[T]`."""
    scores = scores.to(state)
    near = torch.zeros_like(state) if gradient is None else gradient.to(state)
    near = near * (scores != 0)[:, None]
    missing = (scores - (near * state).sum(-1)) / (state * state).sum(-1).clamp(min=1e-30)
    return near + missing[:, None] * state
