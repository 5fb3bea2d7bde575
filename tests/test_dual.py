"""Further models that compare a picture with a text: both sides keep what adapters promise, and explain the plain similarity."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tasks_zoo import redraw
from test_image_text import BLOCKS, LENGTH, PATCH, SIDE, TEXTS, Processor, pictures, processor
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

import attcat
from attcat.testing import check_adapter

SMALL = {"hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**SMALL, "vocab_size": 340, "eos_token_id": 3, "bos_token_id": 0, "pad_token_id": 1}
VISION = {**SMALL, "image_size": SIDE, "patch_size": PATCH}
CONVOLUTIONS = {
    "image_size": SIDE,
    "kernel_sizes": [3, 3],
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "depthwise_padding": [],
    "strides": [1, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 6],
    "hidden_dim": 24,
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}


def model(kind: str) -> Any:
    if kind == "chinese-clip":
        text = {**TEXT, "max_position_embeddings": LENGTH}
        config = transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
        return transformers.ChineseCLIPModel(config)
    if kind == "metaclip-2":
        text = {**TEXT, "max_position_embeddings": LENGTH, "projection_dim": 24}
        vision = {**VISION, "projection_dim": 24}
        return transformers.MetaClip2Model(
            transformers.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=24)
        )
    if kind == "altclip":
        text = {**TEXT, "max_position_embeddings": LENGTH + 2, "project_dim": 24, "type_vocab_size": 1}
        vision = {**VISION, "projection_dim": 24}
        return transformers.AltCLIPModel(
            transformers.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        )
    if kind == "siglip-2":
        text, vision = {**TEXT, "max_position_embeddings": LENGTH}, {**SMALL, "patch_size": PATCH, "num_patches": 16}
        return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
    if kind == "clipseg":
        text = {**TEXT, "max_position_embeddings": LENGTH}
        config = transformers.CLIPSegConfig(text_config=text, vision_config=VISION, projection_dim=24)
        return transformers.CLIPSegModel(config)
    if kind == "blip":
        text = {**TEXT, "max_position_embeddings": LENGTH, "encoder_hidden_size": 32}
        config = transformers.BlipConfig(text_config=text, vision_config=VISION, projection_dim=24)
        return transformers.BlipModel(config)
    if kind == "tipsv2":
        text = {**TEXT, "max_position_embeddings": LENGTH}
        vision = {n: v for n, v in VISION.items() if n != "intermediate_size"}
        config = transformers.Tipsv2Config(text_config=text, vision_config=vision, temperature_init_value=0.1)
        return transformers.Tipsv2Model(config)
    if kind == "flava":
        text = {**TEXT, "max_position_embeddings": LENGTH}
        config = transformers.FlavaConfig(
            text_config=text,
            image_config=VISION,
            multimodal_config={n: SMALL[n] for n in SMALL},
            hidden_size=32,
            projection_dim=24,
            init_codebook=False,
        )
        return transformers.FlavaForPreTraining(config)
    if kind == "align":
        text = {**TEXT, "max_position_embeddings": LENGTH}
        config = transformers.AlignConfig(text_config=text, vision_config=CONVOLUTIONS, projection_dim=24)
        return transformers.AlignModel(config)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**VISION),
        transformers.RobertaConfig(**TEXT, max_position_embeddings=LENGTH + 2, type_vocab_size=1),
        projection_dim=24,
    )
    return transformers.VisionTextDualEncoderModel(config)


KINDS = (
    "chinese-clip",
    "metaclip-2",
    "altclip",
    "siglip-2",
    "align",
    "clipseg",
    "blip",
    "tipsv2",
    "flava",
    "dual encoder",
)


@cache
def made(kind: str) -> tuple[Any, Processor, attcat.Explainer]:
    torch.manual_seed(0)
    brought = processor("siglip" if kind == "siglip-2" else "clip")
    if kind == "siglip-2":
        brought.image_processor = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=24)
    found = redraw(model(kind).eval())
    return found, brought, attcat.Explainer(found, brought)


def test_metaclip_2_reads_its_end_token_also_if_that_is_number_2() -> None:
    """CLIP's old configurations say 2 and mean the highest number; MetaCLIP 2 means it."""
    torch.manual_seed(0)
    text = {**TEXT, "max_position_embeddings": LENGTH, "projection_dim": 24, "eos_token_id": 2}
    config = transformers.MetaClip2Config(
        text_config=text, vision_config={**VISION, "projection_dim": 24}, projection_dim=24
    )
    made = redraw(transformers.MetaClip2Model(config).eval())
    tower = attcat.Explainer(made).adapter.towers[1]
    ids = torch.tensor([[5, 9, 2, 7], [5, 2, 8, 2]])
    encoding = tower.encode_arguments({"input_ids": ids, "pixel_values": torch.zeros(2, 3, SIDE, SIDE)})
    assert tower.read(encoding).int().argmax(-1).tolist() == [2, 1]


def sides(found: Any) -> list[Any]:
    return list(found) if isinstance(found, attcat.ImageText) else [found]


@pytest.mark.parametrize("kind", KINDS)
def test_every_side_keeps_what_adapters_promise(kind: str) -> None:
    found, brought, _ = made(kind)
    assert [str(check) for check in check_adapter(found, brought) if check.passed is False] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_side_explains_the_plain_similarity_alone_and_in_a_batch(kind: str) -> None:
    found, _, explainer = made(kind)
    pairs = list(zip(pictures(), TEXTS, strict=True))
    together = explainer(pairs)
    for row, pair in enumerate(pairs):
        with torch.no_grad():
            further = {"return_loss": False} if kind == "flava" else {}
            output = found(**explainer.adapter.encode([pair]).arguments, **further)
            expected = float(output["contrastive_logits_per_image" if kind == "flava" else "logits_per_image"])
        for one, other in zip(sides(explainer(pair)), sides(together[row]), strict=True):
            assert one.value == pytest.approx(expected, abs=1e-4)
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-3, atol=1e-5)


def test_pictures_of_siglip_2_keep_their_proportions() -> None:
    explained = made("siglip-2")[2]((WIDE, TEXTS[0])).image
    rows, columns = explained.tokens.grid
    assert columns > rows
    assert explained.heatmap().shape == (32, 96)


WIDE = np.random.default_rng(0).integers(0, 256, (32, 96, 3), dtype=np.uint8)
SEEING = [kind for kind in KINDS if kind != "align"]


def paint_corners(explainer: attcat.Explainer, picture: np.ndarray) -> None:
    """Each corner of a picture, painted over, moves the token that lies there most, by a hook of our own."""
    adapter, states = explainer.adapter, []

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append((args[0] if args else kwargs["hidden_states"])[0])

    (tokens,) = adapter.encode([(picture, TEXTS[0])]).tokens
    cells, height, width = tokens.view.cells(tokens.grid), *picture.shape[:2]
    corners = [(slice(top, top + 8), slice(left, left + 12)) for top in (0, height - 8) for left in (0, width - 12)]
    painted = [picture.copy() for _ in corners]
    for each, corner in zip(painted, corners, strict=True):
        each[corner] = np.where(each[corner] > 127, 0, 255)
    hook = adapter.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
    with torch.no_grad():
        for shown in (picture, *painted):
            adapter.call(adapter.encode([(shown, TEXTS[0])]))
    hook.remove()
    before = len(adapter.prefix)
    for corner, state in zip(corners, states[1:], strict=True):
        moved = int((state - states[0]).norm(dim=-1).argmax()) - before
        assert moved == int(np.bincount(cells[corner][cells[corner] >= 0]).argmax())


@pytest.mark.parametrize("kind", SEEING)
def test_every_painted_corner_of_a_wide_picture_moves_the_token_that_lies_there(kind: str) -> None:
    paint_corners(made(kind)[2], WIDE)


def test_align_explains_the_words_alone() -> None:
    _, _, explainer = made("align")
    found = explainer((pictures()[0], TEXTS[0]))
    assert [word.text for word in found.words()] == TEXTS[0].split()
    assert "the words alone" in explainer.describe()
