"""Long documents: windows that are joined by their characters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tasks_zoo import TASKS, make, tokenizer

import attcat

TEXT = "the film was not boring, a gripping film! the unwatchable film was boring. a film, the gripping film was not boring"
LABELS = {0: "bad", 1: "good", 2: "neither"}
FAMILIES = ["Bert", "Roberta", "DistilBert", "GPT2"]


def explainer(family: str = "Bert", **options: object) -> attcat.Explainer:
    model = make(family, "ForSequenceClassification", id2label=LABELS)
    return attcat.Explainer(model, tokenizer(family), **options)


def spans_of(explanation: attcat.Explanation) -> list[tuple[int, int]]:
    return [span for span in explanation.tokens.spans if span is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_mean_over_the_windows_that_a_token_is_in(family: str) -> None:
    """Each window written out and explained by itself as model arguments; positions counted by hand, 16 tokens, 4 shared."""
    explain = explainer(family, method="attcat", rule="plain")
    tokens = explain.adapter.processor
    whole = tokens(TEXT)["input_ids"]
    specials = 2 if family in ("Bert", "DistilBert", "Roberta") else 0
    content = whole[specials // 2 : len(whole) - specials // 2]
    size, overlap = 16, 4
    room = size - specials
    starts = [0]
    while starts[-1] + room < len(content):
        starts.append(starts[-1] + room - overlap)
    assert len(starts) > 2
    windows = [
        [*whole[: specials // 2], *content[start : start + room], *whole[len(whole) - specials // 2 :]]
        for start in starts
    ]
    alone = [explain({"input_ids": torch.tensor([window])}, "good") for window in windows]
    total, count = torch.zeros(3, len(whole)), torch.zeros(len(whole))
    for start, window, explanation in zip(starts, windows, alone, strict=True):
        middle = range(specials // 2 + start, specials // 2 + start + len(window) - specials)
        place = [*range(specials // 2), *middle, *range(len(whole) - specials // 2, len(whole))]
        for column, position in enumerate(place):
            total[:, position] += explanation.layers[:, column]
            count[position] += 1
    result = explain(TEXT, "good", window=16)
    assert len(result.windows) == len(windows)
    assert float((result.layers - total / count).abs().max()) < 1e-4 * float(result.layers.abs().max())
    torch.testing.assert_close(result.logits, torch.stack([one.logits for one in alone]).mean(0), rtol=1e-4, atol=1e-5)
    assert result.value == pytest.approx(float(result.logits[1]), abs=1e-4)
    for row, one in enumerate(alone):
        torch.testing.assert_close(result.window_probabilities[row], one.probabilities, rtol=1e-4, atol=1e-5)
    assert "".join(TEXT[word.start : word.end] for word in result.words()) == TEXT.replace(" ", "")
    assert (result.windows[0].start, result.windows[-1].end) == (0, len(TEXT))
    assert all(one.end > other.start for one, other in zip(result.windows, result.windows[1:], strict=False))


def test_a_text_that_fits_is_read_in_one_piece() -> None:
    explain = explainer()
    once, windowed = explain("a gripping film"), explain("a gripping film", window=True)
    assert windowed.windows == ()
    assert torch.equal(once.layers, windowed.layers)
    with pytest.raises(attcat.InputError, match="read in one piece"):
        _ = windowed.window_probabilities


def test_the_predicted_class_is_the_documents_and_batches_do_not_matter() -> None:
    result = explainer()(TEXT, window=True)
    assert result.target == int(torch.stack([torch.tensor(w.logits) for w in result.windows]).mean(0).argmax())
    one_by_one = explainer(batch_size=1)(TEXT, window=True)
    torch.testing.assert_close(one_by_one.layers, result.layers, rtol=1e-4, atol=1e-6)
    ranked = explainer()(TEXT, window=True, top_k=3)
    assert [one.target for one in ranked] == result.logits.argsort(descending=True).tolist()
    listed = explainer()(["a film", TEXT], ["bad", "good"], window=True)
    assert [len(one.windows) > 0 for one in listed] == [False, True]
    contrast = explainer()(TEXT, ("good", "bad"), window=True)
    assert contrast.value == pytest.approx(float(contrast.logits[1] - contrast.logits[0]), abs=1e-5)
    function = explainer()(TEXT, lambda output: output.logits[:, 1], window=True)
    torch.testing.assert_close(function.layers, explainer(quantity="logit")(TEXT, "good", window=True).layers)
    assert explainer(completeness=True, method="input_x_gradient")(TEXT, window=True).bias is not None


def test_the_second_text_of_a_pair_is_split() -> None:
    result = explainer()(("a film", TEXT), window=True)
    assert len(result.windows) > 3
    first = [word.text for word in result.words() if word.segment == 0]
    second = [word for word in result.words() if word.segment == 1]
    assert first == ["a", "film"]
    assert "".join(word.text for word in second) == TEXT.replace(" ", "")
    assert result.windows[-1].end == len(TEXT)
    with pytest.raises(attcat.InputError, match=r"leaves -?\d+ for the text that is split: .* shorten the first text"):
        explainer()((TEXT, "a film"), window=True)


def test_saved_drawn_and_described(tmp_path: Path) -> None:
    result = explainer()(TEXT, "good", window=True)
    for suffix in (".json", ".safetensors"):
        loaded = attcat.load(result.save(tmp_path / f"one{suffix}"))
        assert loaded.windows == result.windows
    page = result.to_html()
    assert f"The text was read in {len(result.windows)} overlapping windows" in page
    chance = float(result.window_probabilities[0, 1])
    assert f"good by window (characters): {chance:.1%} (0 to {result.windows[0].end})" in page


def test_what_cannot_be_read_in_windows() -> None:
    with pytest.raises(attcat.TooLongError, match="window=True"):
        explainer()(TEXT)
    with pytest.raises(attcat.OptionError, match="give one of them"):
        explainer()(TEXT, window=True, truncation=True)
    with pytest.raises(attcat.OptionError, match="window=0"):
        explainer()(TEXT, window=0)
    with pytest.raises(attcat.InputError, match="make the window larger"):
        explainer()(TEXT, window=3)
    with pytest.raises(attcat.InputError, match="given as strings"):
        explainer()({"input_ids": torch.tensor([[2, 5, 3]])}, window=True)
    with pytest.raises(attcat.InputError, match=r"predicts parts of the text \(token classification\)"):
        TASKS["BertForTokenClassification"].explainer()(TEXT, window=True)
