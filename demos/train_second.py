"""Train a second model of each kind, of another shape, so that an evaluation does not rest on one model.

    python -m attcat.demos.train_second DATA --output FOLDER [--only text|pictures]
    attcat evaluate DATA/sst2/dev.tsv --model FOLDER/text ...

DATA holds ``sst2/train.tsv``, ``sst2/dev.tsv`` and ``cifar10.zip``, on which the embedded models were trained. FOLDER receives
two models that transformers can load; they are not shipped. A quarter of an hour each on one core.

`text`
    GPT-2-shaped, 4 layers of width 192: each token sees only what precedes it, the last one is read. Word embeddings are the
    192 principal directions of the embedded model's; everything else starts at random, and learns to
    say what the embedded model says about sentences of SST-2 and about pieces of them (distillation, Hinton et al. 2015).
`pictures`
    A plain ViT: no layer scale, and its head reads the class token alone. It starts as the first 6 blocks of the embedded
    model's encoder, with the layer scale multiplied into the weights that it follows, and is trained on CIFAR-10 at 98 pixels
    (7 x 7 patches).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerBase,
    ViTConfig,
    ViTForImageClassification,
)

from .embedded import (
    OBJECT_LABELS,
    SENTIMENT_LABELS,
    build,
    labels,
    objects_encoder,
    objects_processor,
    sentiment,
    zero_head,
)
from .lowrank import attach, delta, fit, merge, slices
from .train_objects import PatchDropout, augment, pixels
from .train_objects import read as read_pictures
from .train_sentiment import accuracy, grouped, read

SEED = 0
WIDTH, LAYERS, HEADS, POSITIONS = 192, 4, 4, 128
PIECES = 2
"""Of each sentence, beside the whole: more to learn from, and what a sentence is without its rest."""
TEXT_EPOCHS, TEXT_BATCH, TEXT_RATE = 6, 32, 1e-3
BLOCKS, PATCH, PIXELS, KEPT = 6, 14, 98, 32
PICTURE_EPOCHS, PICTURE_BATCH, PICTURE_RATE, RANK = 3, 24, 6e-4, 32


def pieces(sentences: list[str]) -> list[str]:
    """The sentences, and of each some random spans of its words."""
    random = torch.Generator().manual_seed(SEED)
    found = list(sentences)
    for words in (sentence.split() for sentence in sentences):
        for _ in range(PIECES):
            start, end = sorted(torch.randint(len(words) + 1, (2,), generator=random).tolist())
            found.append(" ".join(words[start : max(end, start + 1)] or words[-1:]))
    return found


@torch.inference_mode()
def judged(sentences: list[str]) -> Tensor:
    """What the embedded model says of each, probabilities `[n, 2]`."""
    model, tokenizer = sentiment()
    order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
    found = torch.zeros(len(sentences), len(SENTIMENT_LABELS))
    for part in slices(len(order), 64):
        rows = order[part]
        texts = tokenizer([sentences[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        found[rows] = model(**texts).logits.softmax(-1)
    return found


def small_text(tokenizer: PreTrainedTokenizerBase) -> GPT2ForSequenceClassification:
    """Untrained but for its word embeddings, which stay as they are."""
    words = sentiment()[0].bert.embeddings.word_embeddings.weight.detach()
    _, _, directions = torch.linalg.svd(words - words.mean(0), full_matrices=False)
    config = GPT2Config(
        vocab_size=len(words), n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id, **labels(SENTIMENT_LABELS),
    )  # fmt: skip
    model = GPT2ForSequenceClassification(config)
    found = (words - words.mean(0)) @ directions[:WIDTH].T
    table = model.transformer.wte.weight
    table.data.copy_(found / found.std() * 0.1)  # GPT-2 has no norm behind its embeddings
    table.requires_grad_(False)
    return model


def train_text(data: Path, output: Path) -> None:
    """Distil, save, measure."""
    torch.manual_seed(SEED)
    _, tokenizer = sentiment()
    model = small_text(tokenizer)
    sentences = pieces(read(data / "sst2" / "train.tsv")[0])
    told = judged(sentences)
    lengths = torch.tensor([len(ids) for ids in tokenizer(sentences, truncation=True)["input_ids"]])

    def batches(epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        random = torch.Generator().manual_seed(SEED + epoch)
        for rows in grouped(lengths, random):
            texts = [sentences[row] for row in rows.tolist()]
            yield dict(tokenizer(texts, padding=True, truncation=True, return_tensors="pt")), told[rows]

    fit(model, TEXT_EPOCHS, -(-len(told) // TEXT_BATCH), batches, rate=TEXT_RATE)
    model.save_pretrained(output)
    tokenizer.model_max_length = POSITIONS
    tokenizer.save_pretrained(output)
    sentences, classes = read(data / "sst2" / "dev.tsv")
    shown: Any = model
    print(f"SST-2 dev: {accuracy(shown, tokenizer, sentences, classes):.2%} of {len(classes)} sentences", flush=True)


def plain_vit() -> tuple[ViTConfig, dict[str, Tensor]]:
    """The configuration, and the state dict with an empty head."""
    _, encoder = objects_encoder()
    state = {name.removeprefix("dinov2."): value for name, value in encoder.items() if name.startswith("dinov2.")}
    width = state["embeddings.cls_token"].shape[-1]
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=BLOCKS, num_attention_heads=6, intermediate_size=4 * width,
        image_size=PIXELS, patch_size=PATCH, layer_norm_eps=1e-6, **labels(OBJECT_LABELS),
    )  # fmt: skip
    positions = state["embeddings.position_embeddings"]
    side, wanted = int((positions.shape[1] - 1) ** 0.5), PIXELS // PATCH
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    small = F.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False)
    found = {
        "vit.embeddings.cls_token": state["embeddings.cls_token"],
        "vit.embeddings.position_embeddings": torch.cat([positions[:, :1], small.flatten(2).mT], 1),
    }
    for kind in ("weight", "bias"):
        projection = f"embeddings.patch_embeddings.projection.{kind}"
        found[f"vit.{projection}"] = state[projection]
        found[f"vit.layernorm.{kind}"] = state[f"layernorm.{kind}"]
    for block in range(BLOCKS):
        found |= _block(state, f"encoder.layer.{block}")
    return config, found | zero_head(len(OBJECT_LABELS), width)


def _block(state: dict[str, Tensor], at: str) -> dict[str, Tensor]:
    """One block of DINOv2 under ViT's names, its layer scale multiplied into the projection that it follows."""
    found = {}
    for kind in ("weight", "bias"):
        for ours, theirs, scale in (
            ("layernorm_before", "norm1", None),
            ("attention.attention.query", "attention.attention.query", None),
            ("attention.attention.key", "attention.attention.key", None),
            ("attention.attention.value", "attention.attention.value", None),
            ("attention.output.dense", "attention.output.dense", "layer_scale1.lambda1"),
            ("layernorm_after", "norm2", None),
            ("intermediate.dense", "mlp.fc1", None),
            ("output.dense", "mlp.fc2", "layer_scale2.lambda1"),
        ):
            value = state[f"{at}.{theirs}.{kind}"]
            if scale is not None:
                factor = state[f"{at}.{scale}"]
                value = value * (factor[:, None] if kind == "weight" else factor)
            found[f"vit.{at}.{ours}.{kind}"] = value
    return found


def is_whole(name: str) -> bool:
    """Trained entirely: biases, norms, the class token and the head."""
    inside = name.startswith("vit.") and name.endswith(".bias") and "embeddings" not in name
    return inside or any(part in name for part in ("layernorm", "cls_token", "classifier"))


def train_pictures(data: Path, output: Path) -> None:
    """Train, save, measure."""
    torch.manual_seed(SEED)
    config, state = plain_vit()
    model = build(ViTForImageClassification, config, state)
    attach(model, RANK, is_whole)
    pictures, classes = pixels(read_pictures(data / "cifar10.zip", "cifar10/train"), 32)
    dropout = PatchDropout()
    dropout.kept = KEPT
    model.vit.embeddings.register_forward_hook(dropout)

    def batches(epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        random = torch.Generator().manual_seed(SEED + epoch)
        order = torch.randperm(len(classes), generator=random)
        for part in slices(len(order), PICTURE_BATCH):
            rows = order[part]
            yield {"pixel_values": augment(pictures[rows], PIXELS, random)}, classes[rows]

    fit(model, PICTURE_EPOCHS, -(-len(classes) // PICTURE_BATCH), batches, rate=PICTURE_RATE, smoothing=0.05)
    plain = build(ViTForImageClassification, config, state)
    plain.load_state_dict(merge(dict(plain.state_dict()), delta(model)))
    plain.save_pretrained(output)
    objects_processor(PIXELS).save_pretrained(output)
    tested = read_pictures(data / "cifar10.zip", "cifar10/test")
    print(f"CIFAR-10 test: {right(plain, tested):.2%} of {len(tested)} pictures", flush=True)


@torch.inference_mode()
def right(model: ViTForImageClassification, pictures: list[tuple[Image.Image, int]]) -> float:
    """The share of pictures that the model classifies correctly."""
    found = 0
    for part in slices(len(pictures), 32):
        values, classes = pixels(pictures[part], PIXELS)
        found += int((model(pixel_values=values).logits.argmax(-1) == classes).sum())
    return found / len(pictures)


def main() -> None:
    """Train one or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/ and cifar10.zip")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--only", choices=("text", "pictures"), help="one of the two [default: both]")
    given = parser.parse_args()
    for kind, train in (("text", train_text), ("pictures", train_pictures)):
        if given.only in (None, kind):
            train(given.data, given.output / kind)


if __name__ == "__main__":
    main()
