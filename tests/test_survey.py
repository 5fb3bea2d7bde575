"""The survey of models: how it builds and tries one, what kills a child, and the pages that are made of the record."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import transformers

FOLDER = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(FOLDER))
import survey  # noqa: E402
import survey_page  # noqa: E402

sys.path.remove(str(FOLDER))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def case(name: str) -> survey.Case:
    return next(survey.cases([name]))


def row(name: str, task: str, result: str, reason: str = "", **more: Any) -> dict[str, Any]:
    family = re.split("For|LMHead", name)[0]
    return {
        "library": "transformers",
        "name": name,
        "task": task,
        "family": family,
        "result": result,
        "reason": reason,
    } | more


ROWS = [
    row("ZetaForTokenClassification", "token classification", "works", attends=True),
    row("alphaForSequenceClassification", "text classification", "fails", "attention rows sum to 1: 0.5"),
    row("BetaForSequenceClassification", "text classification", "works", attends=False),
    row(
        "BetaForCausalLM",
        "causal language modeling",
        "refused",
        "BetaForCausalLM cannot be explained: a | b <script>x</script>",
    ),
    row("GammaForCausalLM", "causal language modeling", "not built", "ImportError: no natten"),
    {
        **row("beta_tiny", "image classification (timm)", "works"),
        "library": "timm",
        "family": "timm beta_net",
    },
]


def test_every_class_with_a_head_is_a_case() -> None:
    given = ("AutoModelForCausalLM", "BertModel", "DataCollatorForTokenClassification", "GPT2LMHeadModel")
    found = [
        case for case in survey.cases([*given, "Wav2Vec2ForSequenceClassification"]) if case.library == "transformers"
    ]
    assert [(case.name, case.task, case.family) for case in found] == [
        ("GPT2LMHeadModel", "causal language modeling", "GPT2"),
        ("Wav2Vec2ForSequenceClassification", "audio classification", "Wav2Vec2"),
    ]
    modules = {case.family for case in survey.cases([])}
    assert modules == {f"timm {module}" for module in timm.list_modules() if timm.list_models(module=module)}


def test_a_model_is_small_and_has_run_before_it_is_tried() -> None:
    model, given = survey.built(case("LlamaForSequenceClassification"))
    assert given["input_ids"].shape == (1, 11)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.num_labels) == (32, 2, 3)
    assert survey.built(case("ElectraForQuestionAnswering"))[0].config.num_labels == 2
    assert survey.tried(case("ElectraForQuestionAnswering"))["result"] == "works"
    found = survey.tried(case("BrosForTokenClassification"))  # which needs boxes
    assert (found["result"], found["reason"]) == ("not built", "ValueError: You have to specify bbox")
    assert survey_page.reason({**row("Bros", "text", "x"), **found}) == (
        "made small it does not run: ValueError: You have to specify bbox"
    )


def test_every_list_of_transformers_is_asked() -> None:
    listed = survey.by_list()
    found = {one.name: one for one in survey.cases(listed)}
    assert set(listed) - set(found) <= {"GlmgaForConditionalGeneration"}  # of which there is no class
    kinds = {name: (one.task, one.family) for name, one in found.items()}
    assert kinds["T5ForConditionalGeneration"] == ("sequence to sequence", "T5")
    assert kinds["MarianMTModel"] == ("sequence to sequence", "Marian")
    assert kinds["XLMWithLMHeadModel"] == ("causal language modeling", "XLM")
    assert kinds["Mask2FormerForUniversalSegmentation"] == ("instance segmentation", "Mask2Former")
    assert kinds["LlavaForConditionalGeneration"] == ("image and text to text", "Llava")
    assert kinds["CLIPModel"] == ("zero-shot image classification", "CLIP")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BartForConditionalGeneration", {"input_ids": (1, 11), "decoder_input_ids": (1, 4)}),
        ("YolosForObjectDetection", {"pixel_values": (1, 3, 32, 32)}),
        ("CLIPModel", {"input_ids": (1, 11), "pixel_values": (1, 3, 32, 32)}),
        ("VideoMAEForVideoClassification", {"pixel_values": (1, 16, 3, 32, 32)}),
        ("LlavaForConditionalGeneration", {"input_ids": (1, 27), "pixel_values": (1, 3, 32, 32)}),
        (
            "Qwen2VLForConditionalGeneration",
            {"input_ids": (1, 27), "pixel_values": (64, 384), "image_grid_thw": (1, 3)},
        ),
        ("Idefics3ForConditionalGeneration", {"input_ids": (1, 15), "pixel_values": (1, 1, 3, 32, 32)}),
    ],
)
def test_what_each_kind_runs_on_is_made_of_its_configuration(name: str, arguments: dict[str, tuple[int, ...]]) -> None:
    _, given = survey.built(case(name))
    assert {n: tuple(v.shape) for n, v in given.items() if n in arguments} == arguments


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "LlavaForConditionalGeneration"])
def test_what_was_written_is_explained(name: str) -> None:
    found = survey.tried(case(name))
    assert (found["result"], found["reason"]) == ("works", "")
    assert found["seconds"] > 0


def test_of_every_kind_of_layer_there_is_one() -> None:
    config = survey.shrunk(transformers.Gemma3TextConfig, survey.ATTEMPTS[0])
    assert sorted(config.layer_types) == ["full_attention", "sliding_attention"]


def test_what_kills_a_child_is_a_result() -> None:
    def work(one: survey.Case) -> dict[str, Any]:
        if one.name == "bad":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"result": "works"}

    children = [survey.Child.of(survey.Case("x", name, "t", "f"), work) for name in ("good", "bad")]
    good, bad = (child.result() for child in children)
    assert good == {"result": "works"}
    assert bad["result"] == "stopped"
    assert "signal 9" in bad["reason"]


def test_the_page_counts_by_task_and_sorts_by_family() -> None:
    page = survey_page.markdown(ROWS)
    assert "| text classification | 2 | 1 | 1 | 50 % | 90 % | 0 | 1 | 0 | 0 |" in page
    assert "| causal language modeling | 1 | 0 | 0 | 0 % | 85 % | 1 | 0 | 0 | 1 |" in page
    assert "[A](#a) · [B](#b) · [G](#g) · [Z](#z)" in page
    families = [
        line.split(" | ")[0].removeprefix("| ")
        for line in page.partition("### A")[2].splitlines()
        if line.startswith("| ")
    ]
    assert [name for name in families if name != "family"] == [
        "alpha",
        "Beta",
        "beta\\_net (timm) `beta_tiny`",
        "Gamma",
        "Zeta",
    ]
    assert "| Beta | text (`cat`) | refused: causal | a \\| b &lt;script>x&lt;/script> |" in page


def test_the_page_with_a_search_field_is_safe() -> None:
    page = survey_page.page(ROWS)
    assert "<script>x" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    (script,) = re.findall("<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_search_field_finds(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "page.html"
    path.write_text(survey_page.page(ROWS), encoding="utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())

        def shown() -> list[str]:
            return [text.split(" ")[0] for text in page.locator("tbody tr:visible td:first-child").all_text_contents()]

        assert len(shown()) == 6
        page.fill("#word", "beta CAUSAL")
        assert shown() == ["BetaForCausalLM"]
        assert page.text_content("#told") == "1 of 6 models"
        page.fill("#word", "")
        page.select_option("#result", "works")
        assert shown() == ["BetaForSequenceClassification", "beta_tiny", "ZetaForTokenClassification"]
        browser.close()
    assert complaints == []
