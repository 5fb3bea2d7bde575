"""Sounds and videos from strangers: every case gives a right result, or an error of ours that names the next step."""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from test_properties import EXAMPLES

import attcat
from attcat.demos import clips, tones
from attcat.errors import AttCATError, InputError
from attcat.model import sound, video
from attcat.model.sound import read_sound

RATE = tones.RATE
some = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def listener() -> attcat.Explainer:
    return attcat.Explainer(*tones.made())


@pytest.fixture(scope="module")
def watcher() -> attcat.Explainer:
    return attcat.Explainer(*clips.made())


def wav(samples: bytes = b"\1\0" * 800, *, channels: int = 1, rate: int = RATE, bits: int = 16, kind: int = 1) -> bytes:
    """A .wav file, right or wrong, by what its header says."""
    form = struct.pack(
        "<HHIIHH", kind, channels, rate, rate * channels * bits // 8 % 2**32, channels * bits // 8 % 2**16, bits
    )
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


GOOD = np.sin(np.arange(RATE, dtype=np.float32))

# -- samples -----------------------------------------------------------------------------------------------------------

SAMPLES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "samples alone": lambda: GOOD,
    "three parts": lambda: (GOOD, RATE, 1),
    "no samples": lambda: (np.zeros(0, np.float32), RATE),
    "one number": lambda: (np.float32(1), RATE),
    "two channels": lambda: (np.zeros((2, 100), np.float32), RATE),
    "rows of different lengths": lambda: ([[0.1], [0.1, 0.2]], RATE),
    "objects": lambda: (np.array([0.1, None]), RATE),
    "texts": lambda: (np.array(["a", "b"]), RATE),
    "bytes": lambda: (b"\0\1", RATE),
    "dates": lambda: (np.zeros(9, "M8[s]"), RATE),
    "complex": lambda: (GOOD.astype(complex), RATE),
    "truths": lambda: (GOOD > 0, RATE),
    "not a number": lambda: (np.where(GOOD > 0, np.nan, GOOD), RATE),
    "infinite": lambda: (np.where(GOOD > 0, np.inf, GOOD), RATE),
    "too large for float32": lambda: (np.full(100, 1e300), RATE),
    "64 bits": lambda: (np.ones(100, np.int64), RATE),
    "too long": lambda: (np.broadcast_to(np.float32(0), (sound.MAX_SAMPLES + 1,)), RATE),
    "complex tensor": lambda: (torch.zeros(100, dtype=torch.complex64), RATE),
    "meta": lambda: (torch.zeros(100, device="meta"), RATE),
    "sparse": lambda: (torch.zeros(100).to_sparse(), RATE),
    "rate 0": lambda: (GOOD, 0),
    "rate below 0": lambda: (GOOD, -RATE),
    "huge rate": lambda: (GOOD, 10**30),
    "another rate": lambda: (GOOD, 2 * RATE),
    "half a rate": lambda: (GOOD, RATE + 0.5),
    "rate as a truth": lambda: (GOOD, True),
    "rate as a text": lambda: (GOOD, str(RATE)),
    "no such file": lambda: "nothing.wav",
    "long name": lambda: "x" * 300,
    "name with NUL": lambda: Path("a\0b.wav"),
    "half a character": lambda: "\ud800.wav",
    "a folder": lambda: "/",
}


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("case", SAMPLES)
def test_samples_that_are_no_sound(listener: attcat.Explainer, case: str) -> None:
    with pytest.raises(InputError):
        listener(SAMPLES[case]())


@pytest.mark.parametrize("samples", [GOOD.astype(np.float64), GOOD.tolist(), torch.tensor(GOOD).bfloat16(), GOOD[::-1]])
def test_samples_in_other_forms(listener: attcat.Explainer, samples: Any) -> None:
    explanation = listener((samples, np.int64(RATE)))
    assert len(explanation.source) == RATE
    assert torch.isfinite(explanation.scores).all()


@pytest.mark.parametrize("count", [1, 2, 5, 30, 100])
def test_sounds_that_are_too_short(listener: attcat.Explainer, count: int) -> None:
    try:
        explanation = listener((GOOD[:count], RATE))
    except AttCATError as error:
        assert "may be too short" in str(error)  # noqa: PT017
    else:
        assert all(0 <= start < end <= count / RATE + 1e-6 for start, end, _ in explanation.segments())


def test_sounds_of_several_lengths(listener: attcat.Explainer) -> None:
    """How the tokens of a waveform lie is found once, for any length."""
    long, short = listener([(GOOD, RATE), (GOOD[: RATE // 2], RATE)])
    assert len(long.segments()) > 1.8 * len(short.segments())
    for one, seconds in ((long, 1), (short, 0.5)):
        assert one.segments()[-1].end == pytest.approx(seconds, abs=0.03)
        alone = attcat.Explainer(*tones.made())((GOOD[: int(seconds * RATE)], RATE))
        assert alone.segments() == one.segments()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_silence_is_a_sound(listener: attcat.Explainer, value: float) -> None:
    explanation = listener((np.full(RATE, value, np.float32), RATE))
    assert torch.isfinite(explanation.scores).all()


# -- files -------------------------------------------------------------------------------------------------------------

FILES = {
    "empty": b"",
    "no sound": b"RIFF\0\0\0\0WAVE",
    "half a header": wav()[:30],
    "not wave": b"OggS" + bytes(100),
    "no samples": wav(b""),
    "half a sample": wav(b"\1"),
    "no channels": wav(channels=0),
    "no rate": wav(rate=0),
    "no bits": wav(bits=0),
    "65535 bits": wav(bits=65535),
    "64 bits": wav(bits=64),
    "floats": wav(kind=3, bits=32),
    "compressed": wav(kind=2),
    "more samples than may be": wav(rate=RATE)[:40] + struct.pack("<I", 2**32 - 1) + b"\1",
    "another rate": wav(rate=RATE * 2),
    "chunk in chunk": b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff" + bytes(40),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_sound(listener: attcat.Explainer, tmp_path: Path, case: str) -> None:
    (tmp_path / "a.wav").write_bytes(FILES[case])
    with pytest.raises(InputError):
        listener(tmp_path / "a.wav")


@pytest.mark.parametrize(("bits", "one"), [(8, b"\xc0"), (16, b"\0\x40"), (24, b"\0\0\x40"), (32, b"\0\0\0\x40")])
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_files_of_every_width_hold_the_same(tmp_path: Path, bits: int, one: bytes, channels: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(one * channels * 9, bits=bits, channels=channels))
    found = read_sound(str(tmp_path / "a.wav"))
    np.testing.assert_array_equal(found.samples, np.full(9, 0.5, np.float32))


def test_a_file_that_was_cut_off_is_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(b"\0\x40" * 50)[:-21])
    assert len(read_sound(tmp_path / "a.wav")) == 39


def test_a_long_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "MAX_SAMPLES", 100)
    monkeypatch.setattr(wave.Wave_read, "readframes", lambda *_: pytest.fail("it was read"))
    (tmp_path / "a.wav").write_bytes(wav())
    with pytest.raises(InputError, match="800 samples"):
        read_sound(tmp_path / "a.wav")


# -- videos ------------------------------------------------------------------------------------------------------------

FRAMES = 8
GREY = np.full((FRAMES, 16, 16, 3), 99, np.uint8)


VIDEOS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "no frames": lambda: GREY[:0],
    "frames in no list": lambda: iter(list(GREY)),
    "one frame": lambda: GREY[0],
    "too few": lambda: GREY[:-1],
    "too many": lambda: np.concatenate([GREY, GREY]),
    "several sizes": lambda: [*GREY[:-1], GREY[0, :8]],
    "a frame that is none": lambda: [*GREY[:-1], None],
    "a number": lambda: [*GREY[:-1], 3],
    "no pixels": lambda: np.zeros((FRAMES, 0, 4, 3), np.uint8),
    "not a number": lambda: np.full(GREY.shape, np.nan),
    "infinite": lambda: np.full(GREY.shape, np.inf),
    "complex": lambda: GREY.astype(complex),
    "objects": lambda: np.full(GREY.shape, None),
    "texts": lambda: np.full(GREY.shape, "a"),
    "five axes": lambda: GREY[None],
    "five channels": lambda: np.zeros((FRAMES, 8, 8, 5), np.uint8),
    "gigantic": lambda: np.broadcast_to(np.uint8(1), (FRAMES, 10**5, 10**5, 3)),
    "narrow": lambda: np.broadcast_to(np.uint8(1), (FRAMES, 1, 50_000, 3)),
    "meta": lambda: torch.zeros(GREY.shape, device="meta"),
    "sparse": lambda: torch.zeros(GREY.shape).to_sparse(),
    "a file that does not exist": lambda: ["a.png"] * FRAMES,
    "names that no file has": lambda: ["a" * 300, "a\0b"] * (FRAMES // 2),
}


@pytest.mark.parametrize("case", VIDEOS)
def test_videos_that_are_none(watcher: attcat.Explainer, case: str) -> None:
    with pytest.raises(InputError):
        watcher(VIDEOS[case]())


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3, 3), (2, 2, 3), (3, 40, 3), (16, 16, 1), (16, 16)])
def test_small_frames_are_frames(watcher: attcat.Explainer, shape: tuple[int, ...]) -> None:
    explanation = watcher([np.full(shape, 9, np.uint8)] * FRAMES)
    assert torch.isfinite(explanation.scores).all()
    assert explanation.heatmap().shape[1:] == shape[:2]


def test_frames_are_counted_before_they_are_read(
    watcher: attcat.Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr(video, "read_picture", lambda _: pytest.fail("it was read"))
    with pytest.raises(InputError, match="has 9 frames, the model takes 8"):
        watcher([str(tmp_path / "a.png")] * 9)


# -- whatever hypothesis thinks of -------------------------------------------------------------------------------------

KINDS = st.one_of(arrays.scalar_dtypes(), arrays.unicode_string_dtypes(), st.just(np.dtype(object)))


@some
@given(
    arrays.arrays(KINDS, arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=400), fill=st.nothing()),
    st.one_of(st.just(RATE), st.integers(), st.floats(), st.none(), st.text(max_size=3)),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_samples(samples: Any, rate: Any) -> None:
    try:
        found = read_sound((samples, rate))
    except AttCATError:
        return
    assert found.rate == rate
    assert len(found) == len(samples)


@some
@given(
    st.binary(max_size=60),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 9),
)
def test_any_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, channels: int, rate: int, bits: int, kind: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.wav"
    path.write_bytes(wav(data, channels=channels % 5, rate=rate, bits=bits, kind=kind % 4))
    try:
        found = read_sound(path)
    except AttCATError:
        return
    assert np.abs(found.samples).max() <= 1


@some
@given(st.integers(0, 60), st.binary(max_size=30))
def test_any_damage(tmp_path_factory: pytest.TempPathFactory, place: int, data: bytes) -> None:
    path, whole = tmp_path_factory.getbasetemp() / "damaged.wav", wav(b"\1\2" * 9)
    path.write_bytes(whole[:place] + data + whole[place + len(data) :])
    try:
        read_sound(path)
    except AttCATError:
        return


@some
@given(arrays.arrays(KINDS, st.tuples(st.just(FRAMES), *[st.integers(0, 4)] * 2, st.integers(1, 4)), fill=st.nothing()))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_video(watcher: attcat.Explainer, frames: Any) -> None:
    try:
        explanation = watcher(frames)
    except AttCATError:
        return
    assert torch.isfinite(explanation.scores).all()
