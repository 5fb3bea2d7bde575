"""A sound explained: a small Wav2Vec2 learns in seconds to recognise a high tone and a low one, wherever it is in the noise.

python -m attcat.demos.tones          # trains, prints the explanation, and writes tone.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import attcat

from .lowrank import learn

RATE = 4000
TONES = {"low tone": 300.0, "high tone": 1200.0, "no tone": 0.0}


def sound(kind: int, at: float, seed: int, seconds: float = 1.0) -> np.ndarray:
    """Noise with a tone of an eighth of a second that starts at `at` seconds, float32 `[N]`."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * 0.02
    first, length = int(at * RATE), RATE // 8
    wave = np.sin(2 * np.pi * list(TONES.values())[kind] * np.arange(length) / RATE) * np.hanning(length)
    noise[first : first + length] += 0.5 * wave  # of the third kind, nothing
    return noise.astype(np.float32)


def made() -> tuple[Any, Any]:
    """The model, with random weights, and its feature extractor."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 24, 32),
        conv_kernel=(16, 4, 4),
        conv_stride=(5, 4, 4),
        feat_extract_norm="layer",
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
        apply_spec_augment=False,
        layerdrop=0.0,
        id2label=dict(enumerate(TONES)),
    )
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=False)
    return Wav2Vec2ForSequenceClassification(config), extractor


def trained(steps: int = 100, batch: int = 16) -> tuple[Any, Any]:
    """The model after some steps on sounds whose tone begins at a random moment."""
    model, extractor = made()
    random = np.random.default_rng(0)

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for step in range(steps):
            kinds = random.integers(0, len(TONES), batch)
            sounds = [sound(kind, random.uniform(0, 0.87), 1000 * step + row) for row, kind in enumerate(kinds)]
            inputs = extractor(sounds, sampling_rate=RATE, return_tensors="pt")
            yield {**inputs, "labels": torch.from_numpy(kinds)}

    learn(model, batches(), rate=5e-3)
    return model, extractor


def main(path: str = "tone.png") -> Path:
    """Train, explain a sound whose tone lies between 0.6 and 0.725 s, and draw it."""
    explainer = attcat.Explainer(*trained())
    explanation = explainer((sound(1, 0.6, seed=7), RATE))
    explanation.show()
    return explanation.save(path)


if __name__ == "__main__":
    main()
