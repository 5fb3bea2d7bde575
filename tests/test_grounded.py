"""Detectors whose words mix with a picture on several grids: of a box and a word, both are explained on one scale."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import tokenizer
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

import attcat
from attcat.adapters.grounded import GroundedAdapter
from attcat.testing import check_adapter
from attcat.trace.checks import in_float64, past_the_blocks, slope_error

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
TEXT = "a gripping film"
FINITE = "gradients agree with finite differences"
GRIDS = [(8, 12), (4, 6), (2, 3), (1, 2)]


@cache
def made() -> GroundedAdapter:
    torch.manual_seed(0)
    return GroundedAdapter(redraw(zoo.grounding_dino().eval()), processor())


@cache
def processor() -> Any:
    pictures = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}, do_pad=False)
    return transformers.GroundingDinoProcessor(pictures, tokenizer())


@cache
def other() -> GroundedAdapter:
    """MM Grounding DINO, of the same parts."""
    config: Any = made().model.config
    torch.manual_seed(0)
    given = {n: getattr(config, n) for n in ("d_model", "num_queries", "backbone_config", "text_config")}
    given |= dict.fromkeys(("encoder_layers", "decoder_layers"), 2) | {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    model = transformers.MMGroundingDinoForObjectDetection(transformers.MMGroundingDinoConfig(**given))
    return GroundedAdapter(redraw(model.eval()), processor())


def states_of(picture: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the first block of the text and the encoder of both take, by hooks of our own on a plain pass; and its logits."""
    adapter, seen = made(), []
    model: Any = adapter.model

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs.get("vision_features", kwargs.get("hidden_states")))

    first = (model.model.text_backbone.encoder.layer[0], model.model.encoder)
    hooks = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in first]
    whole: Any = adapter.whole_processor
    pixels = whole.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    ids = torch.tensor([whole.tokenizer(TEXT)["input_ids"]])
    logits = model(input_ids=ids, pixel_values=pixels).logits[0]
    for hook in hooks:
        hook.remove()
    return seen, logits


@pytest.mark.parametrize("model", [made, other])
def test_it_keeps_what_adapters_promise(model: Any) -> None:
    """Though the model writes its logits into 32 bits by itself, in which most of what a small change does drowns."""
    checks = check_adapter(model())
    assert [str(check) for check in checks if check.passed is False] == []
    assert FINITE in [check.name for check in checks if check.passed]


@pytest.mark.parametrize("model", [made, other])
def test_gradients_go_through_the_places_where_its_queries_look(model: Any) -> None:
    """The model detaches these; without them up to 5 % of what a change does would be in no gradient."""
    adapter = model()
    exact, trial = in_float64(adapter, adapter.head.point(adapter.encode([(PICTURE, TEXT)]), [(2,)]), wide=True)
    assert slope_error(exact, trial) == pytest.approx(0, abs=1e-5)
    assert past_the_blocks(exact, trial) == 0


def test_the_scores_of_a_box_and_a_word_are_those_of_a_plain_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient times input of words and patches, by autograd without the library, in a pass that detaches nothing."""
    found = attcat.Explainer(made(), method="input_x_gradient", rule="plain")((PICTURE, TEXT), target=("box", 2, 1))
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "detach", lambda self: self)
        states, logits = states_of(PICTURE)
    slopes = torch.autograd.grad(logits[2, 1], states)
    expected = [float(x) for s, g in zip(states, slopes, strict=True) for x in (s * g).sum(-1)[0].detach()]
    assert found.value == pytest.approx(float(logits[2, 1].detach()), rel=1e-4)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-3, atol=1e-6)


def test_words_and_patches_share_one_complete_explanation(tmp_path: Any) -> None:
    explain = attcat.Explainer(made(), method="input_x_gradient", rule="libra", completeness=True)
    found = explain((PICTURE, TEXT), target=("box", 2))
    _, logits = states_of(PICTURE)
    assert found.value == pytest.approx(float(logits[2].max().detach()), rel=1e-4)
    assert found.completeness == pytest.approx(0, abs=1e-4)
    assert [word.text for word in found.words()] == TEXT.split()
    assert found.heatmap(image=0).shape == PICTURE.shape[:2]
    assert min(found.shares().picture, found.shares().text) > 0
    found.save(tmp_path / "box.html")


def test_model_arguments_do_without_a_processor() -> None:
    adapter = GroundedAdapter(made().model)
    assert attcat.Explainer(adapter, method="cat")(adapter.samples(), ("box", 0)).label.startswith("#")
    with pytest.raises(attcat.InputError, match="one row of input_ids without padding"):
        adapter.encode_arguments(
            {"input_ids": torch.ones(2, 5, dtype=torch.long), "pixel_values": torch.ones(1, 3, 64, 96)}
        )


def test_every_painted_corner_moves_the_token_that_lies_there() -> None:
    """On each grid that is not coarser than two rows."""
    tokens = made().encode([(PICTURE, TEXT)]).tokens[0]
    assert tokens.patches is not None
    assert [patches.grid for patches in tokens.patches] == GRIDS
    plain = states_of(PICTURE)[0][1][0].detach()
    for top, left in ((0, 0), (0, 88), (56, 0), (56, 88)):
        painted = PICTURE.copy()
        part = painted[top : top + 8, left : left + 8]
        part[...] = np.where(part > 127, 0, 255)
        change, start = (states_of(painted)[0][1][0].detach() - plain).norm(dim=-1), 0
        for rows, columns in GRIDS[:3]:
            found = int(change[start : start + rows * columns].argmax())
            assert divmod(found, columns) == (top * rows // 64, left * columns // 96)
            start += rows * columns


def test_removed_words_and_patches() -> None:
    encoding = made().encode([(PICTURE, TEXT)])
    removed = torch.zeros_like(encoding.mask)
    removed[0, [1, encoding.offset]] = True
    changed = made().remove(encoding, removed).arguments
    assert (changed["input_ids"] != encoding.arguments["input_ids"])[0].nonzero().flatten().tolist() == [1]
    moved = (changed["pixel_values"] - encoding.arguments["pixel_values"]).abs().amax((0, 1)) > 0
    assert moved[:8, :8].all()
    assert not moved[8:].any()
    assert not moved[:, 8:].any()


def test_something_else_than_a_picture_and_a_text_is_refused() -> None:
    explainer = attcat.Explainer(made(), method="cat")
    for wrong in (PICTURE, "a film"):
        with pytest.raises(attcat.InputError, match="an input is a picture and a text"):
            explainer(wrong)
    with pytest.raises(attcat.TargetError, match="no box 9"):
        explainer((PICTURE, TEXT), target=("box", 9))


def test_a_mask_may_be_written_over_a_clamped_value() -> None:
    """As such models do in their attention: under `libra` the clamp is a function of ours."""
    from attcat.capture.rules import _clamped

    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = _clamped(torch.clamp, x, min=-1.5, max=1.5)
    y.masked_fill_(torch.tensor([True, False]), 0.0)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0.0, 0.75]


def test_a_picture_with_fewer_places_than_queries_is_refused_readably() -> None:
    """The model itself raises "selected index k out of range"; what it is tried on is large enough."""
    adapter = GroundedAdapter(redraw(zoo.grounding_dino().eval()))
    model: Any = adapter.model
    model.config.num_queries = 200
    small = {"input_ids": torch.arange(9)[None], "pixel_values": torch.zeros(1, 3, 64, 96)}
    with pytest.raises(attcat.InputError, match=r"96 x 64 pixels has 128 places to look at.*best 200: give a larger"):
        adapter.encode_arguments(small)
    assert sum(rows * columns for rows, columns in adapter.grids(adapter.samples())) >= 200
