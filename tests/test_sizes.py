"""Pictures of another size or aspect ratio than the model was trained with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from reference import plain_attcat
from test_image_text import explainer as pair_explainer
from torch import nn
from torchvision import transforms
from zoo import FAMILIES, PATCH, SIDE

import attcat

DYNAMIC = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 3}
TO_TENSOR = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
"""Keeps every picture as large as it is."""


def timm_dynamic(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, dynamic_img_size=True, **DYNAMIC)


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: FAMILIES[name].make for name in ("vit", "deit", "deit-teacher", "dinov2", "dinov2-registers")},
    "timm-vit": timm_dynamic("vit_tiny_patch16_224"),
    "timm-deit-distilled": timm_dynamic("deit_tiny_distilled_patch16_224"),
    "timm-dinov2-reg4": timm_dynamic("vit_small_patch14_reg4_dinov2"),
}


def model(name: str) -> Any:
    made = MODELS[name]().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return made


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("size", [(48, 48), (24, 64), (40, 16)])
def test_scores_and_prediction_are_those_of_the_plain_model_at_this_size(name: str, size: tuple[int, int]) -> None:
    explain = attcat.Explainer(model(name), TO_TENSOR, method="attcat", rule="plain")
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    explanation = explain({"pixel_values": pixels}, 1)
    arguments: dict[str, Any] = {"pixel_values": pixels}
    if name in ("vit", "deit", "deit-teacher"):
        arguments["interpolate_pos_encoding"] = True
    with torch.no_grad():
        output = explain.adapter.model(pixels) if name.startswith("timm") else explain.adapter.model(**arguments).logits
    torch.testing.assert_close(explanation.logits, output[0], rtol=1e-4, atol=1e-5)
    assert explanation.tokens.grid == (size[0] // PATCH, size[1] // PATCH)
    if not name.startswith("timm"):  # the reference writes timm's forward pass out for one size
        read = explain.adapter.read(explain.adapter.encode_arguments({"pixel_values": pixels}))
        expected, _ = plain_attcat(explain.adapter.model, arguments, 1, read)
        assert float((explanation.layers - expected).abs().max() / expected.abs().max()) < 1e-4


def test_an_object_is_found_where_it_is(name: str) -> None:
    """Without position embeddings all grey patches are alike; the only other one is where the object was put."""
    made = model(name)
    for key, parameter in made.named_parameters():
        if "pos" in key:
            parameter.data.zero_()
    explain = attcat.Explainer(made, TO_TENSOR)
    for (height, width), (row, column) in (((24, 64), (1, 6)), ((48, 32), (5, 0))):
        picture = np.full((height, width, 3), 128, dtype=np.uint8)
        picture[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = [250, 20, 90]
        explanation = explain(picture, 0)
        grid = explanation.grid
        away = (grid - grid.flatten().median()).abs()
        assert int(away.argmax()) == row * grid.shape[1] + column
        others = away.flatten().sort().values[:-1]
        assert float(others.max()) < 1e-3 * float(away.max())
        heat = np.abs(explanation.heatmap() - float(grid.flatten().median()))
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        assert (y // PATCH, x // PATCH) == (row, column)


def test_pictures_of_several_sizes_in_one_list(name: str) -> None:
    """A transform that keeps the aspect ratio: one by one, and each as if alone."""
    keep = transforms.Compose([transforms.Resize(SIDE), TO_TENSOR])
    explain = attcat.Explainer(model(name), keep)
    generator = np.random.default_rng(0)
    shapes = ((64, 64), (32, 64), (80, 40))
    pictures = [Image.fromarray(generator.integers(0, 255, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    together = explain(pictures)
    assert [one.tokens.grid for one in together] == [(4, 4), (4, 8), (8, 4)]
    for one, picture in zip(together, pictures, strict=True):
        torch.testing.assert_close(one.layers, explain(picture).layers)
        assert one.heatmap().shape == (picture.height, picture.width)
        assert not np.isnan(one.heatmap()).any()


def test_transformers_image_processors_at_another_size() -> None:
    processor = transformers.ViTImageProcessorPil(size={"height": 24, "width": 64})
    explanation = attcat.Explainer(model("vit"), processor)(Image.new("RGB", (100, 50), (200, 30, 30)))
    assert explanation.tokens.grid == (3, 8)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_take_other_sizes(kind: str) -> None:
    explain = pair_explainer(kind)
    explain.adapter.processor = TO_TENSOR
    result = explain((np.full((24, 64, 3), 90, dtype=np.uint8), "a film"))
    assert result.image.tokens.grid == (3, 8)
    with torch.no_grad():
        arguments = explain.adapter.encode([(np.full((24, 64, 3), 90, dtype=np.uint8), "a film")]).arguments
        output = explain.adapter.model(**arguments, interpolate_pos_encoding=True)
    assert result.text.value == pytest.approx(float(output.logits_per_image), abs=1e-4)


def test_a_fixed_timm_model_says_how_to_make_it_for_other_sizes() -> None:
    explain = attcat.Explainer(FAMILIES["timm-vit"].model(), TO_TENSOR)
    told = r"not take pictures of 24 x 64 pixels, but of 32 x 32: call model\.set_input_size\(img_size=\(24, 64\)\)"
    with pytest.raises(attcat.ProcessorError, match=told):
        explain(np.zeros((24, 64, 3), dtype=np.uint8))
    explain.adapter.model.set_input_size(img_size=(24, 64))
    assert explain(np.zeros((24, 64, 3), dtype=np.uint8)).tokens.grid == (3, 8)
    wrapped = attcat.Explainer(FAMILIES["timm-wrapper"].model(), TO_TENSOR)
    with pytest.raises(attcat.ProcessorError, match="dynamic_img_size=True"):
        wrapped(np.zeros((24, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("message", ["Input image size (48*48) doesn't match model (32*32).", "unexpected height"])
def test_another_size_is_blamed_only_where_the_size_is_another(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = attcat.Explainer(model("vit"))

    def refuse(**_: Any) -> Any:
        raise ValueError(message)

    monkeypatch.setattr(explain.adapter.model, "forward", refuse)
    with pytest.raises(
        attcat.ProcessorError, match=f"of {SIDE + PATCH} x {SIDE + PATCH} pixels, it was made for {SIDE}"
    ):
        explain({"pixel_values": torch.randn(1, 3, SIDE + PATCH, SIDE + PATCH)})
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        explain({"pixel_values": torch.randn(1, 3, SIDE, SIDE)})
