"""Small, randomly initialised models of every family, and inputs for them. No network, fixed seeds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import transformers
from torch import Tensor, nn

BLOCKS, WIDTH, HEADS, CLASSES, VOCABULARY, SIDE, PATCH = 3, 32, 4, 3, 100, 32, 8

_ENCODER = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "intermediate_size": 48}
_TEXT = {"vocab_size": VOCABULARY, "num_labels": CLASSES, "pad_token_id": 0}
_VISION = {**_ENCODER, "image_size": SIDE, "patch_size": PATCH, "num_labels": CLASSES}
_TIMM = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": BLOCKS, "num_heads": HEADS, "num_classes": CLASSES}


@dataclass(frozen=True)
class Family:
    """How to make a model, and what is known about it."""

    name: str
    make: Callable[[], nn.Module]
    text: bool
    prefix: int = 1
    reads: str = "first"  # first | first two | last | class and patches | patches
    size: tuple[int, int] = (SIDE, SIDE)

    def model(self, seed: int = 0) -> nn.Module:
        """A model in evaluation mode. Parameters are redrawn: fresh class tokens are zeros, where LayerNorm has no gradient."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.make().eval()
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
        return model

    def arguments(self, rows: int = 2, seed: int = 1) -> dict[str, Tensor]:
        """A batch of model arguments; texts have different lengths and are padded."""
        generator = torch.Generator().manual_seed(seed)
        if not self.text:
            return {"pixel_values": torch.randn(rows, 3, *self.size, generator=generator)}
        ids = torch.randint(5, VOCABULARY, (rows, 9), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(rows):
            mask[row, 9 - 2 * row :] = 0
        return {"input_ids": ids * mask, "attention_mask": mask}

    def row(self, arguments: dict[str, Tensor], row: int) -> dict[str, Tensor]:
        """One example of a batch, without its padding."""
        if not self.text:
            return {"pixel_values": arguments["pixel_values"][row : row + 1]}
        real = arguments["attention_mask"][row].bool()
        return {name: value[row : row + 1, real] for name, value in arguments.items()}


def _hf(name: str, config: transformers.PreTrainedConfig) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, name)(copy.deepcopy(config))


def _timm(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, **{**_TIMM, "img_size": SIDE, **options})


def _wrapper() -> nn.Module:
    config = transformers.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        model_args={k: v for k, v in _TIMM.items() if k != "num_classes"} | {"img_size": SIDE},
        num_labels=CLASSES,
    )
    return transformers.TimmWrapperForImageClassification(config)


def _config(name: str, **options: object) -> transformers.PreTrainedConfig:
    return getattr(transformers, name)(**options)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("bert", _hf("BertForSequenceClassification", _config("BertConfig", **_ENCODER, **_TEXT)), True),
        Family(
            "roberta",
            _hf(
                "RobertaForSequenceClassification", _config("RobertaConfig", **_ENCODER, **{**_TEXT, "pad_token_id": 1})
            ),
            True,
        ),
        Family(
            "distilbert",
            _hf(
                "DistilBertForSequenceClassification",
                _config("DistilBertConfig", dim=WIDTH, n_layers=BLOCKS, n_heads=HEADS, hidden_dim=48, **_TEXT),
            ),
            True,
        ),
        Family(
            "gpt2",
            _hf(
                "GPT2ForSequenceClassification",
                _config(
                    "GPT2Config", n_embd=WIDTH, n_layer=BLOCKS, n_head=HEADS, bos_token_id=1, eos_token_id=2, **_TEXT
                ),
            ),
            True,
            prefix=0,
            reads="last",
        ),
        Family("vit", _hf("ViTForImageClassification", _config("ViTConfig", **_VISION)), False),
        Family("deit", _hf("DeiTForImageClassification", _config("DeiTConfig", **_VISION)), False, prefix=2),
        Family(
            "deit-teacher",
            _hf("DeiTForImageClassificationWithTeacher", _config("DeiTConfig", **_VISION)),
            False,
            prefix=2,
            reads="first two",
        ),
        Family(
            "dinov2",
            _hf("Dinov2ForImageClassification", _config("Dinov2Config", **_VISION)),
            False,
            reads="class and patches",
        ),
        Family(
            "dinov2-swiglu",
            _hf("Dinov2ForImageClassification", _config("Dinov2Config", **_VISION, use_swiglu_ffn=True)),
            False,
            reads="class and patches",
        ),
        Family(
            "dinov2-registers",
            _hf(
                "Dinov2WithRegistersForImageClassification",
                _config("Dinov2WithRegistersConfig", **_VISION, num_register_tokens=2),
            ),
            False,
            prefix=3,
            reads="class and patches",
        ),
        Family("timm-vit", _timm("vit_tiny_patch16_224"), False),
        Family("timm-vit-avg", _timm("vit_tiny_patch16_224", global_pool="avg"), False, reads="patches"),
        Family("timm-vit-wide", _timm("vit_tiny_patch16_224", img_size=(16, 40)), False, size=(16, 40)),
        Family("timm-deit", _timm("deit_tiny_patch16_224"), False),
        Family("timm-deit-distilled", _timm("deit_tiny_distilled_patch16_224"), False, prefix=2, reads="first two"),
        Family("timm-deit3", _timm("deit3_small_patch16_224"), False),
        Family("timm-dinov2", _timm("vit_small_patch14_dinov2"), False),
        Family("timm-dinov2-reg4", _timm("vit_small_patch14_reg4_dinov2"), False, prefix=5),
        Family("timm-wrapper", _wrapper, False),
    )
}

TEXT = [name for name, family in FAMILIES.items() if family.text]
VISION = [name for name, family in FAMILIES.items() if not family.text]
EVERY = list(FAMILIES)
