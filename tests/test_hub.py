"""Loading by name: folders in each library's format, and everything that can be wrong with one."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import saved
import timm
import torch
import transformers

import attcat
from attcat.adapters import hub


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved.save_timm(tmp_path_factory.mktemp("timm"))


@pytest.fixture
def copy(text: Path, tmp_path: Path) -> Path:
    """A text model's folder that may be broken."""
    return Path(shutil.copytree(text, tmp_path / "copy"))


def change(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_text_classifier(text: Path) -> None:
    model, tokenizer = hub.load(text)
    assert isinstance(model, transformers.BertForSequenceClassification)
    assert not model.training
    assert attcat.Explainer(model, tokenizer)("a gripping film").label in ("dull", "great")


def test_image_classifier(image: Path, tmp_path: Path) -> None:
    model, processor = hub.load(str(image))
    explanation = attcat.Explainer(model, processor)(saved.save_picture(tmp_path / "picture.png"))
    assert explanation.grid.shape == (4, 4)


def test_timm(timm_folder: Path, tmp_path: Path) -> None:
    model, processor = hub.load(timm_folder)
    assert processor is None
    assert not model.training
    expected = saved.timm_model().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    explanation = attcat.Explainer(model)(saved.save_picture(tmp_path / "picture.png"))
    assert explanation.label in ("cat", "dog", "fox")


def test_timm_wrapped_by_transformers(tmp_path: Path) -> None:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    config = transformers.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        model_args=arguments,
        num_labels=3,
        pretrained_cfg={"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0},
    )
    model = transformers.TimmWrapperForImageClassification(config)
    saved.redraw(model).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((tmp_path / "config.json").read_text())
    loaded, processor = hub.load(tmp_path)
    assert isinstance(loaded, transformers.TimmWrapperForImageClassification)
    explanation = attcat.Explainer(loaded, processor)(saved.save_picture(tmp_path / "picture.png"))
    assert explanation.grid.shape == (4, 4)


def test_pickles_are_never_read(timm_folder: Path, tmp_path: Path) -> None:
    """timm by itself prefers `pytorch_model.bin` to a safetensors file of another name."""
    folder = Path(shutil.copytree(timm_folder, tmp_path / "copy"))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"not to be opened")
    model, _ = hub.load(folder)
    assert torch.equal(model.cls_token, saved.timm_model().cls_token)
    (folder / "other.safetensors").unlink()
    with pytest.raises(attcat.LoadError, match=r"pytorch_model\.bin, which could run code: save them as safetensors"):
        hub.load(folder)


def test_loading_is_quiet_and_leaves_settings(text: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("transformers").level
    hub.load(text)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("transformers").level == level
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/no where", "a/b/c", "nowhere/", ""])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(attcat.LoadError, match="no such folder"):
        hub.load(name)


def test_a_file_is_not_a_folder(text: Path) -> None:
    with pytest.raises(attcat.LoadError, match=r"config\.json is a file: give the folder"):
        hub.load(text / "config.json")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (huggingface_hub.errors.LocalEntryNotFoundError("x"), "the hub cannot be reached"),
        (huggingface_hub.errors.HFValidationError("x"), "that is not a hub id"),
        (OSError("disk full"), "disk full"),
    ],
)
def test_hub_errors(monkeypatch: pytest.MonkeyPatch, raised: Exception, told: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(attcat.LoadError, match=told) as caught:
        hub.load("owner/name")
    assert "\n" not in str(caught.value)


def test_hub_models_become_folders(monkeypatch: pytest.MonkeyPatch, text: Path) -> None:
    """The weights are asked for after the configuration was found good, and no pickle is ever asked for."""
    asked: list[list[str]] = []

    def fetch(name: str, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(text)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    hub.load("owner/name")
    assert asked[0] == ["config.json"]
    assert len(asked) == 2
    assert not any(pattern.endswith((".bin", ".pt", ".pth", ".py", "*")) for patterns in asked for pattern in patterns)


def test_a_model_that_reads_words_and_pictures(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=16, patch_size=8, **sizes),
        text_config=transformers.LlamaConfig(vocab_size=len(saved.WORDS) + 1, num_key_value_heads=2, **sizes),
        image_token_index=len(saved.WORDS),
    )
    tokenizer = saved.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    pictures = transformers.CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    transformers.LlavaProcessor(pictures, tokenizer, patch_size=8, image_token="<image>").save_pretrained(tmp_path)
    model, processor = hub.load(tmp_path)
    assert isinstance(model, transformers.LlavaForConditionalGeneration)
    assert isinstance(processor, transformers.LlavaProcessor)
    assert not model.training


def test_a_model_that_translates_is_not_taken_for_one_that_sees(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}')
    with pytest.raises(attcat.UnsupportedModelError, match="T5ForConditionalGeneration, which has no head to explain"):
        hub.load(tmp_path)


def test_no_classifier(tmp_path: Path) -> None:
    saved.save_text(tmp_path, "BertForNextSentencePrediction")
    with pytest.raises(
        attcat.UnsupportedModelError, match="holds a BertForNextSentencePrediction, which has no head to explain"
    ):
        hub.load(tmp_path)


def test_missing_head(copy: Path) -> None:
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    safetensors.torch.save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(attcat.LoadError, match=r"lacks 2 weights .*classifier\.bias.*with its head"):
        hub.load(copy)


def test_timm_without_head(timm_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(timm_folder, tmp_path / "copy"))
    change(folder, num_classes=0)
    with pytest.raises(attcat.UnsupportedModelError, match="num_classes = 0"):
        hub.load(folder)


def test_unknown_timm_architecture(timm_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(timm_folder, tmp_path / "copy"))
    change(folder, architecture="vit_of_tomorrow")
    with pytest.raises(attcat.LoadError, match="Unknown model"):
        hub.load(folder)


def test_own_code_is_not_run(copy: Path) -> None:
    change(copy, model_type="unheard_of", auto_map={"AutoConfig": "code.Config"})
    (copy / "code.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(attcat.LoadError, match="its own code, which is never run") as caught:
        hub.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda f: (f / "config.json").unlink(), r"holds no config\.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "holds a list"),
        (lambda f: change(f, architectures=None), "neither `architectures`"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"damaged"), "cannot be loaded"),
        (lambda f: change(f, hidden_size=48), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    ],
)
def test_broken_folders(copy: Path, break_it: object, told: str) -> None:
    break_it(copy)  # type: ignore[operator]
    with pytest.raises(attcat.LoadError, match=told) as caught:
        hub.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["transformers", "timm"])
def test_missing_package(monkeypatch: pytest.MonkeyPatch, package: str, text: Path, timm_folder: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(attcat.LoadError, match=rf"pip install 'attcat\[{package}\]'"):
        hub.load(text if package == "transformers" else timm_folder)


def test_timm_itself_would_load_the_pickle(timm_folder: Path, tmp_path: Path) -> None:
    """Why `hub` names the file: this is what timm does with the same folder."""
    folder = Path(shutil.copytree(timm_folder, tmp_path / "copy"))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"not to be opened")
    with pytest.raises(Exception, match=r"pickle|Invalid|load"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
