"""Windows and pyramids: contributions of each block on its own grid, brought to the finest one with their sums kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from zoo_unseen import STAGES

import attcat
from attcat.testing import check_adapter


@pytest.fixture(params=STAGES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return STAGES[request.param]().eval()


def raw(model: nn.Module, blocks: tuple[nn.Module, ...], pixels: Tensor) -> list[Tensor]:
    """Gradient times input of each block, summed over features, in the block's own shape, by hooks and autograd alone."""
    states: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: states.append(args[0])) for block in blocks]
    output = model(pixels)
    for hook in hooks:
        hook.remove()
    logits = output if isinstance(output, Tensor) else output.logits
    gradients = torch.autograd.grad(logits[0, 1], states)
    products = [(state * gradient).detach() for state, gradient in zip(states, gradients, strict=True)]
    stages = [state.shape for state in states]
    return [
        product.sum(1 if len(shape) == 4 and shape[1] > shape[3] else -1).flatten()
        for product, shape in zip(products, stages, strict=True)
    ]


def test_blocks_on_their_own_grids_add_up(model: nn.Module) -> None:
    explain = attcat.Explainer(model, method="cat", rule="plain")
    (height, width), (rows, columns) = next(iter(explain.adapter._grids.items()))
    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    layers = explain({"pixel_values": pixels}, 1).layers
    assert "with grids of their own" in explain.describe()
    scale = layers.abs().max()
    for layer, expected in zip(layers, raw(model, explain.adapter.blocks, pixels), strict=True):
        step = round((rows * columns / len(expected)) ** 0.5)
        coarse = layer.view(rows // step, step, columns // step, step).sum((1, 3)).flatten()
        assert torch.allclose(coarse, expected, atol=float(1e-4 * scale))


def test_the_promises_are_kept(model: nn.Module) -> None:
    assert [check for check in check_adapter(model) if check.passed is False] == []


def test_what_needs_attention_over_all_tokens_is_refused() -> None:
    model = STAGES["swin"]().eval()
    picture = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    for method in ("attcat", "rollout", "lrp", "integrated_gradients"):
        with pytest.raises(attcat.UnsupportedModelError, match=rf"no attention over all tokens, which {method} needs"):
            attcat.Explainer(model, method=method)(picture)
    assert attcat.Explainer(model, method="input_x_gradient")(picture).layers.shape == (1, 64)


def test_positions_in_another_order_are_refused() -> None:
    class Turned(nn.Module):
        """A block over a coarser grid, column by column."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = STAGES["timm-swin"]()

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.inner(pixel_values)

    model = Turned().eval()
    model.image_size = 32
    attcat.Explainer(model)  # as it should be
    last = model.inner.layers[1].blocks[0]
    last.register_forward_pre_hook(lambda _, args: (args[0].transpose(1, 2),))
    with pytest.raises(attcat.UnsupportedModelError, match="do not lie row by row"):
        attcat.Explainer(model)
