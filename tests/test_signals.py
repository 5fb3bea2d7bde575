"""Sounds and videos: tokens with times, tokens on frames, found by experiment and checked against what is known."""

from __future__ import annotations

import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import attcat
from attcat.demos import clips, tones
from attcat.testing import check_adapter

Make = Callable[[], nn.Module]
_SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}
_WAVE = {
    **_SMALL,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "vocab_size": 9,
}
_FRAMES = {**_SMALL, "image_size": 32, "patch_size": 8, "num_frames": 4}


def drawn(model: nn.Module) -> nn.Module:
    """Parameters that say something; norms stay near one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 0.0 if parameter.dim() > 1 or "bias" in name else 1.0
            parameter.copy_(centre + torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def waves(name: str, head: str = "ForSequenceClassification", **options: Any) -> Make:
    config = getattr(transformers, f"{name}Config")
    return lambda: drawn(getattr(transformers, f"{name}{head}")(config(**{**_WAVE, **options})))


def videos(name: str, **options: Any) -> Make:
    config = getattr(transformers, f"{name}Config")
    settings = {key: value for key, value in {**_FRAMES, **options}.items() if value is not None}
    return lambda: drawn(getattr(transformers, f"{name}ForVideoClassification")(config(**settings)))


def spectrogram() -> nn.Module:
    return drawn(
        transformers.ASTForAudioClassification(transformers.ASTConfig(**_SMALL, max_length=128, num_mel_bins=32))
    )


SOUNDS: dict[str, Make] = {
    "wav2vec2": waves("Wav2Vec2"),
    "wav2vec2, norm first": waves("Wav2Vec2", do_stable_layer_norm=True, feat_extract_norm="layer"),
    "hubert": waves("Hubert"),
    "wavlm": waves("WavLM"),
    "frames of wavlm": waves("WavLM", "ForAudioFrameClassification"),
    "ctc of wav2vec2": waves("Wav2Vec2", "ForCTC"),
}
VIDEOS: dict[str, Make] = {
    "videomae": videos("VideoMAE"),
    "vivit": videos("Vivit", patch_size=None, tubelet_size=[2, 8, 8]),
    "timesformer": videos("Timesformer"),
}
EXTRACTOR = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False, sampling_rate=tones.RATE)


@pytest.mark.parametrize("name", SOUNDS)
def test_models_of_waveforms_keep_their_promises(name: str) -> None:
    model = SOUNDS[name]()
    assert [str(check) for check in check_adapter(model, EXTRACTOR) if check.passed is False] == []


def test_a_model_of_spectrograms_keeps_its_promises() -> None:
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=128)
    model = spectrogram()
    assert [str(check) for check in check_adapter(model, extractor) if check.passed is False] == []


@pytest.mark.parametrize("name", VIDEOS)
def test_models_of_videos_keep_their_promises(name: str) -> None:
    assert [str(check) for check in check_adapter(VIDEOS[name]()) if check.passed is False] == []


@cache
def listener() -> attcat.Explainer:
    return attcat.Explainer(*tones.trained())


@pytest.mark.parametrize("start", [0.1, 0.45, 0.8])
def test_a_tone_is_heard_where_it_is(start: float) -> None:
    explanation = listener()((tones.sound(1, start, seed=7), tones.RATE))
    assert explanation.label == "high tone"
    segments = explanation.segments()
    inside = sum(s.score for s in segments if s.end > start and s.start < start + 0.125)
    assert inside > 0.6 * sum(abs(s.score) for s in segments)
    best = max(segments, key=lambda segment: segment.score)
    assert start - 0.05 < (best.start + best.end) / 2 < start + 0.175


def test_a_file_is_what_its_samples_are(tmp_path: Path) -> None:
    samples = tones.sound(0, 0.3, seed=3)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(tones.RATE)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    one, other = listener()(str(tmp_path / "tone.wav")), listener()((samples, tones.RATE))
    torch.testing.assert_close(one.scores, other.scores, atol=2e-2, rtol=2e-2)


def test_another_rate_is_refused() -> None:
    with pytest.raises(attcat.InputError, match="4000"):
        listener()((tones.sound(0, 0.3, seed=3), 16_000))


def test_a_sound_is_saved_tabled_and_drawn(tmp_path: Path) -> None:
    explanation = listener()((tones.sound(1, 0.6, seed=7), tones.RATE))
    for suffix in (".json", ".safetensors"):
        again = attcat.load(explanation.save(tmp_path / f"tone{suffix}"))
        torch.testing.assert_close(again.layers, explanation.layers)
        assert again.segments() == explanation.segments()
    rows = explanation.records()
    assert [row["start"] for row in rows] == sorted(row["start"] for row in rows)
    assert sum(row["score"] for row in rows) == pytest.approx(sum(s.score for s in explanation.segments()), abs=1e-4)
    for suffix in (".png", ".svg", ".html", ".pdf"):
        assert explanation.save(tmp_path / f"tone{suffix}").stat().st_size > 1000
    explanation.show()


@cache
def watcher() -> attcat.Explainer:
    return attcat.Explainer(*clips.trained())


def test_a_flash_is_seen_where_and_when_it_is() -> None:
    video = clips.clip(0, 1, 1, 2, seed=5)
    explanation = watcher()(list(video))
    assert explanation.label == next(iter(clips.COLOURS))
    heat = explanation.heatmap()  # [groups, H, W]
    group, row, column = np.unravel_index(int(np.nanargmax(heat)), heat.shape)
    frames = len(video) // len(heat)
    assert group == (2 * 1) // frames
    patch = clips.PATCH
    assert (row // patch, column // patch) == (1, 2)


def test_a_video_is_saved_and_drawn(tmp_path: Path) -> None:
    explanation = watcher()(list(clips.clip(0, 1, 1, 2, seed=5)))
    for suffix in (".json", ".safetensors"):
        again = attcat.load(explanation.save(tmp_path / f"clip{suffix}"))
        torch.testing.assert_close(again.layers, explanation.layers)
        np.testing.assert_array_equal(again.heatmap(), explanation.heatmap())
    for suffix in (".png", ".html"):
        assert explanation.save(tmp_path / f"clip{suffix}").stat().st_size > 1000
    explanation.show()


# -- removing and pointing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [None, "mean", "zero"])
def test_moments_of_a_sound_are_removed_where_they_lie(how: str | None) -> None:
    """The samples of a removed token take the mean of the sound, or 0; the others stay what they are."""
    adapter = listener().adapter
    encoding = adapter.encode([(tones.sound(1, 0.6, seed=7) + 0.25, tones.RATE)])
    samples = encoding.arguments[adapter.continuous][0]
    boxes = adapter.places(tuple(samples.shape)).boxes[:, 0]
    removed = torch.zeros_like(encoding.mask)
    removed[0, [2, 5]] = True
    changed = adapter.remove(encoding, removed, how).arguments[adapter.continuous][0]
    inside = torch.zeros(len(samples), dtype=torch.bool)
    for token in (2, 5):
        inside[max(0, round(boxes[token, 0])) : round(boxes[token, 1])] = True
    assert 0 < int(inside.sum()) < len(samples)
    assert torch.equal(changed[~inside], samples[~inside])
    expected = 0.0 if how == "zero" else float(samples.mean())
    torch.testing.assert_close(changed[inside], torch.full((int(inside.sum()),), expected))
    everything = adapter.remove(encoding, None, how).arguments[adapter.continuous][0]
    torch.testing.assert_close(everything, torch.full_like(samples, expected), atol=1.0, rtol=0)
    assert float((everything - samples).abs().max()) > 0.1


def test_occlusion_of_a_sound_is_what_each_moment_changes() -> None:
    explain = attcat.Explainer(listener().adapter, method="occlusion")
    value = (tones.sound(1, 0.6, seed=7), tones.RATE)
    found = explain(value)
    adapter = explain.adapter
    encoding = adapter.encode([value])
    with torch.no_grad():
        before = float(adapter.predict(encoding)[1][0, found.target])
        for token in (1, 9, 20):
            removed = torch.zeros_like(encoding.mask)
            removed[0, token] = True
            after = float(adapter.predict(adapter.remove(encoding, removed))[1][0, found.target])
            assert float(found.scores[token]) == pytest.approx(before - after, abs=1e-4)


def test_arguments_that_are_no_sound_are_refused() -> None:
    adapter = listener().adapter
    name = adapter.continuous
    for wrong in ({}, {name: torch.zeros(2, 4000)}, {name: torch.zeros(1, 4000, dtype=torch.long)}, {name: [0.0]}):
        with pytest.raises(attcat.InputError, match=f"model arguments need float '{name}'"):
            adapter.encode_arguments(wrong)


def test_a_moment_is_named_by_its_number_or_its_second() -> None:
    explain = attcat.Explainer(SOUNDS["frames of wavlm"](), EXTRACTOR, method="cat")
    value = (tones.sound(1, 0.45, seed=7), tones.RATE)
    times = explain(value, token=0).tokens.times
    assert times is not None
    number = len(times) // 2
    start, end = times[number]
    by_number, by_second = explain(value, token=number), explain(value, token=(start + end) / 2)
    assert torch.equal(by_number.scores, by_second.scores)
    assert not torch.equal(by_number.scores, explain(value, token=number - 1).scores)
    assert torch.equal(
        by_number.scores, explain(value, token=float(start)).scores
    )  # a moment begins with its first second
    with pytest.raises(attcat.InputError, match=r"no moment at 99\.0 s: the tokens stand for 0 to \d+\.\d\d s"):
        explain(value, token=99.0)
    samples = explain.adapter.encode([value]).arguments
    with pytest.raises(attcat.InputError, match="the tokens have no times"):
        attcat.Explainer(SOUNDS["frames of wavlm"](), method="cat")(samples, token=0.1)


def test_a_model_of_pictures_whose_configuration_names_frames_is_not_refused_for_them() -> None:
    """Perceiver's configuration is of all models of its kind, of which one reads videos."""
    config = transformers.PerceiverConfig(
        image_size=32,
        d_latents=16,
        num_latents=8,
        num_self_attends_per_block=2,
        num_self_attention_heads=2,
        num_cross_attention_heads=2,
    )
    model = transformers.PerceiverForImageClassificationLearned(config).eval()
    with pytest.raises(attcat.UnsupportedModelError, match=r"attention of shape \(1, 2, 8, 1024\) elsewhere"):
        attcat.Explainer(model)
