"""Whether tokens see only those before them, found by experiment; and what OddsCAT makes of it."""

from __future__ import annotations

import pytest
import torch
import transformers
from tasks_zoo import TASKS
from zoo import EVERY, FAMILIES
from zoo_unseen import UNSEEN

import attcat
from attcat.errors import OptionError
from attcat.testing import check_adapter
from attcat.trace import looks_back

CAUSAL = {"gpt2", "llama", "qwen2", "gemma2", "gpt-neox", "opt", "bloom", "mistral"}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.mark.parametrize("name", EVERY)
def test_what_adapters_say_is_what_an_experiment_finds(name: str) -> None:
    family = FAMILIES[name]
    adapter = attcat.Explainer(family.model()).adapter
    found = looks_back(adapter, adapter.encode_arguments(family.arguments()))
    assert found is (name in CAUSAL)
    assert adapter.causal is found


@pytest.mark.parametrize("name", ["electra", "modernbert", "deberta-v2", "llama", "gemma2", "gpt-neox", "opt"])
def test_of_a_discovered_model_it_is_found_on_first_use(name: str) -> None:
    family = UNSEEN[name]
    if family is None:
        pytest.skip("transformers no longer has it")
    explainer = attcat.Explainer(family.model())
    arguments = family.row(family.arguments(), 0)
    # Those that do not need to know do not ask.
    explainer.like(method="cat")(arguments, 1)
    assert explainer.adapter.causal is None
    found = explainer(arguments, 1)
    assert explainer.adapter.causal is (name in CAUSAL)
    assert found.options.get("causal", False) is (name in CAUSAL)
    assert bool(found.layers[1:].any()) is (name not in CAUSAL)


@pytest.mark.parametrize(("count", "early"), [(1, 1), (2, 1), (4, 1), (5, 2), (6, 2), (8, 3)])
def test_of_a_causal_model_the_first_third_of_the_blocks_is_read(count: int, early: int) -> None:
    """Gradient times state by a loop over the blocks, under the smaller beta of such models; another on demand."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": count}, vocab_size=60, num_labels=3)
    model = transformers.LlamaForSequenceClassification(config).eval()
    model.config.pad_token_id = 0
    explainer = attcat.Explainer(model)

    def scores(method: str) -> torch.Tensor:
        return explainer.like(method=method)({"input_ids": IDS}, 1).scores

    def slow(blocks: int, beta: float) -> torch.Tensor:
        cat = explainer.like(method=f"cat+graded:quantity=log-odds:beta={beta}")({"input_ids": IDS}, 1)
        total = torch.zeros(IDS.shape[1])
        for block in range(blocks):
            total += cat.layers[block]
        return total

    found = explainer({"input_ids": IDS}, 1)
    torch.testing.assert_close(found.scores, slow(early, 0.25))
    assert not found.layers[early:].any()
    assert found.options["beta"] == 0.25
    torch.testing.assert_close(scores("oddscat:beta=0.75"), slow(early, 0.75))
    torch.testing.assert_close(scores("oddscat:blocks=first"), slow(1, 0.25))
    torch.testing.assert_close(scores("oddscat:blocks=all"), slow(count, 0.25))


def test_blocks_are_early_first_or_all() -> None:
    family = FAMILIES["gpt2"]
    model, arguments = family.model(), family.row(family.arguments(), 0)
    assert attcat.Explainer(model, method="oddscat:blocks=all")(arguments, 1).options["blocks"] == "all"
    with pytest.raises(OptionError, match="expected all or first"):
        attcat.Explainer(model, method="oddscat:blocks=some")(arguments, 1)


def test_the_smaller_beta_is_that_of_the_methods_own_rule_where_tokens_see_backwards() -> None:
    causal, other = FAMILIES["gpt2"], FAMILIES["bert"]
    for family, beta in ((causal, 0.25), (other, 0.75)):
        explainer = attcat.Explainer(family.model())
        found = explainer(family.row(family.arguments(), 0), 1)
        assert found.options["beta"] == beta
        assert f"beta={beta}" in repr(explainer)
    arguments = causal.row(causal.arguments(), 0)
    assert attcat.Explainer(causal.model(), method="cat+graded")(arguments, 1).options["beta"] == 0.75
    assert "beta" not in attcat.Explainer(causal.model(), rule="libra")(arguments, 1).options


def test_a_word_that_is_passed_on_keeps_its_credit() -> None:
    """A model that copies the first word's content to the second token, and predicts from there, is owed to the first word."""
    model = _passing_on()
    ids = torch.tensor([[7, 3, 4]])
    found = attcat.Explainer(model)({"input_ids": ids}, 1)
    assert int(found.scores.abs().argmax()) == 0
    everywhere = attcat.Explainer(model, method="oddscat:blocks=all")({"input_ids": ids}, 1)
    share = [float(each.scores[0].abs() / each.scores.abs().sum()) for each in (found, everywhere)]
    assert share[0] > 0.95 > 0.8 > share[1]


def _passing_on() -> torch.nn.Module:
    """A GPT-2 whose only attention looks at the first token, in its first block; the last token decides."""
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=3, n_head=1, num_labels=2, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        transformer = model.transformer
        table = transformer.wte.weight
        table[:, 0] = 0.1
        table[7, 1], table[7, 2] = 4.0, -4.0
        transformer.wpe.weight[0, 3] = 4.0  # where the text begins
        for block in transformer.h:
            for norm in (block.ln_1, block.ln_2):
                norm.weight.fill_(1.0)
        attention = transformer.h[0].attn
        attention.c_attn.bias[4] = 10.0  # queries ask
        attention.c_attn.weight[3, 8 + 4] = 10.0  # for the beginning
        attention.c_attn.weight[1, 16 + 5] = 1.0  # and take what the word says
        attention.c_proj.weight[5, 5] = 1.0
        transformer.ln_f.weight.fill_(1.0)
        model.score.weight[1, 5] = 1.0
    return model


def test_of_an_encoder_with_a_decoder_only_what_was_written_looks_back() -> None:
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=60, d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40, num_labels=2, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.BartForSequenceClassification(config).eval()
    ids = torch.tensor([[5, 6, 7, 8, 2]])
    found = attcat.Explainer(model)({"input_ids": ids}, 1)
    blocks = found.layers.abs().sum(-1)
    assert (blocks[:4] > 0).all()  # the encoder's, and the decoder's first
    assert not blocks[4:].any()


def test_a_wrong_claim_is_seen_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["bert"]
    model = family.model()
    monkeypatch.setattr(type(attcat.Explainer(model).adapter), "causal", True)
    checks = {check.name: check for check in check_adapter(model, inputs=family.arguments())}
    check = checks["tokens see as far as they are said to"]
    assert check.passed is False
    assert "set causal of the adapter" in str(check)


def test_what_is_written_is_credited_to_words_and_not_to_the_last_token() -> None:
    task = TASKS["GPT2LMHeadModel"]
    explainer = task.explainer(method="oddscat")
    generation = explainer(task.inputs[0], answer=[9, 10, 11])
    by_block = [explanation.layers.abs().sum(-1) for explanation in generation.explanations]
    assert all(bool(blocks[0] > 0) and not blocks[1:].any() for blocks in by_block)


def test_a_decoder_of_half_precision_is_still_seen_to_look_back() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, vocab_size=100, num_labels=2, pad_token_id=0, num_key_value_heads=2)
    model = transformers.LlamaForSequenceClassification(config).eval().to(torch.bfloat16)
    explainer = attcat.Explainer(model)
    explainer({"input_ids": IDS})
    assert explainer.adapter.causal is True
    config = transformers.ElectraConfig(**SIZES, vocab_size=100, num_labels=2, pad_token_id=0, embedding_size=16)
    explainer = attcat.Explainer(transformers.ElectraForSequenceClassification(config).eval().to(torch.bfloat16))
    explainer({"input_ids": IDS})
    assert explainer.adapter.causal is False


def test_of_one_token_nothing_can_be_said() -> None:
    family = FAMILIES["gpt2"]
    adapter = attcat.Explainer(family.model()).adapter
    assert looks_back(adapter, adapter.encode_arguments({"input_ids": IDS[:, :1]})) is None


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertForMaskedLM"])
def test_of_a_word_of_a_vocabulary_the_logit_is_explained(name: str) -> None:
    """Unless another quantity is asked for, in whichever way."""
    task = TASKS[name]
    text, token = task.inputs[0], task.tokens[0]
    usual = task.explainer(method="oddscat")(text, token=token)
    logit = task.explainer(method="oddscat", quantity="logit")(text, token=token)
    torch.testing.assert_close(usual.layers, logit.layers)
    assert "quantity" not in usual.options
    assert usual.value == pytest.approx(float(usual.logits[usual.target]), abs=1e-5)
    for odds in (
        task.explainer(method="oddscat", quantity="log-odds"),
        task.explainer(method="oddscat:quantity=log-odds"),
    ):
        found = odds(text, token=token)
        assert found.options["quantity"] == "log-odds"
        assert not torch.allclose(found.layers, usual.layers)


def test_another_method_explains_its_own_quantity_unless_one_was_asked_for() -> None:
    family = FAMILIES["bert"]
    model, arguments = family.model(), family.row(family.arguments(), 0)
    usual = attcat.Explainer(model)
    assert usual(arguments).options["quantity"] == "log-odds"
    assert "quantity" not in usual.like(method=attcat.METHODS["attcat"])(arguments).options
    asked = attcat.Explainer(model, quantity="probability")
    assert asked.like(method=attcat.METHODS["attcat"])(arguments).options["quantity"] == "probability"
