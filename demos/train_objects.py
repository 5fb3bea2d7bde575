"""Train the delta of `embedded.objects` on CIFAR-10 (Krizhevsky 2009) and on photographs of cats and dogs.

    python -m attcat.demos.train_objects DATA --output objects.safetensors

DATA holds two archives. ``cifar10.zip``: ``cifar10/train/<class>/*.jpg`` to learn from, ``cifar10/test/...`` to measure
on. ``photos.zip``: ``photos/cats_dogs/train/<class>/*.jpg`` to learn from, ``photos/cats_dogs/test/...`` and
``photos/labelled/<class>/*.jpg`` to measure on. Takes about half an hour on two cores.

A step costs as much as its tokens, (pixels / 14)^2 + 1 per picture. Two tricks make that affordable. Many batches are
small pictures; and of pictures as large as those the finished model will see, only a random part of the patches enters
the encoder (PatchDropout, arXiv 2208.07220), which is a regulariser besides.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2ForImageClassification

from .embedded import OBJECT_LABELS, build, objects_encoder, objects_processor
from .lowrank import attach, delta, fit, merge, save, slices

RANK, BATCH, SMOOTHING, SEED = 32, 24, 0.05, 0
EPOCHS, RATE = 4, 4e-4
# (pixels, patches kept of a picture, share of the batches)
SIZES = ((98, 49, 0.65), (126, 64, 0.15), (224, 64, 0.2))

# Names of today's modules -> names under which DINOv2 checkpoints, and our delta, are published.
PUBLISHED = {
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "output.dense",
}


def read(archive: Path, folder: str) -> list[tuple[Image.Image, int]]:
    """Every picture of ``folder/<class>/`` in a zip file, with its class index, in the order of names."""
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.startswith(f"{folder}/") and name.endswith(".jpg"))
        pictures = [Image.open(io.BytesIO(files.read(name))).convert("RGB") for name in names]
    return [(picture, OBJECT_LABELS.index(name.split("/")[-2])) for picture, name in zip(pictures, names, strict=True)]


def pixels(pictures: list[tuple[Image.Image, int]], size: int) -> tuple[Tensor, Tensor]:
    """Pictures as [n, 3, size, size], normalised as the model wants them, and labels [n]."""
    values = objects_processor(size)([picture for picture, _ in pictures], return_tensors="pt")["pixel_values"]
    return values, torch.tensor([label for _, label in pictures])


def augment(pictures: Tensor, size: int, random: torch.Generator) -> Tensor:
    """[n, 3, h, w] -> [n, 3, size, size]: each mirrored or not, cut to 70-100 % of its area, brighter or darker."""
    n = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=random)

    scale = uniform(0.7, 1.0).sqrt()
    ratio = uniform(0.87, 1.15).sqrt()
    wide, high = (scale * ratio).clamp(max=1), (scale / ratio).clamp(max=1)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    boxes = torch.zeros(n, 2, 3)
    boxes[:, 0, 0], boxes[:, 0, 2] = wide * mirror, (1 - wide) * uniform(-1, 1)
    boxes[:, 1, 1], boxes[:, 1, 2] = high, (1 - high) * uniform(-1, 1)
    grid = F.affine_grid(boxes, [n, 3, size, size], align_corners=False)
    cut = F.grid_sample(pictures, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    grey = cut.mean(1, keepdim=True)
    cut = grey + (cut - grey) * uniform(0.8, 1.2).view(-1, 1, 1, 1)  # colours stronger or weaker
    return cut * uniform(0.85, 1.15).view(-1, 1, 1, 1) + uniform(-0.15, 0.15).view(-1, 1, 1, 1)


def published(delta: dict[str, Tensor]) -> dict[str, Tensor]:
    """A delta under the published names, which outlive those of the modules."""
    for module, name in PUBLISHED.items():
        delta = {key.replace(f".attention.{module}.", f".attention.{name}."): value for key, value in delta.items()}
    return delta


def is_whole(name: str) -> bool:
    """Trained entirely: biases, norms, layer scales and the head. Patch and position embeddings stay the encoder's."""
    inside = name.startswith("dinov2.encoder") and name.endswith(".bias")
    return inside or any(part in name for part in ("norm", "lambda1", "classifier"))


class PatchDropout:
    """In training, let only the class token and `kept` random patches through; a forward hook for the embeddings."""

    kept = 0

    def __call__(self, module: nn.Module, arguments: object, tokens: Tensor) -> Tensor:
        """[n, 1 + patches, width] -> [n, 1 + kept, width]."""
        if not module.training or self.kept >= tokens.shape[1] - 1:
            return tokens
        patches = 1 + torch.randperm(tokens.shape[1] - 1)[: self.kept]
        return torch.cat([tokens[:, :1], tokens[:, patches]], dim=1)


@torch.inference_mode()
def accuracy(model: Dinov2ForImageClassification, pictures: list[tuple[Image.Image, int]], size: int) -> float:
    """Share of pictures classified correctly at `size` pixels with the shipped kind of processor, between 0 and 1."""
    right = 0
    for part in slices(len(pictures), 32):
        values, labels = pixels(pictures[part], size)
        right += int((model(pixel_values=values).logits.argmax(-1) == labels).sum())
    return right / len(pictures)


def main() -> None:
    """Train, write the delta, measure what a user would get."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains cifar10.zip and photos.zip")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()
    cifar, photos = arguments.data / "cifar10.zip", arguments.data / "photos.zip"

    torch.manual_seed(SEED)
    config, state = objects_encoder()
    model = build(Dinov2ForImageClassification, config, state)
    attach(model, RANK, is_whole)
    # Photographs shrink to the 32 pixels of CIFAR-10: were only cats and dogs sharp, sharp would come to mean cat or dog.
    pictures, labels = pixels(read(cifar, "cifar10/train") + read(photos, "photos/cats_dogs/train"), 32)
    dropout = PatchDropout()
    model.dinov2.embeddings.register_forward_hook(dropout)
    shares = torch.tensor([share for _, _, share in SIZES])

    def batches(epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        random = torch.Generator().manual_seed(SEED + epoch)
        order = torch.randperm(len(labels), generator=random)
        for part in slices(len(order), BATCH):
            rows = order[part]
            size, dropout.kept, _ = SIZES[int(torch.multinomial(shares, 1, generator=random))]
            yield {"pixel_values": augment(pictures[rows], size, random)}, labels[rows]

    fit(model, EPOCHS, -(-len(labels) // BATCH), batches, rate=RATE, smoothing=SMOOTHING)
    trained = published(delta(model))
    save(trained, arguments.output)

    shipped = build(Dinov2ForImageClassification, config, merge(state, trained))
    for archive, folder in (
        (cifar, "cifar10/test"),
        (photos, "photos/labelled"),
        (photos, "photos/cats_dogs/test"),
    ):
        measured = read(archive, folder)
        for size in (98, 224):
            share = accuracy(shipped, measured, size)
            print(f"{folder} at {size} px: {share:.2%} of {len(measured)} pictures", flush=True)


if __name__ == "__main__":
    main()
