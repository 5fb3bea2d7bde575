"""The table of language models, with a small one in place of Gemma."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers_small import wordpiece

from attcat.demos import llm_page
from attcat.demos.llm_page import Judge, main, measured

REVIEW = "a gripping film , not boring . the café was unwatchable !"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.setattr(llm_page, "WORDS", (" film", " was"))
    monkeypatch.setattr(llm_page, "METHODS", ("oddscat", "oddscat:blocks=all", "random"))
    monkeypatch.setattr(llm_page, "PROMPT", "{review} the film")
    monkeypatch.setattr(llm_page, "TEXTS", {"a gripping": " film", "not boring , not": " was"})
    monkeypatch.setattr(llm_page, "WHOLE", ("oddscat", "random"))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=40, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = wordpiece()
    monkeypatch.setattr(tokenizer, "model_max_length", 60)
    return Judge(model, tokenizer, threshold=0.25)


@torch.no_grad()
def test_odds_without_tokens_are_those_of_a_shorter_text_or_of_a_masked_one(judge: Judge) -> None:
    ids = judge.tokenizer(REVIEW)["input_ids"]
    order = [3, 1, 5, 2, 4, 6, 7, 8, 9, 10]
    first, second = (judge.tokenizer.convert_tokens_to_ids(word) for word in ("film", "was"))
    assert judge.words == [first, second]
    for how in ("masked", "deleted"):
        for share, found in zip(llm_page.SHARES, judge.without(ids, order, how), strict=True):
            gone = set(order[: round(share * len(order))])
            if how == "deleted":
                row = torch.tensor([[token for place, token in enumerate(ids) if place not in gone]])
                logits = judge.model(input_ids=row).logits[0, -1]
            else:
                mask = torch.tensor([[int(place not in gone) for place in range(len(ids))]])
                places = torch.arange(len(ids))[None]
                logits = judge.model(torch.tensor([ids]), attention_mask=mask, position_ids=places).logits[0, -1]
            assert found == pytest.approx(float(logits[first] - logits[second] - 0.25), abs=1e-4)


@torch.no_grad()
def test_falls_are_those_of_log_odds_with_one_token_hidden(judge: Judge) -> None:
    ids, word = judge.tokenizer("not boring film", return_tensors="pt")["input_ids"], " was"
    target = judge.tokenizer.convert_tokens_to_ids("was")

    def odds(hidden: int | None) -> float:
        mask = torch.ones_like(ids)
        if hidden is not None:
            mask[0, hidden] = 0
        places = torch.arange(ids.shape[1])[None]
        p = judge.model(ids, attention_mask=mask, position_ids=places).logits[0, -1].double().softmax(-1)[target]
        return float((p / (1 - p)).log())

    expected = [odds(None) - odds(place) for place in range(1, ids.shape[1] - 1)]
    assert llm_page.falls(judge, "not boring film", word) == pytest.approx(expected, abs=1e-4)


def test_a_review_is_measured_by_every_method(judge: Judge) -> None:
    found = measured(judge, REVIEW, llm_page.METHODS)
    assert set(found) == set(llm_page.METHODS)
    for values in found.values():
        assert set(values) == set(llm_page.COLUMNS)
        assert -1 < values["masked"] < 1
        assert 0 <= values["last"] <= 1
    assert found["oddscat"] != found["oddscat:blocks=all"]


def test_the_page_is_written_and_goes_on(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{REVIEW} {'film ' * count}\t{count % 2}" for count in range(12)]
    data = tmp_path / "dev.tsv"
    data.write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(llm_page, "CALIBRATED", 4)
    monkeypatch.setattr(llm_page, "gemma", lambda folder: (judge.model, judge.tokenizer))
    page = tmp_path / "page.md"
    given = [str(data), "--records", str(tmp_path / "records"), "--sentences", "3", "--write", str(page)]
    main(given)
    assert capsys.readouterr().out.count(" of 3") == 3
    text = page.read_text()
    assert text.startswith("# Which explanation of a language model is faithful?")
    assert "| `oddscat:blocks=all` |" in text
    assert "3 reviews" in text
    assert "2 short texts" in text
    assert "| method | rank correlation ↑ | right signs ↑ |" in text
    main(given)
    assert not capsys.readouterr().out  # everything was there
    assert page.read_text() == text
