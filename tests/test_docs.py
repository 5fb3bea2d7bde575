"""The examples of docs/tasks.md run: with small random models in place of those that a user loads."""

from __future__ import annotations

import re
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import transformers
from tasks_zoo import TAGS, make, tokenizer
from test_describing import made as describing
from test_hearing import made as hearing
from test_hearing import sound
from test_image_text import make as make_pair
from test_image_text import processor
from test_regions import MODELS as MAKE_REGIONS
from test_segments import MODELS as MAKE_SEGMENTS
from test_sentences import encoder
from test_streams import WRITERS, made
from test_zero_shot import NLI

import attcat
from attcat.demos import clips, tones

PAGE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
EXAMPLES = {
    f"{number} {section.splitlines()[0]}": code
    for number, (section, code) in enumerate(
        (section, code)
        for section in PAGE.split("\n## ")[1:]
        for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    )
}
MODELS = {
    "AutoModelForSequenceClassification": ("Bert", "ForSequenceClassification", {"id2label": {0: "bad", 1: "good"}}),
    "AutoModelForTokenClassification": ("Bert", "ForTokenClassification", {"id2label": TAGS}),
    "AutoModelForQuestionAnswering": ("Bert", "ForQuestionAnswering", {}),
    "AutoModelForMultipleChoice": ("Bert", "ForMultipleChoice", {}),
    "AutoModelForMaskedLM": ("Bert", "ForMaskedLM", {}),
    "AutoModelForCausalLM": ("GPT2", "LMHeadModel", {}),
}


CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


def signals() -> dict[str, Any]:
    """Models that read sounds, videos and sources, with what they read."""
    listener, extractor = tones.made()
    watcher, processor = clips.made()
    return {
        "AutoModelForSeq2SeqLM": Loaded(made(WRITERS["t5"])),
        "AutoModelForAudioClassification": Loaded(listener.eval()),
        "AutoFeatureExtractor": Loaded(extractor),
        "AutoModelForVideoClassification": Loaded(watcher.eval()),
        "AutoImageProcessor": Loaded(processor),
        "pipeline": transformers.pipeline,
        "nli": make("Bert", "ForSequenceClassification", id2label=NLI, label2id={n: i for i, n in NLI.items()}),
        "words": tokenizer("Bert"),
        "samples": tones.sound(1, 0.4, seed=0),
        "rate": tones.RATE,
        "frames": list(clips.clip(0, 1, 1, 2, seed=0)),
    }


def saved_encoder(folder: Path) -> Path:
    """A model of sentence embeddings, saved."""
    encoder(folder / "parts").save(str(folder / "encoder"))
    return folder / "encoder"


def regions() -> dict[str, Any]:
    """A detector and models of segmentation, with their processor."""
    made = {"detr": MAKE_REGIONS["detr"](), "segformer": MAKE_REGIONS["segformer"](), "eomt": MAKE_SEGMENTS["eomt"]()}
    animals = ["cat", "dog", "cow"]
    for name, labels in (("detr", animals), ("segformer", ["road", "grass", "sky"]), ("eomt", animals)):
        model = made[name]
        model.config.id2label = dict(enumerate(labels))
    return {
        "AutoModelForObjectDetection": Loaded(made["detr"]),
        "AutoModelForSemanticSegmentation": Loaded(made["segformer"]),
        "AutoModelForUniversalSegmentation": Loaded(made["eomt"]),
        "AutoImageProcessor": Loaded(transformers.SegformerImageProcessor(size={"height": 64, "width": 64})),
    }


class Loaded:
    """Has `from_pretrained`."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def from_pretrained(self, name: str) -> Any:
        return self.made


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_the_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some save a file
    code = EXAMPLES[example]
    names: dict[str, Any] = {"attcat": attcat, "model": "", "tokenizer": "", "long_text": "a gripping film, " * 9}
    names["picture"] = np.full((40, 40, 3), 99, dtype=np.uint8)
    for name, (family, head, options) in MODELS.items():
        assert hasattr(transformers, name)
        if name in code:
            names[name] = Loaded(make(family, head, **options))
            names["AutoTokenizer"] = Loaded(copy(tokenizer(family)))
            names["AutoTokenizer"].made.chat_template = CHAT
    names.setdefault("AutoTokenizer", Loaded(copy(tokenizer("Bert"))))
    names |= signals()
    if "SpeechSeq2Seq" in code:
        heard, reader = hearing("moonshine")
        names |= {"AutoModelForSpeechSeq2Seq": Loaded(heard), "AutoProcessor": Loaded(reader)}
        names["samples"], names["rate"] = sound()
    if "ImageTextToText" in code:
        seeing, looker = describing("captioner")
        names |= {"AutoModelForImageTextToText": Loaded(seeing), "AutoProcessor": Loaded(looker)}
    if "SentenceTransformer" in code:
        names["model"] = str(saved_encoder(tmp_path))
    if "ObjectDetection" in code or "Segmentation" in code:
        names |= regions()
    names["AutoModel"] = Loaded(make_pair("clip"))
    names.setdefault("AutoProcessor", Loaded(processor("clip")))
    monkeypatch.setattr(timm, "create_model", small_swin)
    exec(code, names)


MAKE = timm.create_model


def small_swin(name: str, pretrained: bool) -> Any:
    small = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
    model = MAKE(name, **small)
    model.pretrained_cfg["input_size"] = (3, 32, 32)
    return model.eval()


SERVICE = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).parents[1] / "docs" / "service.md").read_text(encoding="utf-8"),
    flags=re.DOTALL,
)


@pytest.mark.parametrize("number", range(len(SERVICE)))
def test_the_service_example_runs(number: int) -> None:
    model = make("Bert", "ForSequenceClassification", id2label={0: "bad", 1: "good"})
    exec(SERVICE[number], {"attcat": attcat, "model": model, "tokenizer": tokenizer("Bert")})


def test_every_section_has_an_example() -> None:
    without = [part.splitlines()[0] for part in PAGE.split("\n## ")[1:] if "```python" not in part]
    assert without == ["Pictures of other sizes"]  # options of the explainer that need no code
