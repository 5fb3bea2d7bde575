"""Tokens that are attended over side by side, pixels of one offset in every patch, as MobileViT unfolds them; small models."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from tasks_zoo import redraw
from test_regions import _transform
from torch import nn

import attcat
from attcat.model.discovered.stages import Stage
from attcat.testing import check_adapter

SIDE = 128
FIRST = {"image_size": SIDE, "hidden_sizes": [32, 40, 48], "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 80]}
FIRST |= {"num_attention_heads": 2, "num_labels": 3}
SECOND = {"image_size": SIDE, "width_multiplier": 0.25, "num_labels": 3, "base_attn_unit_dims": [64, 96, 128]}
MODELS: dict[str, Any] = {
    "first": lambda: transformers.MobileViTForImageClassification(transformers.MobileViTConfig(**FIRST)),
    "second": lambda: transformers.MobileViTV2ForImageClassification(transformers.MobileViTV2Config(**SECOND)),
    "first, pixels": lambda: transformers.MobileViTForSemanticSegmentation(transformers.MobileViTConfig(**FIRST)),
    "second, pixels": lambda: transformers.MobileViTV2ForSemanticSegmentation(transformers.MobileViTV2Config(**SECOND)),
    "first of timm": lambda: timm.create_model("mobilevit_xxs", num_classes=3),
    "second of timm": lambda: timm.create_model("mobilevitv2_050", num_classes=3),
}


def calibrated(model: nn.Module, side: int) -> nn.Module:
    """With the statistics of noise in its norms: without, nothing would arrive behind so many convolutions."""
    norms = [module for module in redraw(model).modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0)))
    return model.eval()


@cache
def explainer(name: str, **options: Any) -> attcat.Explainer:
    if options:
        return attcat.Explainer(explainer(name).adapter, **options)
    return attcat.Explainer(calibrated(MODELS[name](), SIDE), lambda picture: _transform(picture, SIDE))


def targets(name: str, x: int, y: int) -> list[Any]:
    return [("pixel", x, y, label) if "pixels" in name else label for label in range(3)]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "first, pixels"])
def test_a_painted_corner_is_seen_in_that_corner(name: str) -> None:
    explain = explainer(name, method="cat", rule="libra")
    plain = np.full((64, 64, 3), 127, np.uint8)
    for corner, (down, across) in enumerate(((0, 0), (0, 40), (40, 0), (40, 40))):
        painted = plain.copy()
        painted[down : down + 24, across : across + 24] = np.random.default_rng(1).integers(0, 255, (24, 24, 3))
        wanted = targets(name, across + 12, down + 12)
        maps = [np.stack([one.heatmap() for one in explain(picture, target=wanted)]) for picture in (plain, painted)]
        change = np.abs(maps[1] - maps[0]).mean(0)
        assert change.reshape(2, 32, 2, 32).sum((1, 3)).argmax() == corner


@pytest.mark.parametrize("name", ["first", "second, pixels"])
def test_promises_are_kept(name: str) -> None:
    failed = [str(check) for check in check_adapter(explainer(name).adapter) if check.passed is False]
    assert not failed


@pytest.mark.parametrize("name", ["first", "second", "second, pixels"])
def test_blocks_have_rows_and_columns(name: str) -> None:
    """What is unfolded, `[B, D, parts, patches]`, is not taken for rows and columns, also where it is a square."""
    states = [shape for _, *shape in explainer(name).adapter._layouts]
    stages = explainer(name).adapter.found.stages
    assert [tuple(shape[1:]) for shape in states] == [stage.grid for stage in stages]
    assert all(not stage.last and not stage.order for stage in stages)


def test_what_says_nothing_is_no_order() -> None:
    """Of a state in which nothing arrives, or all positions answer alike, no reading is the better one."""
    stage = Stage((4, 4), False, 3)
    still = torch.zeros(5, 3, 4, 4)
    assert not stage.follows(still)
    alike = still + torch.arange(5.0)[:, None, None, None]
    assert not stage.follows(alike)
    tiny = still.clone()
    for index, (rows, columns) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2)), 1):
        tiny[index, :, rows : rows + 2, columns : columns + 2] = 1.0
    assert stage.follows(tiny)
    assert not stage.follows(tiny * 1e-42)
    assert not Stage((16, 16), False, 16).follows(torch.randn(5, 16, 4, 16))  # 64 positions, not 256


def test_unfolded_pixels_are_not_the_rows_and_columns_that_they_look_like() -> None:
    """A grid of 4 x 4 in 4 patches of 4 pixels, `[B, D, 4, 4]`: the same shape, another order."""
    grid = torch.zeros(5, 3, 4, 4)
    for index, (rows, columns) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2)), 1):
        grid[index, :, rows : rows + 2, columns : columns + 2] = 1.0
    grid += torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    unfolded = nn.functional.unfold(grid, 2, stride=2).view(5, 3, 4, 4)
    assert Stage((4, 4), False, 3).follows(grid)
    assert not Stage((4, 4), False, 3).follows(unfolded)
