"""A video explained: a small VideoMAE learns in seconds which colour flashes, wherever and whenever it does.

python -m attcat.demos.clips          # trains, prints the explanation, and writes clip.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import attcat

from .lowrank import learn

SIDE, FRAMES, PATCH = 32, 8, 8
COLOURS = {"red flash": (230, 60, 50), "green flash": (60, 200, 80), "no flash": None}


def clip(kind: int, pair: int, row: int, column: int, seed: int) -> np.ndarray:
    """Grey noise in which one patch of two frames is painted, uint8 `[F, H, W, 3]`."""
    random = np.random.default_rng(seed)
    video = np.repeat(random.integers(90, 160, (FRAMES, SIDE, SIDE, 1)), 3, axis=3)
    colour = list(COLOURS.values())[kind]
    if colour is not None:
        video[2 * pair : 2 * pair + 2, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = colour
    return video.astype(np.uint8)


def made() -> tuple[Any, Any]:
    """The model, with random weights, and its processor."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=SIDE,
        patch_size=PATCH,
        num_frames=FRAMES,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(COLOURS)),
    )
    size = {"height": SIDE, "width": SIDE}
    return VideoMAEForVideoClassification(config), VideoMAEImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)


def trained(steps: int = 80, batch: int = 16) -> tuple[Any, Any]:
    """The model after some steps on clips whose flash is at a random place and moment."""
    model, processor = made()
    random = np.random.default_rng(0)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for step in range(steps):
            kinds = random.integers(0, len(COLOURS), batch)
            clips = []
            for at, kind in enumerate(kinds):
                pair, row, column = random.integers(0, SIDE // PATCH, 3).tolist()
                clips.append(clip(kind, pair, row, column, 1000 * step + at))
            pixels = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float() / 255
            yield {"pixel_values": (pixels - mean) / std, "labels": torch.from_numpy(kinds)}

    learn(model, batches(), rate=3e-3)
    return model, processor


def main(path: str = "clip.png") -> Path:
    """Train, explain a clip whose upper right corner flashes in the frames 4 and 5, and draw it."""
    explainer = attcat.Explainer(*trained())
    explanation = explainer(clip(0, 2, 0, 3, seed=7))
    explanation.show()
    return explanation.save(path)


if __name__ == "__main__":
    main()
