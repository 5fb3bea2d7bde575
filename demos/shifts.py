"""Does it help to explain a picture that is moved a little, several times, and to move the explanations back?

    python -m attcat.demos.shifts DATA [--only pictures|photographs] [--limit 109] [--seed 0]

DATA holds the folders ``cifar10/test`` and ``photographs`` of the evaluation (docs/evaluation.md). What a patch is credited
with depends on where the patches' edges fall. DAVE (Wrobel et al., ICML 2026) takes the part of a gradient that moves with the
picture: the mean over small moves, each gradient moved back. Here the same is done to whole explanations, in patches: the
picture moves by a third of a patch up, down, left, right and across, eight moves and the picture itself, which are nine passes
as OddsCAT's with eight copies are. Gradient times input under the `libra` rule so averaged is the nearest thing to DAVE that
this library has; DAVE's map is finer than patches, and smoothed. Prints Markdown: the area between the perturbation curves at
every tenth, and paired differences from OddsCAT.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import attcat
from attcat.evaluation.runner import choose
from attcat.metrics import Ablation, abpc, perturbation_curves
from attcat.metrics.perturbation import TENTHS

from .embedded import objects, objects_processor
from .faithfulness import PIXELS, paired

MOVED = ("oddscat", "attnlrp", "input_x_gradient+libra")
"""Tried as they are, and as the mean over moves."""
COPIES = "oddscat:samples=8"
"""Of as many passes."""
LARGE = 224
KINDS = {"pictures": (PIXELS, "cifar10/test"), "photographs": (LARGE, "photographs")}
"""Side in pixels, and folder: the pictures on which the evaluation reports, as nothing is chosen here."""
PART = 8
"""Pictures that go through together."""

Move = tuple[int, int]
"""Pixels down and to the right."""


def moves(patch: int) -> list[Move]:
    """The picture itself, and eight moves by a third of a patch."""
    step = round(patch / 3)
    return [(down, right) for down in (0, -step, step) for right in (0, -step, step)]


def moved(picture: np.ndarray, move: Move) -> np.ndarray:
    """uint8 `[H, W, 3]`: what was at (y, x) is at (y + down, x + right), and the edge is repeated where nothing was."""
    rows, columns = (np.clip(np.arange(size) - by, 0, size - 1) for size, by in zip(picture.shape, move, strict=False))
    return picture[rows][:, columns]


def moved_back(grids: Sequence[np.ndarray], at: Sequence[Move], patch: int) -> np.ndarray:
    """The mean of explanations `[rows, columns]` of moved pictures, by the patches of the picture itself.

    A patch's score is spread evenly over its pixels; each pixel is moved back, and counts where it is seen.
    """
    rows, columns = grids[0].shape
    size = (rows * patch, columns * patch)
    total, seen = np.zeros(size), np.zeros(size)
    for grid, move in zip(grids, at, strict=True):
        pixels = np.kron(grid, np.ones((patch, patch)))
        ys, xs = (np.arange(length) + by for length, by in zip(size, move, strict=True))
        inside = ((ys >= 0) & (ys < size[0]))[:, None] & ((xs >= 0) & (xs < size[1]))
        total += np.where(inside, pixels[np.clip(ys, 0, size[0] - 1)][:, np.clip(xs, 0, size[1] - 1)], 0)
        seen += inside
    in_patches = (rows, patch, columns, patch)
    return np.asarray(total.reshape(in_patches).sum((1, 3)) / seen.reshape(in_patches).sum((1, 3)))


def over_moves(
    explainer: attcat.Explainer, pictures: Sequence[np.ndarray], targets: list[int], patch: int
) -> list[Tensor]:
    """For each picture the mean over moves, as scores of all tokens; those of special tokens are 0."""
    at = moves(patch)
    each = [explainer([moved(picture, move) for picture in pictures], targets) for move in at]
    found = []
    for ones in zip(*each, strict=True):
        scores = torch.zeros(len(ones[0].scores))
        grid = moved_back([one.grid.numpy() for one in ones], at, patch)
        scores[~ones[0].special] = torch.from_numpy(grid).float().flatten()
        found.append(scores)
    return found


def measured(pictures: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """ABPC of each picture, of which each has the size that the model reads."""
    model, _ = objects()
    processor = objects_processor(len(pictures[0]))
    patch = model.config.patch_size
    assert isinstance(patch, int)
    explainers = {name: attcat.Explainer(model, processor, method=name) for name in (*MOVED, COPIES)}
    values: dict[str, list[float]] = {}
    for start in range(0, len(pictures), PART):
        part = list(pictures[start : start + PART])
        ablation = Ablation(explainers[COPIES].adapter, part, "mean")
        targets = ablation.predicted.tolist()
        for name, explainer in explainers.items():
            found: dict[str, list[Tensor]] = {name: [torch.as_tensor(one.scores) for one in explainer(part, targets)]}
            if name in MOVED:
                found[f"{name}, {len(moves(patch))} moves"] = over_moves(explainer, part, targets, patch)
            for row, scores in found.items():
                curves = perturbation_curves(ablation, scores, fractions=TENTHS)
                values.setdefault(row, []).extend(abpc(curves).tolist())
    return values


def report(kind: str, values: dict[str, list[float]]) -> str:
    """A table of the methods, as they are and over moves."""
    count = len(next(iter(values.values())))
    return f"\n{kind}, {count} examples:\n\n" + paired(values, ("method", "ABPC", f"minus `{MOVED[0]}`"))


def fitted(file: Path, side: int) -> np.ndarray:
    """uint8 `[side, side, 3]`: what the processor makes of the picture before it scales the colours."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    made = objects_processor(side)(picture, do_rescale=False, do_normalize=False, return_tensors="np")
    return np.asarray(made["pixel_values"][0].transpose(1, 2, 0), dtype=np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains cifar10/test and photographs")
    parser.add_argument("--only", choices=KINDS, action="append", help="a kind of pictures [default: all]")
    parser.add_argument("--limit", type=int, default=109, help="examples of each kind")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    given = parser.parse_args(arguments)
    for kind in given.only or KINDS:
        side, folder = KINDS[kind]
        found = sorted((given.data / folder).rglob("*.jpg"))
        drawn = [fitted(found[index], side) for index in choose(given.seed, len(found))[: given.limit]]
        print(report(kind, measured(drawn)), flush=True)


if __name__ == "__main__":
    main()
