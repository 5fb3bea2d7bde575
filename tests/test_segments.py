"""Segmentation by queries: a target names one of the segments; small random models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from running import Run
from tasks_zoo import redraw
from test_regions import NAMES, RESNET, _transform, _with_variances, first_block, noise
from torch import nn

import attcat
from attcat.adapters import hub
from attcat.model.segments import SegmentHead
from attcat.testing import check_adapter

DETR = {
    f"{side}_{name}": number
    for side in ("encoder", "decoder")
    for name, number in (("layers", 2), ("attention_heads", 8), ("ffn_dim", 32))
}
QUERIES = {"num_queries": 5, "id2label": NAMES}
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


def _resnet() -> Any:
    return transformers.ResNetConfig(hidden_sizes=[8, 12, 16, 20], depths=[1] * 4, **RESNET, **STAGES)


def _swin() -> Any:
    return transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 2, 2], window_size=4, **STAGES
    )


def _detr_config(family: str = "Detr", width: int = 32) -> Any:
    return getattr(transformers, f"{family}Config")(
        d_model=width, backbone_config=_resnet(), use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        **DETR, **QUERIES,
    )  # fmt: skip


def _detr(family: str = "Detr") -> nn.Module:
    made: nn.Module = getattr(transformers, f"{family}ForSegmentation")(_detr_config(family))
    return made


def _mask_former() -> nn.Module:
    config = transformers.MaskFormerConfig(
        backbone_config=_swin(), decoder_config=_detr_config(), fpn_feature_size=32, mask_feature_size=32, **QUERIES
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


def _mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=_swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=24,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=24, **QUERIES,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


def _eomt(family: str = "Eomt") -> nn.Module:
    """The mask of attention by masks is switched off at the end of its training."""
    config = getattr(transformers, f"{family}Config")(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=16, num_blocks=2, mlp_ratio=2,
        intermediate_size=48, num_upscale_blocks=1, **QUERIES,
    )  # fmt: skip
    model = getattr(transformers, f"{family}ForUniversalSegmentation")(config)
    model.attn_mask_probs.zero_()
    made: nn.Module = model
    return made


MODELS: dict[str, Any] = {
    "detr": _detr,
    "conditional detr": lambda: _detr("ConditionalDetr"),
    "maskformer": _mask_former,
    "mask2former": _mask2former,
    "eomt": _eomt,
    "eomt dinov3": lambda: _eomt("EomtDinov3"),
}
OF_TOKENS = ("detr", "eomt")
"""Whose first block takes `[B, T, D]`."""


@cache
def explainer(name: str, **options: Any) -> attcat.Explainer:
    if options:
        return attcat.Explainer(explainer(name).adapter, **options)
    side = 160 if name in ("detr", "conditional detr") else 64
    return attcat.Explainer(_with_variances(redraw(MODELS[name]())), lambda picture: _transform(picture, side))


def output_of(explain: attcat.Explainer) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the classes `[Q, C]`, and of the masks `[Q, rows, columns]`."""
    with torch.no_grad():
        output = explain.adapter.model(**explain.adapter.encode([noise()]).arguments)
    logits = output.logits if "logits" in output else output.class_queries_logits
    masks = output.pred_masks if "pred_masks" in output else output.masks_queries_logits
    return logits[0], masks[0]


@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_segment_is_explained_by_the_gradient_of_its_own_logit(name: str) -> None:
    explain = explainer(name, method="input_x_gradient", rule="plain")
    explanation = explain(noise(), target=("segment", 3, "dog"))
    pixels = explain.adapter.encode([noise()]).arguments["pixel_values"]
    key = "logits" if name == "detr" else "class_queries_logits"
    expected = first_block(explain, pixels, lambda output: output[key][0, 3, 1])
    torch.testing.assert_close(explanation.scores, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert explanation.task == "instance segmentation"


@pytest.mark.parametrize("name", MODELS)
def test_without_a_segment_it_is_the_most_probable_one_and_never_no_object(name: str) -> None:
    explain = explainer(name)
    logits, masks = output_of(explain)
    chances = logits.sigmoid() if name == "conditional detr" else logits.softmax(-1)[:, :-1]
    segment, best = divmod(int(chances.argmax()), len(NAMES))
    explanation = explain(noise())
    assert explanation.target == best
    assert explanation.label.startswith(f"{NAMES[best]}, segment {segment} ")
    torch.testing.assert_close(explanation.logits, logits[segment], rtol=1e-4, atol=1e-4)
    for number in range(5):
        named = explain(noise(), target=("segment", number))
        assert named.target == int(chances[number].argmax())
        assert named.label == f"{NAMES[named.target]}, segment {number}{_where(masks[number])}"


def _where(mask: torch.Tensor) -> str:
    """Of a picture of 96 x 48."""
    cells = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x] > 0]
    if not cells:
        return " without a pixel"
    across, down = 96 / mask.shape[1], 48 / mask.shape[0]
    left, right = min(x for x, _ in cells) * across, (max(x for x, _ in cells) + 1) * across
    top, bottom = min(y for _, y in cells) * down, (max(y for _, y in cells) + 1) * down
    return f" from ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"


@pytest.mark.parametrize("name", MODELS)
def test_promises_are_kept(name: str) -> None:
    failed = [str(check) for check in check_adapter(explainer(name).adapter) if check.passed is False]
    assert not failed


@pytest.mark.parametrize("name", MODELS)
def test_a_painted_corner_is_seen_in_that_corner(name: str) -> None:
    explain = explainer(name, method="input_x_gradient", rule="plain")
    targets = [("segment", number, label) for number in range(5) for label in NAMES.values()]
    plain = np.full((48, 96, 3), 127, np.uint8)
    painted = plain.copy()
    painted[:12, 72:] = (255, 0, 60)
    maps = [np.stack([one.heatmap() for one in explain(picture, target=targets)]) for picture in (plain, painted)]
    change = np.abs(maps[1] - maps[0]).mean(0)
    assert change.reshape(2, 24, 2, 48).sum((1, 3)).argmax() == 1  # above, on the right


@pytest.mark.parametrize("name", ["mask2former", "eomt"])
def test_a_batch_is_as_each_alone(name: str) -> None:
    explain = explainer(name, method="cat")
    pictures, targets = [noise(), noise(seed=1)], [("segment", 1, "cat"), ("segment", 4, ("dog", "cow"))]
    together = explain(pictures, target=targets)
    for picture, target, found in zip(pictures, targets, together, strict=True):
        alone = explain(picture, target=target)
        assert alone.label == found.label
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-3, atol=1e-4 * float(alone.scores.abs().max()))


def test_queries_that_join_the_tokens_are_the_head() -> None:
    """EoMT's queries stand in front of the tokens from its third block on."""
    adapter = explainer("eomt").adapter
    assert [block is adapter.model.layers[index] for index, block in enumerate(adapter.blocks)] == [True, True]
    assert isinstance(adapter.head, SegmentHead)
    explanation = explainer("eomt")(noise())
    assert explanation.special.tolist() == [True] * 5 + [False] * 16


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (("segment", 5), "no segment 5: the model predicts 5 segments, 0 to 4"),
        (("segment", -1), "segments are numbered from 0"),
        (("segment", "cat"), "expected target=('segment', 3), or with a class, target=('segment', 3, 'cat')"),
        (("segment", 1, "bird"), "no class 'bird'"),
    ],
)
def test_a_segment_that_is_not_there_is_refused(target: Any, message: str) -> None:
    with pytest.raises(attcat.AttCATError) as caught:
        explainer("eomt")(noise(), target=target)
    assert message in str(caught.value)


def test_a_segment_is_named_on_the_command_line(run: Run, tmp_path: Path) -> None:
    folder, found = tmp_path / "eomt", tmp_path / "found.json"
    explainer("eomt").adapter.model.save_pretrained(folder)
    processor = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
    processor(size={"height": 64, "width": 64}).save_pretrained(folder)
    Image.fromarray(noise()).save(tmp_path / "photo.png")
    result = run("explain", tmp_path / "photo.png", "--model", folder, "--target", "segment:3:dog", "--output", found)
    assert result.code == 0, result.err
    expected = attcat.Explainer(*hub.load(folder))(tmp_path / "photo.png", target=("segment", 3, "dog"))
    assert expected.label in result.out
    torch.testing.assert_close(attcat.load(found).scores, expected.scores, rtol=1e-4, atol=1e-5)
