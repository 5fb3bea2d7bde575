"""Pictures in: formats, and where the processor's crop and resize put them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from timm.data import create_transform
from torchvision import transforms as tv

import attcat
from attcat.model.picture import Observer, read_picture


def hf(processor):
    return lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0]


PROCESSORS = {
    "squash": lambda: hf(transformers.ViTImageProcessor(size={"height": 96, "width": 96})),
    "shortest edge, crop": lambda: hf(
        transformers.BitImageProcessor(size={"shortest_edge": 128}, crop_size={"height": 96, "width": 96})
    ),
    "squash, crop": lambda: hf(
        transformers.DeiTImageProcessor(size={"height": 128, "width": 128}, crop_size={"height": 96, "width": 96})
    ),
    "timm": lambda: create_transform((3, 96, 96), crop_pct=0.875),
    "timm, border": lambda: create_transform((3, 96, 96), crop_pct=0.9, crop_mode="border"),
    "timm, wide": lambda: create_transform((3, 64, 128), crop_pct=1.0),
    "torchvision": lambda: tv.Compose(
        [tv.Resize(110), tv.CenterCrop(96), tv.ToTensor(), tv.Normalize([0.5] * 3, [0.2] * 3)]
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(300, 200), (150, 400), (96, 96), (40, 30), (801, 600)])
def test_the_view_says_where_a_known_square_lies(name: str, size: tuple[int, int]) -> None:
    """A white square of known position is found again in the model's input where the view says."""
    preprocess = PROCESSORS[name]()
    width, height = size
    side = min(size) // 4
    left, top = width // 2 - side // 3, height // 2 - side // 2
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top : top + side, left : left + side] = 255
    shown = preprocess(Image.fromarray(pixels))[0].double()
    weight = (shown - shown.min()) / (shown.max() - shown.min())
    if name == "timm, border":
        black = preprocess(Image.new("RGB", size))[0].double()
        weight = (shown - black).clamp(min=0)
    view, (rows, columns) = Observer(preprocess)(width, height)
    x0, y0, x1, y1 = view.box
    x = float((weight.sum(0) * (torch.arange(columns) + 0.5)).sum() / weight.sum())
    y = float((weight.sum(1) * (torch.arange(rows) + 0.5)).sum() / weight.sum())
    pixel = max((x1 - x0) / columns, (y1 - y0) / rows)  # one model pixel, in the picture's pixels
    assert x0 + x * (x1 - x0) / columns == pytest.approx(left + side / 2, abs=0.5 * pixel)
    assert y0 + y * (y1 - y0) / rows == pytest.approx(top + side / 2, abs=0.5 * pixel)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(2, 3), (3, 2), (2, 2), (1, 3), (2, 9), (3, 60)])
def test_a_picture_of_few_pixels_is_seen_like_a_large_one_of_its_proportions(name: str, size: tuple[int, int]) -> None:
    preprocess = PROCESSORS[name]()
    shown = tuple(preprocess(Image.new("RGB", size)).shape[1:])
    view, found = Observer(preprocess)(*size, shown)
    large, _ = Observer(preprocess)(40 * size[0], 40 * size[1])
    assert found == shown
    assert view.box == pytest.approx([edge / 40 for edge in large.box], abs=0.03 * max(size))
    assert (view.width, view.height) == size


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(2400, 1800), (1500, 3000)])
def test_a_large_picture_is_observed_by_a_small_one(name: str, size: tuple[int, int]) -> None:
    preprocess, seen = PROCESSORS[name](), []

    def noted(picture: Image.Image) -> torch.Tensor:
        seen.append(max(picture.size))
        return preprocess(picture)

    whole, shown = Observer(preprocess)(*size)
    view, found = Observer(noted)(*size, shown)
    assert found == shown
    assert view.box == pytest.approx(whole.box, abs=0.004 * max(size))
    assert max(seen) < max(size) or name == "timm, border"


@pytest.mark.parametrize("size", [(2000, 1500), (2, 3)])
def test_a_crop_that_counts_pixels_is_observed_as_it_is(size: tuple[int, int]) -> None:
    preprocess = tv.Compose([tv.CenterCrop(96), tv.ToTensor()])
    view, _ = Observer(preprocess)(*size, (96, 96))
    expected, _ = Observer(preprocess)(*size)
    assert view.box == pytest.approx(expected.box)
    assert view.box[2] - view.box[0] == pytest.approx(96, abs=1) or size[0] < 16


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1), (100_000, 3)])
def test_a_picture_that_would_be_huge_when_resized_is_refused(size: tuple[int, int]) -> None:
    from zoo import FAMILIES

    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    explain = attcat.Explainer(FAMILIES["vit"].model(), processor)
    with pytest.raises(attcat.InputError, match="too narrow"):
        explain(Image.new("RGB", size))
    assert explain(Image.new("RGB", (2, 300))).heatmap().shape == (300, 2)


def test_a_resize_without_crop_shows_exactly_the_whole_picture() -> None:
    view, shape = Observer(PROCESSORS["squash"]())(301, 77)
    assert view.box == (0.0, 0.0, 301.0, 77.0)
    assert shape == (96, 96)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (tv.RandomHorizontalFlip(1.0), "do not follow a line"),
        (tv.RandomRotation((90, 90)), "do not follow a line"),
        (tv.Grayscale(3), "do not follow a line"),
    ],
)
def test_a_processor_that_turns_pictures_is_refused(transform: object, message: str) -> None:
    preprocess = tv.Compose([transform, tv.Resize((64, 64)), tv.ToTensor()])
    with pytest.raises(attcat.ProcessorError, match=message):
        Observer(preprocess)(80, 100)


def test_a_processor_that_shows_nothing_is_refused() -> None:
    with pytest.raises(attcat.ProcessorError, match="same values"):
        Observer(lambda picture: torch.zeros(3, 8, 8))(10, 10)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_modes_are_converted(mode: str, tmp_path) -> None:
    picture = Image.new("RGB", (6, 4), (200, 40, 90)).convert(mode)
    read = read_picture(picture)
    assert read.mode == "RGB"
    assert read.size == (6, 4)
    assert np.abs(np.array(read, int) - np.array(picture.convert("RGB"), int)).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(path)
    assert np.array(read_picture(path))[0, :, 0].tolist() == [0, 100, 255]
    assert np.array(read_picture(np.array([[0, 257 * 100, 65535]], np.uint16)))[0, :, 1].tolist() == [0, 100, 255]


def test_exif_rotation_is_honoured(tmp_path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: to be shown turned by 90 degrees
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 255, 255), (0, 0, 20, 20))
    picture.save(path, exif=exif, quality=95)
    read = np.array(read_picture(path))
    assert read.shape == (40, 20, 3)
    assert read[:15].mean() > 250  # what was left is now on top
    assert read[25:].mean() < 5


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (400, 400)).save(path)
    monkeypatch.setattr("attcat.model.picture.MAX_PIXELS", 1000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(attcat.InputError, match="400 x 400 pixels"):
        read_picture(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 5, 2)), "no picture"),
        (np.zeros((2, 3, 4, 4)), "no picture"),
        (np.zeros((0, 4, 3)), "no picture"),
        (np.full((4, 4), 3.0), "scale them to 0 to 1"),
        (np.full((4, 4), -1), "range from -1"),
        (np.full((4, 4), np.nan), "range from nan"),
        (np.full((4, 4), 70000), "at most 16 bits"),
    ],
)
def test_arrays_that_are_not_pictures(array: np.ndarray, message: str) -> None:
    with pytest.raises(attcat.InputError, match=message):
        read_picture(array)
