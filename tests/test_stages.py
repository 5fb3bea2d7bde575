"""Windows and pyramids: contributions of each block on its own grid, brought to the finest one with their sums kept."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zoo_unseen import PYRAMIDS, STAGES

import attcat
from attcat.model.discovered.vision import DiscoveredVision
from attcat.testing import check_adapter
from attcat.trace import incompleteness


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


@pytest.mark.parametrize("kind", PYRAMIDS)
def test_every_arrangement_is_found(kind: str) -> None:
    make, grid = PYRAMIDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
    explain = attcat.Explainer(model)
    assert [
        str(check) for check in check_adapter(model) if check.passed is False
    ] == []  # among them, where patches lie
    height, width = next(iter(explain.adapter._grids))
    picture = {"pixel_values": torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))}
    explanation = explain(picture)
    assert explanation.tokens.grid == grid
    assert explanation.method == attcat.methods.DEFAULT
    assert bool((torch.as_tensor(explanation.layers).abs().sum(1) > 0).any())
    assert explanation.heatmap().shape == (height, width)


def test_large_pictures_are_not_tried_together() -> None:
    """Eight of SAM's pictures at a time do not fit into the memory of most machines."""
    torch.manual_seed(0)
    model = timm.create_model(
        "samvit_base_patch16",
        img_size=512,
        patch_size=64,
        embed_dim=8,
        depth=2,
        num_heads=1,
        global_attn_indexes=(1,),
        window_size=5,
        neck_chans=8,
        num_classes=3,
    ).eval()
    counts: list[int] = []
    with_hook = model.patch_embed.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    explainer = attcat.Explainer(model)
    with_hook.remove()
    assert explainer.adapter.has_stages
    assert max(counts) == 1


def test_no_graph_is_kept_while_other_pictures_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the states of the pass that was watched before; of large pictures each of them fills the memory."""
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def states(self: DiscoveredVision, *args: Any, **options: Any) -> list[Tensor]:
        alive.append(sum(state() is not None for state in made))
        return _states(self, *args, **options)

    _states = DiscoveredVision._states
    monkeypatch.setattr(DiscoveredVision, "_states", states)
    torch.manual_seed(0)
    model = STAGES["segformer"]().eval()
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.register_forward_hook(lambda _, args, output: made.append(weakref.ref(output)))
    attcat.Explainer(model)
    assert made
    assert max(alive) == 0


def test_what_needs_attention_over_all_tokens_is_refused() -> None:
    model = STAGES["swin"]().eval()
    picture = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    for method in ("rollout", "lrp", "integrated_gradients"):
        with pytest.raises(attcat.UnsupportedModelError, match=rf"no attention over all tokens, which {method} needs"):
            attcat.Explainer(model, method=method)(picture)
    assert attcat.Explainer(model, method="input_x_gradient")(picture).layers.shape == (1, 64)
    assert attcat.Explainer(model, method="oddscat:samples=2")(picture).layers.shape == (2, 64)


def test_attention_between_channels_is_received_by_no_token() -> None:
    model = PYRAMIDS["attention between channels"][0]().eval()
    with pytest.raises(attcat.UnsupportedModelError, match="no keys that stand for places"):
        attcat.Explainer(model, method="attcat")({"pixel_values": torch.zeros(1, 3, 32, 32)})


def test_positions_in_another_order_are_found() -> None:
    class Turned(nn.Module):
        """Its last block lies column by column on the picture."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = STAGES["timm-swin"]()

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.inner(pixel_values)

    torch.manual_seed(0)
    model = Turned().eval()
    model.image_size = 32
    as_it_was = attcat.Explainer(model).adapter._layout.stages
    assert [stage.order for stage in as_it_was] == [(), ()]
    model.inner.layers[1].blocks[0].register_forward_pre_hook(lambda _, args: (args[0].transpose(1, 2),))
    _, last = attcat.Explainer(model).adapter._layout.stages
    assert last.order == tuple(torch.arange(16).view(4, 4).T.flatten().tolist())


# -- received attention, against slow versions -----------------------------------------------------------------------


class Softmaxes(TorchFunctionMode):
    """Keeps every softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.softmax, torch.nn.functional.softmax, Tensor.softmax):
            self.seen.append(result.detach())
        return result


def written_out(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def matrices(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    with Softmaxes() as kept, torch.no_grad():
        model(pixels)
    return kept.seen


def received_in_windows(matrix: Tensor, grid: tuple[int, int], window: int, shift: int) -> Tensor:
    """A token's weight: the mean over heads and over the queries of its window that can see it, one after another."""
    rows, columns = grid
    weights = torch.zeros(rows, columns)
    for down in range(rows // window):
        for across in range(columns // window):
            one = matrix[down * (columns // window) + across]
            for key in range(window**2):
                row = (down * window + key // window + shift) % rows
                column = (across * window + key % window + shift) % columns
                seeing = [one[head, query, key] for head in range(len(one)) for query in range(window**2)]
                seeing = [weight for weight in seeing if weight > 0]
                weights[row, column] = sum(seeing) / len(seeing)
    return weights


@pytest.mark.parametrize("fused", [True, False])
def test_received_attention_within_windows_that_are_shifted(fused: bool) -> None:
    torch.manual_seed(0)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=(32, 64),
        window_size=4,
        embed_dim=16,
        depths=(2,),
        num_heads=(2,),
        num_classes=3,
    ).eval()
    pixels = torch.randn(1, 3, 32, 64)
    expected = [
        received_in_windows(matrix, (8, 16), 4, shift)
        for matrix, shift in zip(matrices(written_out(copy.deepcopy(swin)), pixels), (0, 2), strict=True)
    ]
    model = swin if fused else written_out(swin)
    weighted, plain = (
        attcat.Explainer(model, method=name)({"pixel_values": pixels}, 1).layers for name in ("attcat", "cat")
    )
    for weighted_layer, layer, weights in zip(weighted, plain, expected, strict=True):
        assert torch.allclose(
            torch.as_tensor(weighted_layer), torch.as_tensor(layer) * weights.flatten(), atol=1e-7, rtol=1e-4
        )


def test_received_attention_of_coarser_keys_is_shared_among_the_tokens_that_they_stand_for() -> None:
    torch.manual_seed(0)
    pvt = timm.create_model(
        "pvt_v2_b0", embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), num_classes=3
    ).eval()
    pixels = torch.randn(1, 3, 224, 224)
    seen = matrices(written_out(copy.deepcopy(pvt)), pixels)
    weighted, plain = (
        attcat.Explainer(pvt, method=name)({"pixel_values": pixels}, 1).layers for name in ("attcat", "cat")
    )
    for block, (matrix, many) in enumerate(zip(seen, (56, 28, 14, 7), strict=True)):
        weights = torch.zeros(56, 56)
        for row in range(56):
            for column in range(56):
                own = (row * many // 56, column * many // 56)  # its position in the block
                coarse = own[0] * 7 // many * 7 + own[1] * 7 // many
                weights[row, column] = matrix[0, 0, :, coarse].mean() / (many // 7) ** 2
        expected = torch.as_tensor(plain[block]) * weights.flatten()
        assert torch.allclose(
            torch.as_tensor(weighted[block]), expected, atol=1e-7 * float(expected.abs().max()), rtol=1e-3
        )


class OneWindow(nn.Module):
    """Reads one window of the last stage of a pyramid without shifted windows, and nothing else."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.image_size = (32, 64)
        self.body = timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=(32, 64),
            window_size=2,
            embed_dim=16,
            depths=(1, 1),
            num_heads=(2, 2),
        )
        self.head = nn.Linear(32, 3)
        self.row, self.column = row, column

    def forward(self, pixel_values: Tensor) -> Tensor:
        state = self.body.layers(self.body.patch_embed(pixel_values))
        return self.head(state[:, self.row, self.column])


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 7), (3, 0), (3, 7)])
def test_a_model_that_reads_one_corner_is_explained_by_that_corner(row: int, column: int) -> None:
    torch.manual_seed(0)
    model = OneWindow(row, column).eval()
    explanation = attcat.Explainer(model)({"pixel_values": torch.randn(1, 3, 32, 64)}, 1)
    scores = torch.as_tensor(explanation.scores).view(8, 16)
    read = torch.zeros(8, 16, dtype=torch.bool)  # a window of 2 x 2 in the second stage is one of 4 x 4 patches
    read[row // 2 * 4 : row // 2 * 4 + 4, column // 2 * 4 : column // 2 * 4 + 4] = True
    assert bool((scores[read] != 0).all())
    assert bool((scores[~read] == 0).all())


def test_a_sum_outside_of_the_blocks_and_around_a_norm() -> None:
    """The piece between two states is the block, whichever modules it is made of."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.queries(x).chunk(3, -1))
            mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(mixed.transpose(1, 2).flatten(2))

    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image_size = 32
            self.patches = nn.Conv2d(3, 16, 8, 8)
            self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))
            self.layers = nn.ModuleList(Layer() for _ in range(3))
            self.head = nn.Linear(16, 3)

        def forward(self, pixel_values: Tensor) -> Tensor:
            x = self.patches(pixel_values).flatten(2).transpose(1, 2)
            for norm, layer in zip(self.norms, self.layers, strict=True):
                x = x + layer(norm(x))
            return self.head(x.mean(1))

    torch.manual_seed(0)
    model = Outside().eval()
    pixels = torch.randn(1, 3, 32, 32)
    layers = attcat.Explainer(model, method="cat", rule="plain")({"pixel_values": pixels}, 1).layers
    states: list[Tensor] = []
    hooks = [norm.register_forward_pre_hook(lambda _, args: states.append(args[0])) for norm in model.norms]
    logits = model(pixels)
    for hook in hooks:
        hook.remove()
    for layer, state in zip(layers, states, strict=True):
        (gradient,) = torch.autograd.grad(logits[0, 1], state, retain_graph=True)
        assert torch.allclose(torch.as_tensor(layer), (state * gradient).sum(-1)[0], atol=1e-6)


def test_what_hybrids_are_made_of_is_complete_under_libra() -> None:
    class Mixed(nn.Module):
        """Normalisations over channels, gates that saturate, constants that are added on the way."""

        def __init__(self) -> None:
            super().__init__()
            self.batch, self.group, self.instance = (
                nn.BatchNorm2d(8),
                nn.GroupNorm(2, 8),
                nn.InstanceNorm2d(8, affine=True),
            )
            self.up, self.down = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 8, 2, 2)
            self.constant = nn.Parameter(torch.randn(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(2).transpose(1, 2)[:, None]
            attended = torch.nn.functional.scaled_dot_product_attention(flat, flat, flat)
            x = x + attended[:, 0].transpose(1, 2).reshape(x.shape)
            x = x + self.down(torch.nn.functional.relu6(self.up(self.batch(x))))
            x = x * torch.nn.functional.hardsigmoid(x.mean((2, 3), keepdim=True)) + self.group(x)
            return torch.addcmul(self.constant, self.instance(x), self.constant) + x

    class Hybrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image_size = 32
            self.patches, self.mixed, self.head = (
                nn.Conv2d(3, 8, 4, 4),
                nn.ModuleList([Mixed(), Mixed()]),
                nn.Linear(8, 3),
            )

        def forward(self, pixel_values: Tensor) -> Tensor:
            x = self.patches(pixel_values)
            for mixed in self.mixed:
                x = mixed(x)
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Hybrid().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
    adapter = attcat.Explainer(model.double()).adapter
    assert adapter.has_stages
    assert incompleteness(adapter, adapter.trial) < 1e-6
