"""Small models that read words and pictures, with their processors: the families that came after the first thirteen."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from test_mixed_models import SIDE, TOWER, line, tokenizer
from tokenizers_small import byte_bpe
from torch import Tensor, nn
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.flava.image_processing_pil_flava import FlavaImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.layoutlmv3.image_processing_pil_layoutlmv3 import LayoutLMv3ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

SMALL = {name: TOWER[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}


def aya_vision() -> tuple[nn.Module, Any]:
    words = tokenizer(
        "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"
    )
    pictures = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    processor = transformers.AyaVisionProcessor(pictures, words, patch_size=8, img_size=SIDE, downsample_factor=2)
    config = transformers.AyaVisionConfig(
        vision_config=transformers.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=transformers.Cohere2Config(**line(words), sliding_window=16),
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    return transformers.AyaVisionForConditionalGeneration(config), processor


def got_ocr2() -> tuple[nn.Module, Any]:
    words = tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>")
    pictures = GotOcr2ImageProcessorPil(size={"height": 64, "width": 64})
    processor = transformers.GotOcr2Processor(pictures, words)
    process = processor._process_images
    processor._process_images = lambda images, **options: process(images, **{**options, "num_image_tokens": 16})
    tower = {**SMALL, "image_size": 64, "patch_size": 4, "output_channels": 16, "window_size": 4, "mlp_dim": 48}
    config = transformers.GotOcr2Config(
        vision_config={**tower, "global_attn_indexes": [1]},
        text_config=transformers.Qwen2Config(**line(words)),
        image_token_index=words.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=16,
    )
    return transformers.GotOcr2ForConditionalGeneration(config), processor


def florence2() -> tuple[nn.Module, Any]:
    words = tokenizer(image_token="<image>")
    pictures = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    pictures.image_seq_length = 65
    tower: dict[str, Any] = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1]}
    tower |= {"patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [4, 4], "num_groups": [4, 4]}
    text: dict[str, Any] = {"vocab_size": len(words), "d_model": 32, "max_position_embeddings": 200}
    for part in ("encoder", "decoder"):
        text |= {f"{part}_layers": 2, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 48}
    text |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.Florence2Config(
        vision_config={**tower, "window_size": 4, "projection_dim": 32},
        text_config=transformers.BartConfig(**text),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    return transformers.Florence2ForConditionalGeneration(config), transformers.Florence2Processor(pictures, words)


def blip2(text: str = "OPT") -> tuple[nn.Module, Any]:
    words = tokenizer("<image>")
    pictures = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = transformers.Blip2Processor(pictures, words, num_query_tokens=6)
    line: dict[str, Any] = {"vocab_size": len(words), "pad_token_id": 1, "eos_token_id": 2}
    if text == "T5":
        line |= {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 1}
    else:
        line |= {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "bos_token_id": 0}
        line |= {"max_position_embeddings": 200, "word_embed_proj_dim": 32}
    config = transformers.Blip2Config(
        vision_config={**TOWER},
        qformer_config={**SMALL, "encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": len(words)},
        text_config=getattr(transformers, f"{text}Config")(**line),
        num_query_tokens=6,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return transformers.Blip2ForConditionalGeneration(config), processor


def git() -> tuple[nn.Module, Any]:
    words = tokenizer()
    words.model_input_names = ["input_ids", "attention_mask"]
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    config = transformers.GitConfig(
        vision_config=TOWER,
        **{**SMALL, "num_hidden_layers": 3},
        vocab_size=len(words),
        max_position_embeddings=100,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return transformers.GitForCausalLM(config), transformers.GitProcessor(pictures, words)


def gemma3_classifier() -> tuple[nn.Module, Any]:
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**line(words, head_dim=8, sliding_window=16)),
        vision_config=transformers.SiglipVisionConfig(**{**TOWER, "patch_size": 4}),
        mm_tokens_per_image=16,
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        num_labels=3,
    )
    pictures = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = transformers.Gemma3Processor(pictures, words, image_seq_length=16)
    return transformers.Gemma3ForSequenceClassification(config), processor


def mllama() -> tuple[nn.Module, Any]:
    words = tokenizer("<|image|>", "<|python_tag|>")
    pictures = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=2)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 4,
        "intermediate_size": 48,
        "vision_output_dim": 64,
        "image_size": SIDE,
        "patch_size": 8,
        "max_num_tiles": 2,
        "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    config = transformers.MllamaConfig(
        vision_config=tower,
        text_config=transformers.MllamaTextConfig(**line(words), cross_attention_layers=[1], rope_parameters=rope),
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    return transformers.MllamaForConditionalGeneration(config), transformers.MllamaProcessor(pictures, words)


def blip(kind: str) -> tuple[nn.Module, Any]:
    words = tokenizer()
    pictures = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    text = {**SMALL, "encoder_hidden_size": 32, "vocab_size": len(words), "max_position_embeddings": 100}
    text |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2, "projection_dim": 32}
    vision = {**TOWER, "projection_dim": 32}
    config = transformers.BlipConfig(
        text_config=text, vision_config=vision, projection_dim=32, image_text_hidden_size=16
    )
    return getattr(transformers, f"BlipFor{kind}")(config), transformers.BlipProcessor(pictures, words)


class FlavaJudge(nn.Module):
    """Classes of FLAVA's encoder of both, as its users write them."""

    def __init__(self) -> None:
        super().__init__()
        text = {**SMALL, "vocab_size": 340, "max_position_embeddings": 100, "pad_token_id": 1}
        image = {**SMALL, "image_size": 48, "patch_size": 8}
        self.config = transformers.FlavaConfig(
            text_config=text, image_config=image, multimodal_config=dict(SMALL), hidden_size=32, init_codebook=False
        )
        self.flava = transformers.FlavaModel(self.config)
        self.classifier = nn.Linear(32, 3)

    def forward(self, input_ids: Any, attention_mask: Any = None, pixel_values: Any = None) -> Any:
        made = self.flava(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
        return self.classifier(made.multimodal_embeddings[:, 0])


def flava() -> tuple[nn.Module, Any]:
    """With a processor, whose vocabulary is that of the judge."""
    pictures = FlavaImageProcessorPil(size={"height": 48, "width": 48}, do_center_crop=False)
    return FlavaJudge(), transformers.FlavaProcessor(pictures, tokenizer())


class Attending(nn.Module):
    """A block that attends over all of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.into, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.wide, self.narrow = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, states: Tensor) -> Tensor:
        parts = self.into(self.norm(states)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        states = states + self.out(mixed)
        return states + self.narrow(F.gelu(self.wide(self.after(states))))


class MeetingJudge(nn.Module):
    """Two encoders and one of both, written by hand; which is called first and which stands in front can be chosen.

    The blocks of both know no places, so that what a token says of the class does not depend on the order.
    """

    image_size = 48

    def __init__(self, words_called_first: bool = False, words_in_front: bool = False, keeps: int = 0) -> None:
        super().__init__()
        self.called, self.front, self.keeps = words_called_first, words_in_front, keeps
        self.words, self.word_places = nn.Embedding(340, 32), nn.Embedding(60, 32)
        self.pixels, self.patch_places = nn.Conv2d(3, 32, 12, 12), nn.Parameter(torch.randn(1, 16, 32))
        self.reading, self.seeing, self.joining = (nn.ModuleList(Attending() for _ in range(n)) for n in (3, 2, 2))
        self.from_words, self.from_patches = nn.Linear(32, 32), nn.Linear(32, 32)
        self.norm, self.classifier = nn.LayerNorm(32), nn.Linear(32, 3)

    def read(self, input_ids: Tensor) -> Tensor:
        states = self.words(input_ids) + self.word_places(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.reading:
            states = block(states)
        return self.from_words(states)

    def see(self, pixel_values: Tensor) -> Tensor:
        states = self.pixels(pixel_values).flatten(2).transpose(1, 2) + self.patch_places
        for block in self.seeing:
            states = block(states)
        return self.from_patches(states)[:, self.keeps :]

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        if self.called:
            words, patches = self.read(input_ids), self.see(pixel_values)
        else:
            patches, words = self.see(pixel_values), self.read(input_ids)
        states = torch.cat([words, patches] if self.front else [patches, words], 1)
        for block in self.joining:
            states = block(states)
        return self.classifier(self.norm(states).mean(1))


def visual_bert(kind: str = "QuestionAnswering") -> nn.Module:
    config = transformers.VisualBertConfig(
        **SMALL, vocab_size=340, visual_embedding_dim=24, max_position_embeddings=40, num_labels=4, pad_token_id=1
    )
    return getattr(transformers, f"VisualBertFor{kind}")(config)


def layoutlmv3(kind: str, labels: int) -> nn.Module:
    config = transformers.LayoutLMv3Config(
        **SMALL,
        coordinate_size=6,
        shape_size=4,
        max_2d_position_embeddings=1001,
        rel_2d_pos_bins=8,
        vocab_size=340,
        input_size=SIDE,
        patch_size=8,
        num_labels=labels,
        max_position_embeddings=60,
        pad_token_id=1,
    )
    return getattr(transformers, f"LayoutLMv3For{kind}")(config)


def layout_processor() -> Any:
    made = json.loads(byte_bpe()._tokenizer.to_str())["model"]
    words = transformers.LayoutLMv3Tokenizer(vocab=made["vocab"], merges=[tuple(pair) for pair in made["merges"]])
    pictures = LayoutLMv3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, apply_ocr=False)
    return transformers.LayoutLMv3Processor(pictures, words)


def grounding_dino() -> nn.Module:
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64, out_indices=[2, 3, 4]
    )
    text = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, vocab_size=340
    )
    parts = {
        f"{part}_{name}": count for part in ("encoder", "decoder") for name, count in (("layers", 2), ("ffn_dim", 32))
    }
    config = transformers.GroundingDinoConfig(
        d_model=32, **parts, num_queries=5, backbone_config=backbone, text_config=text
    )
    return transformers.GroundingDinoForObjectDetection(config)
