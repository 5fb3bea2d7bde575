"""Small models saved to folders, as users have them: with tokenizer or image processor, in each library's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "film",
    "gripping",
    "dull",
    "acted",
    "great",
    "##ly",
    ",",
    ".",
]
_SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """WordPiece over a few words, `[CLS] ... [SEP]`."""
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=16,
    )


def redraw(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that say something: fresh ones make every class equally likely."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def save_text(
    folder: Path, kind: str = "BertForSequenceClassification", labels: tuple[str, str] = ("dull", "great")
) -> Path:
    """BERT that tells `dull` from `great`, more or less."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=16, id2label=dict(enumerate(labels)), **_SMALL
    )
    redraw(getattr(transformers, kind)(config)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_image(folder: Path) -> Path:
    """ViT of 4 x 4 patches."""
    config = transformers.ViTConfig(image_size=32, patch_size=8, id2label={0: "cat", 1: "dog", 2: "1"}, **_SMALL)
    redraw(transformers.ViTForImageClassification(config)).save_pretrained(folder)
    # Its name before transformers 5 was without the suffix.
    processor = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
    processor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def timm_model() -> nn.Module:
    """timm's ViT of 4 x 4 patches."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3
    )
    return redraw(model).eval()


def save_timm(folder: Path) -> Path:
    """timm's own format, as on the hub."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    timm.models.save_for_hf(
        timm_model(),
        str(folder),
        model_config={"label_names": ["cat", "dog", "fox"]},
        model_args=arguments,
        safe_serialization=True,
    )
    return folder


def save_picture(path: Path, width: int = 48, height: int = 40) -> Path:
    """A picture with something in it."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 5, columns * 5, (rows * columns) % 256], axis=-1)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path
