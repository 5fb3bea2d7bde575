"""Models that see and write: which parts of a picture, and which words before, a written word came from."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tasks_zoo import redraw, tokenizer
from torch import nn

import attcat
from attcat.testing import check_adapter

_EYE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_IDS = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
_GPT2 = {"vocab_size": 340, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}
_TROCR = {
    "vocab_size": 340,
    "d_model": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "cross_attention_hidden_size": 32,
    "max_position_embeddings": 64,
}
ANSWER = "boring film"


def encoder_decoder(encoder: Any, decoder: Any) -> nn.Module:
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **_IDS)
    return redraw(transformers.VisionEncoderDecoderModel(config=config))


def captioner() -> nn.Module:
    """ViT with GPT-2, which is narrower: what it reads is projected."""
    return encoder_decoder(transformers.ViTConfig(**_EYE), transformers.GPT2Config(**_GPT2, n_embd=24))


def reader() -> nn.Module:
    """TrOCR: DeiT, which has two tokens before its patches, with a decoder of its own."""
    return encoder_decoder(transformers.DeiTConfig(**_EYE), transformers.TrOCRConfig(**_TROCR))


def blip() -> nn.Module:
    """BLIP: a text model that calls what it wrote its input."""
    words = _IDS | {"encoder_hidden_size": 32, "max_position_embeddings": 64, "sep_token_id": 3, "vocab_size": 340}
    shape = {
        name: _EYE[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    config = transformers.BlipConfig(text_config=shape | words, vision_config=dict(_EYE))
    return redraw(transformers.BlipForConditionalGeneration(config))


MAKE = {"captioner": captioner, "reader": reader, "blip": blip}
LINES = {
    "captioner": ("encoder.layers", "decoder.transformer.h"),
    "reader": ("encoder.layers", "decoder.model.decoder.layers"),
    "blip": ("vision_model.encoder.layers", "text_decoder.bert.encoder.layer"),
}
"""Where the blocks are."""


@cache
def made(name: str) -> tuple[nn.Module, Any]:
    """The model, and a processor of the kind that transformers has: an image processor and a tokenizer."""
    images = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return MAKE[name](), SimpleNamespace(image_processor=images, tokenizer=tokenizer("Bert"))


@cache
def explainer(name: str) -> attcat.Explainer:
    return attcat.Explainer(*made(name), method="cat")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", MAKE)
def test_every_check_holds(name: str) -> None:
    assert [str(check) for check in check_adapter(*made(name)) if check.passed is False] == []


@pytest.mark.parametrize("name", MAKE)
def test_scores_are_those_of_autograd_and_complete_under_libra(name: str) -> None:
    model, _ = made(name)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    taken: list[torch.Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken.append(args[0] if args else kwargs["hidden_states"])

    first = [model.get_submodule(f"{path}.0") for path in LINES[name]]
    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in first]
    written = {"input_ids" if name == "blip" else "decoder_input_ids": torch.tensor([[2, 40, 41]])}
    logits = model(pixel_values=pixels, **written).logits
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(logits[0, -1, 42], taken)
    expected = [(state * gradient).sum(-1)[0].detach() for state, gradient in zip(taken, gradients, strict=True)]
    plain = explainer(name).like(method="input_x_gradient", rule="plain")
    found = plain({"pixel_values": pixels}, answer=[40, 41, 42]).explanations[-1]
    torch.testing.assert_close(found.scores, torch.cat(expected), atol=1e-6, rtol=1e-3)
    libra = plain.like(rule="libra", completeness=True)
    for one in libra(picture(), answer=ANSWER).explanations:
        assert one.completeness == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", MAKE)
def test_what_is_written_is_explained_by_patches_and_words(name: str, tmp_path: Path) -> None:
    explain = explainer(name)
    before = 2 if name == "reader" else 1
    generation = explain(picture(), answer=ANSWER)
    start = before + 16 + 1  # the patches, and the decoder's start, with which the tokenizer begins as well
    assert generation.start == start
    assert generation.matrix.shape == (3, start + 3)
    found = generation.of("film")
    assert found.heatmap(0).shape == (48, 64)
    patches = found.scores[before : before + 16].view(4, 4)
    seen = found.of_image(0)
    torch.testing.assert_close(seen.grid, patches)
    assert seen.view.box == (0, 0, 64, 48)
    assert [word.text for word in found.words()] == ["boring"]
    shares = found.shares()
    assert shares.picture > 0.05
    assert shares.picture + shares.text + shares.written + shares.special == pytest.approx(1)
    generation.save(tmp_path / "written.json")
    again = attcat.Generation.load(tmp_path / "written.json")
    torch.testing.assert_close(again.matrix, generation.matrix)
    assert "boring" in generation.to_html()


def test_what_the_model_writes_by_itself() -> None:
    model, processor = made("captioner")
    generation = explainer("captioner").generate(picture(), max_new_tokens=3)
    pixels = processor.image_processor(images=picture(), return_tensors="pt").pixel_values
    expected = model.generate(pixel_values=pixels, max_new_tokens=3)[0, 1:]
    assert generation.source.ids.tolist() == expected.tolist()


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "attcat"])
def test_other_methods(method: str) -> None:
    generation = explainer("captioner").like(method=method)(picture(), answer=ANSWER)
    assert generation.explanations[-1].scores[1:17].abs().max() > 0


def test_blips_own_arguments() -> None:
    """`input_ids` are what it has written, as its processor makes them with their mask."""
    explain = explainer("blip")
    pixels, ids = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([[2, 40, 41]])
    one = explain({"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
    torch.testing.assert_close(one.scores, explain({"pixel_values": pixels, "decoder_input_ids": ids}).scores)
    assert one.tokens.labels[-3:] == ("[CLS]", "#40", "#41")  # the tokenizer knows fewer than the model
    with pytest.raises(attcat.InputError, match="has padding"):
        explain({"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0]])})
    with pytest.raises(attcat.InputError, match="at the beginning of answer="):
        explain({"pixel_values": pixels, "input_ids": ids}, answer=[42])


def test_one_picture_at_a_time() -> None:
    explain = explainer("captioner")
    with pytest.raises(attcat.InputError, match="one picture at a time, got 2"):
        explain({"pixel_values": torch.zeros(2, 3, 32, 32)}, answer=[40])


def test_a_pyramid_before_a_decoder_is_refused_with_its_reason() -> None:
    """Donut."""
    eye = transformers.DonutSwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    with pytest.raises(attcat.UnsupportedModelError, match="in several lists, as those of a pyramid"):
        attcat.Explainer(encoder_decoder(eye, transformers.TrOCRConfig(**_TROCR)), None)


COLOURS = torch.eye(3)


def painted(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures of noise with one cell of 3 x 3 in a colour: pixels, cells and colours."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 24, 24, generator=generator) * 0.3
    cells, colours = (torch.randint(n, (count,), generator=generator) for n in (9, 3))
    for row, (cell, colour) in enumerate(zip(cells.tolist(), colours.tolist(), strict=True)):
        down, across = cell // 3 * 8, cell % 3 * 8
        pixels[row, :, down : down + 8, across : across + 8] = COLOURS[colour][:, None, None] * 2
    return pixels, cells, colours


def test_the_word_for_a_colour_comes_from_where_it_is_painted() -> None:
    torch.manual_seed(0)
    eye = transformers.ViTConfig(**_EYE | {"image_size": 24, "hidden_dropout_prob": 0.0})
    small = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "vocab_size": 16}
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        eye, transformers.GPT2Config(**_GPT2 | small, n_embd=32), **_IDS
    )
    model = transformers.VisionEncoderDecoderModel(config=config).train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        pixels, _, colours = painted(32, step)
        written = torch.tensor([[2, 5]]).repeat(32, 1)  # a word that says nothing, then the colour
        logits = model(pixel_values=pixels, decoder_input_ids=written).logits[:, -1]
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, colours + 10).backward()
        optimiser.step()
    explain = attcat.Explainer(model.eval(), None)
    pixels, cells, colours = painted(20, 1000)
    right = 0
    for one, cell, colour in zip(pixels, cells.tolist(), colours.tolist(), strict=True):
        found = explain({"pixel_values": one[None]}, answer=[5, 10 + colour]).explanations[1]
        right += int(found.scores[1:10].argmax()) == cell
    assert right >= 18
