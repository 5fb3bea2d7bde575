"""Every path by which scores are computed gives those of the plain reference, and holds no more than it has to."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from reference import plain_attcat
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import EVERY, FAMILIES

import attcat
from attcat.capture.attention import Call, Matrices, mix
from attcat.capture.rules import Libra
from attcat.capture.torch_calls import Interception

TOKENS = 600


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def force(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """chunked: one query at a time; whole: all at once; fused: the kernel's own backward pass, also under libra."""
    monkeypatch.setattr("attcat.capture.attention.CHUNK", 1 if path == "chunked" else 1 << 40)
    monkeypatch.setattr("attcat.capture.attention.ROWS", 1)
    if path == "fused":
        monkeypatch.setattr("attcat.capture.rules.RECOMPUTED_ON", ())


@pytest.mark.parametrize("path", ["chunked", "whole", "fused"])
@pytest.mark.parametrize("name", EVERY)
def test_plain_scores_on_every_path(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, path)
    family = FAMILIES[name]
    explain = attcat.Explainer(family.model(), None, method="attcat", rule="plain")
    batch = family.arguments(2)
    for row, explanation in enumerate(explain(batch, target=[1, 1])):
        one = family.row(batch, row)
        read = explain.adapter.read(explain.adapter.encode_arguments(one))
        expected, _ = plain_attcat(explain.adapter.model, one, 1, read)
        assert relative(explanation.layers, expected) < 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_libra_scores_do_not_depend_on_the_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, found = FAMILIES[name], {}
    explain, batch = attcat.Explainer(family.model(), None), family.arguments(2)
    for path in ("fused", "whole", "chunked"):
        with monkeypatch.context() as patch:
            force(patch, path)
            found[path] = explain(batch)
    for row, expected in enumerate(found["fused"]):
        for path in ("whole", "chunked"):
            assert relative(found[path][row].layers, expected.layers) < 1e-5


# -- the pieces, against autograd through attention written out --------------------------------------------------------


def attention_case(name: str) -> tuple[Call, Tensor]:
    """A call and its values, float64, 4 heads over 2 groups of keys, 7 queries and keys."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 7, 5, generator=generator, dtype=torch.double) for heads in (4, 2, 2))
    masks = {
        "bool": torch.rand(2, 1, 7, 7, generator=generator) > 0.3,
        "additive": torch.randn(1, 4, 7, 7, generator=generator, dtype=torch.double),
        "keys only": torch.tensor([True] * 5 + [False] * 2)[None, None, None],
    }
    return Call(query, key, masks.get(name), causal=name == "causal", scale=0.7 if name == "scale" else None), value


CALLS = ["plain", "bool", "additive", "keys only", "causal", "scale"]


@pytest.mark.parametrize("chunk", [1, 60, 1 << 20])
@pytest.mark.parametrize("name", CALLS)
def test_a_calls_sums_agree_with_autograd(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attcat.capture.attention.CHUNK", chunk)
    monkeypatch.setattr("attcat.capture.attention.ROWS", 1)
    call, value = attention_case(name)
    weights = whole(call).requires_grad_()
    value.requires_grad_()
    output = mix(weights, value)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    of_value, of_weights = torch.autograd.grad(output, (value, weights), gradient)
    torch.testing.assert_close(call.pulled_back(gradient, 2), of_value)
    kept = Call(call.query, call.key, value=value.detach(), output=output)
    torch.testing.assert_close(kept.weight_gradient(gradient), of_weights)
    counted = torch.rand(2, 7, generator=torch.Generator().manual_seed(2)).double()
    counted[:, 2] = 0
    expected = torch.einsum("bq,bhqk->bk", counted, weights.detach()) / 4
    torch.testing.assert_close(call.received(counted), expected)


def whole(call: Call) -> Tensor:
    """softmax(q k^T * scale + mask), a pair of positions at a time."""
    batch, heads, queries, keys = call.shape
    found = torch.zeros(call.shape, dtype=torch.double)
    scale = call.scale or call.query.shape[-1] ** -0.5
    for b, h, q in torch.cartesian_prod(torch.arange(batch), torch.arange(heads), torch.arange(queries)).tolist():
        products = torch.stack([scale * call.query[b, h, q] @ call.key[b, h // 2, k] for k in range(keys)])
        if call.mask is not None:
            mask = call.mask.expand(batch, heads, queries, keys)[b, h, q]
            products = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
        if call.causal:
            products[q + 1 :] = -torch.inf
        found[b, h, q] = products.softmax(-1)
    return found


def test_values_of_half_precision_are_summed_up_in_float32() -> None:
    """1 + 300 * 2^-9: in bfloat16 each further term would be rounded away."""
    query = key = torch.zeros(1, 1, 301, 1, dtype=torch.bfloat16)
    gradient = torch.full((1, 1, 301, 1), 2.0**-9 * 301, dtype=torch.bfloat16)
    gradient[0, 0, 0] = 301
    exact = float(gradient.double().mean())
    assert float(Call(query, key).pulled_back(gradient, 1)[0, 0, 0, 0]) == pytest.approx(exact, rel=2**-8)


def test_a_call_that_kept_no_values_says_so() -> None:
    call, _ = attention_case("plain")
    with pytest.raises(ValueError, match="attention=True"):
        call.weight_gradient(torch.zeros(2, 4, 7, 5))


def test_matrices_are_made_when_they_are_read() -> None:
    made = []
    matrices = Matrices([lambda i=i: made.append(i) or torch.full((1,), float(i)) for i in range(4)])
    assert len(matrices) == 4
    assert not made
    assert float(matrices[-1]) == 3
    assert [float(m) for m in reversed(matrices)] == [3, 2, 1, 0]
    assert [float(m) for m in matrices[1:3]] == [1, 2]
    assert made == [3, 3, 2, 1, 0, 1, 2]


# -- what is held ------------------------------------------------------------------------------------------------------


class Held(TorchDispatchMode):
    """Watches tensors whose last two axes both have as many entries as there are tokens: how many live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.living: dict[int, weakref.ref[Any]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.dim() > 2 and min(tensor.shape[-2:]) >= TOKENS:
                storage = tensor.untyped_storage().data_ptr()
                self.living[storage] = weakref.ref(tensor)
        self.living = {storage: ref for storage, ref in self.living.items() if ref() is not None}
        self.most = max(self.most, len(self.living))
        return result


@pytest.mark.parametrize("rule", ["libra", "plain"])
@pytest.mark.parametrize("name", ["gpt2", "distilbert"])
def test_attcat_never_makes_a_matrix_over_all_tokens(name: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attcat.capture.attention.CHUNK", 1 << 18)
    explain = attcat.Explainer(longer(name), None, rule=rule)
    with Held() as held:
        explain(tokens())
    assert held.most == 0


@pytest.mark.parametrize("method", ["rollout", "genatt", "attention_gradients"])
def test_methods_over_matrices_hold_one_block_at_a_time(method: str) -> None:
    """Six blocks; what one of them needs at once is counted with two blocks."""
    found = []
    for blocks in (2, 6):
        explain = attcat.Explainer(longer("gpt2", blocks), None, method=method)
        with Held() as held:
            explain(tokens())
        found.append(held.most)
    assert 0 < found[1] <= found[0] + 1


def tokens() -> dict[str, Tensor]:
    ids = torch.randint(5, 100, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def longer(name: str, blocks: int = 2) -> torch.nn.Module:
    """A model of a family that takes `TOKENS` tokens, more than any of its widths."""
    config = FAMILIES[name].model().config
    config.max_position_embeddings = TOKENS
    config.num_hidden_layers = blocks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(FAMILIES[name].model())(config).eval()


@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 3, 7, 5), (2, 2, 3, 7, 5)])
def test_libras_attention_of_any_shape_sends_its_gradient_to_the_values_only(shape: tuple[int, ...]) -> None:
    """As an attention pool behind the blocks may call it, without an axis of heads."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3))
    with Interception(Libra(), []):
        output = F.scaled_dot_product_attention(query, key, value)
    expected = F.scaled_dot_product_attention(query.detach(), key.detach(), value)
    torch.testing.assert_close(output, expected)
    towards = torch.randn(shape, generator=generator)
    found = torch.autograd.grad(output, (query, key, value), towards, allow_unused=True)
    assert found[:2] == (None, None)
    torch.testing.assert_close(found[2], torch.autograd.grad(expected, value, towards)[0])
