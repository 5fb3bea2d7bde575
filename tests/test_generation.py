"""Why a language model wrote what it wrote: one pass over prompt and answer, and the same numbers as token by token."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from rich.console import Console
from tasks_zoo import make, redraw
from tokenizers_small import byte_bpe

import attcat
from attcat.render import generation as drawing
from attcat.trace import recording

PROMPT, ANSWER = "the gripping film", " was boring and far"
TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}\n{{ message.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
SMALL: dict[str, Any] = {
    "vocab_size": 340,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
MODERN: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Qwen3": ("Qwen3Config", {"head_dim": 8}),
    "Mistral": ("MistralConfig", {"sliding_window": 4}),
    "Gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "GptOss": (
        "GptOssConfig",
        {"head_dim": 8, "sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}


def modern(name: str, dtype: torch.dtype = torch.float32) -> Any:
    config, options = MODERN[name]
    built = getattr(transformers, config)(**SMALL, **options)
    return redraw(getattr(transformers, f"{name}ForCausalLM")(built)).to(dtype)


def explainer(model: Any = None, **options: Any) -> attcat.Explainer:
    return attcat.Explainer(model or make("GPT2", "LMHeadModel", eos_token_id=338), byte_bpe(False), **options)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def ids_of(generation: attcat.Generation) -> torch.Tensor:
    return torch.tensor([byte_bpe(False).convert_tokens_to_ids(list(generation.tokens.labels))])


def one_by_one(explain: attcat.Explainer, generation: attcat.Generation, row: int) -> attcat.Explanation:
    """The written token as what follows everything before it, in a call of its own."""
    ids, end = ids_of(generation), generation.start + row
    return explain({"input_ids": ids[:, :end]}, target=int(ids[0, end]))


# -- every written token ---------------------------------------------------------------------------------------------

METHODS = (
    "attcat",
    "attcat+plain",
    "attcat+attnlrp",
    "cat",
    "input_x_gradient",
    "rollout",
    "attention",
    "attention_gradients",
    "genatt",
    "tokentm",
    "occlusion",
    "lrp",
    "legrad",
)


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_the_explanation_of_that_token_alone(method: str) -> None:
    explain = explainer(method=method)
    generation = explain(PROMPT, answer=ANSWER)
    assert generation.matrix.shape == (len(generation), len(generation.tokens))
    for row, explanation in enumerate(generation.explanations):
        alone = one_by_one(explain, generation, row)
        assert explanation.tokens.labels == alone.tokens.labels
        assert relative(explanation.layers, alone.layers) < 1e-4
        assert explanation.label == alone.label
        assert explanation.value == pytest.approx(alone.value, rel=1e-4)
        assert explanation.probability == pytest.approx(alone.probability, rel=1e-4)
        length = generation.start + row
        torch.testing.assert_close(generation.matrix[row, :length], explanation.scores)
        assert not generation.matrix[row, length:].any()


@pytest.mark.parametrize("options", [{"queries": "pooled"}, {"hidden": "output"}, {"batch_size": 1}], ids=str)
def test_with_other_settings(options: Any) -> None:
    method = "attcat+plain" if "hidden" in options else "attcat"
    explain = explainer(method=method, **options)
    generation = explain(PROMPT, answer=ANSWER)
    for row in (0, len(generation) - 1):
        assert relative(generation.explanations[row].layers, one_by_one(explain, generation, row).layers) < 1e-4


@pytest.mark.parametrize("name", MODERN)
@pytest.mark.parametrize("method", ["attcat", "genatt"])
def test_modern_models(name: str, method: str) -> None:
    """Grouped keys, sliding windows shorter than the text, attention sinks, experts."""
    explain = explainer(modern(name), method=method)
    generation = explain(PROMPT, answer=ANSWER)
    for row in (0, len(generation) - 1):
        assert relative(generation.explanations[row].layers, one_by_one(explain, generation, row).layers) < 1e-4


class Cosine(torch.nn.Module):
    """An activation that is not 0 at 0, of which libra knows nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cos()


def test_what_fails_the_checks_of_its_first_use_is_refused_here_too() -> None:
    model = modern("Llama")
    for layer in model.model.layers:
        layer.mlp.act_fn = Cosine()
    explain = explainer(model, method="attcat+libra")
    with pytest.raises(attcat.UnsupportedModelError, match="misses"):
        explain.generate(PROMPT, max_new_tokens=2)
    with pytest.raises(attcat.UnsupportedModelError, match="misses"):
        explain(PROMPT, answer=ANSWER)


def test_a_sink_is_told_from_a_key() -> None:
    """One more column is a sink only if it is behind the tokens of a causal matrix."""
    matrix = torch.ones(1, 1, 3, 4).tril()
    matrix[..., 3] = 1
    assert recording._has_sink(matrix, 3)
    assert not recording._has_sink(matrix.roll(1, -1), 3)
    assert not recording._has_sink(torch.ones(1, 1, 3, 4), 3)
    assert not recording._has_sink(torch.ones(1, 1, 3, 5), 3)


def test_a_sinks_share_is_no_tokens() -> None:
    explain = explainer(modern("GptOss"))
    encoding = explain.adapter.encode([PROMPT])
    found = recording.record(explain.adapter, encoding, attcat.RULES["plain"]())
    matrix = found.matrix(0)
    assert matrix.shape[-1] == matrix.shape[-2]
    assert (matrix.sum(-1) < 0.999).all()
    received = found.received_by(torch.ones(1, matrix.shape[-1]) / matrix.shape[-1])[0]
    torch.testing.assert_close(received, matrix.mean((1, 2)))


def test_bfloat16() -> None:
    exact, rough = (
        explainer(modern("Llama", dtype))(PROMPT, answer=ANSWER) for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.matrix.dtype == torch.float32
    assert relative(rough.matrix, exact.matrix) < 0.2
    assert relative(rough.total.scores, exact.total.scores) < 0.2


@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")
def test_low_rank_adapters() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = peft.get_peft_model(modern("Llama"), config).eval()
    explain = explainer(model)
    generation = explain.generate(PROMPT, max_new_tokens=3, do_sample=False)
    assert relative(generation.explanations[1].layers, one_by_one(explain, generation, 1).layers) < 1e-4
    plain = explainer(modern("Llama"))(PROMPT, answer=ids_of(generation)[0, generation.start :])
    assert relative(generation.matrix, plain.matrix) > 1e-2


@pytest.mark.filterwarnings("ignore:Some parameters are on the meta device")
def test_a_model_that_is_spread_over_devices(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    plain = explainer(modern("Llama"))(PROMPT, answer=ANSWER)
    spread = accelerate.cpu_offload(modern("Llama"), execution_device="cpu")
    torch.testing.assert_close(explainer(spread)(PROMPT, answer=ANSWER).matrix, plain.matrix)


def test_complete_under_libra() -> None:
    generation = explainer(method="input_x_gradient+libra", completeness=True)(PROMPT, answer=ANSWER)
    for explanation in generation.explanations:
        assert abs(explanation.completeness) < 1e-4
        assert explanation.bias != 0


def test_gradients_agree_with_finite_differences() -> None:
    """In float64: the scores of `input_x_gradient` are what a relative change of a token's first state does to the logit."""
    model = make("GPT2", "LMHeadModel").double()
    explain = explainer(model, method="input_x_gradient+plain")
    generation = explain(PROMPT, answer=ANSWER)
    ids, step = ids_of(generation), 1e-5
    states = model.transformer.wte(ids) + model.transformer.wpe.weight[None, : ids.shape[1]]
    tracked: list[torch.Tensor] = []

    def logits(changed: torch.Tensor) -> torch.Tensor:
        hook = model.transformer.h[0].register_forward_pre_hook(lambda _, args: (changed, *args[1:]))
        with torch.no_grad():
            found = model(ids).logits
        hook.remove()
        return found

    for row, position in ((0, 1), (2, generation.start + 1)):
        at, token = generation.start + row - 1, int(ids[0, generation.start + row])
        sides = []
        for sign in (1, -1):
            changed = states.detach().clone()
            changed[0, position] *= 1 + sign * step
            sides.append(logits(changed)[0, at, token])
        tracked.append((sides[0] - sides[1]) / (2 * step))
        assert float(generation.matrix[row, position]) == pytest.approx(float(tracked[-1]), rel=1e-4, abs=1e-7)


def test_one_forward_pass_however_long_the_answer() -> None:
    explain = explainer()
    calls: list[Any] = []
    hook = explain.adapter.model.register_forward_hook(lambda *_: calls.append(1))
    generation = explain(PROMPT, answer=ANSWER)
    _ = generation.matrix, generation.total, generation.of("boring")
    hook.remove()
    assert len(calls) == 1


def test_the_projection_sees_the_written_positions_only() -> None:
    explain = explainer()
    shapes: list[Any] = []
    hook = explain.adapter.model.lm_head.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    generation = explain(PROMPT, answer=ANSWER)
    hook.remove()
    assert shapes == [(1, len(generation), 340)]


# -- a part of what was written --------------------------------------------------------------------------------------


def test_a_part_is_the_sum_of_its_log_probabilities() -> None:
    """Against autograd on the plain model."""
    model = make("GPT2", "LMHeadModel")
    generation = explainer(model, method="input_x_gradient+plain")(PROMPT, answer=ANSWER)
    ids, start = ids_of(generation), generation.start
    for part, (first, last) in (("boring", (1, 2)), (slice(0, None), (0, len(generation) - 1)), (0, (0, 0))):
        states = (
            (model.transformer.wte(ids) + model.transformer.wpe.weight[None, : ids.shape[1]]).detach().requires_grad_()
        )
        hook = model.transformer.h[0].register_forward_pre_hook(lambda _, args, s=states: (s, *args[1:]))
        logs = model(ids).logits.log_softmax(-1)
        hook.remove()
        explanation = generation.of(part)
        text = "".join(generation.written).replace("Ġ", " ")
        if part == "boring":  # the tokens that it is made of, wherever they are
            first, last = explanation.position - start + 1, len(explanation.tokens) - start
            assert "".join(generation.written[first : last + 1]).replace("Ġ", " ").strip() == "boring"
        value: Any = sum(logs[0, start + place - 1, ids[0, start + place]] for place in range(first, last + 1))
        (gradient,) = torch.autograd.grad(value, states)
        expected = (gradient * states).sum(-1)[0, : start + last].detach()
        value = value.detach()
        assert relative(explanation.scores, expected) < 1e-4
        assert explanation.value == pytest.approx(float(value), rel=1e-4)
        assert explanation.probability == pytest.approx(float(value.exp()), rel=1e-3)
        assert explanation.label in text
    assert generation.total.value == pytest.approx(generation.of(slice(0, None)).value)
    assert relative(generation.total.scores, generation.of(slice(0, None)).scores) == 0


@pytest.mark.parametrize("quantity", ["logit", "log-probability", "log-odds", "probability"])
def test_the_quantity_that_is_explained_of_a_part(quantity: Any, tmp_path: Path) -> None:
    """Against autograd on the plain model; it is said, and kept in a file."""
    model = make("GPT2", "LMHeadModel")
    generation = explainer(model, method="input_x_gradient+plain", quantity=quantity)(PROMPT, answer=ANSWER)
    ids, start = ids_of(generation), generation.start
    states = (model.transformer.wte(ids) + model.transformer.wpe.weight[None, : ids.shape[1]]).detach().requires_grad_()
    hook = model.transformer.h[0].register_forward_pre_hook(lambda _, args: (states, *args[1:]))
    logs = model(ids).logits.double().log_softmax(-1)
    hook.remove()
    log = logs[0, start - 1 : -1].gather(1, ids[0, start:, None]).sum()
    value = {"log-odds": log - torch.log1p(-log.exp()), "probability": log.exp()}.get(quantity, log)
    (gradient,) = torch.autograd.grad(value, states)
    total = generation.total
    assert total.value == pytest.approx(value.item(), rel=1e-4)
    assert relative(total.scores, (gradient * states).sum(-1)[0, :-1].detach()) < 1e-4
    said = "log-probability" if quantity == "logit" else quantity
    assert total.options["quantity"] == said
    assert attcat.load(total.save(tmp_path / "part.json")).options["quantity"] == said
    contrast = generation.of(slice(0, None), contrast=True)
    assert "quantity" not in contrast.options
    assert contrast.value == pytest.approx(float(contrast.logits[0] - contrast.logits[1]), rel=1e-4)
    one = generation.explanations[0]
    assert one.options.get("quantity", "logit") == quantity


def test_log_odds_of_what_is_almost_certain_are_finite() -> None:
    model = make("GPT2", "LMHeadModel")
    answer = [9, 9]
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.lm_head.weight[9] * 2000 / model.lm_head.weight[9].square().sum())
    total = explainer(model, method="cat", quantity="log-odds")(PROMPT, answer=answer).total
    assert float(total.logits[0]) == 0.0
    assert total.value is not None
    assert 100 < total.value < 10_000


def test_scores_of_a_part_against_the_mean_logit() -> None:
    """Under libra scores and biases are the logits less their mean under the model's own probabilities."""
    generation = explainer(method="input_x_gradient+libra", completeness=True)(PROMPT, answer=ANSWER)
    ids, model = ids_of(generation), make("GPT2", "LMHeadModel")
    logits = model(ids).logits[0, generation.start - 1 : -1].detach()
    own = logits.gather(1, ids[0, generation.start :, None]).squeeze(1)
    expected = float((own - (logits.softmax(-1) * logits).sum(-1)).sum())
    total = generation.total
    assert total.bias is not None
    assert float(total.scores.sum()) + total.bias == pytest.approx(expected, rel=1e-4)


def test_attention_weights_of_a_part() -> None:
    """AttCAT weights a token by the attention it receives from the queries before the part's last token."""
    generation = explainer(method="attcat")(PROMPT, answer=ANSWER)
    cat = explainer(method="cat+libra")(PROMPT, answer=ANSWER)
    last = generation.explanations[-1]
    weights = last.layers / cat.explanations[-1].layers
    torch.testing.assert_close(generation.total.layers, weights * cat.total.layers, rtol=1e-3, atol=1e-6)


def test_targets_at_a_position_and_contrasts() -> None:
    explain = explainer(method="input_x_gradient+libra", completeness=True)
    generation = explain(PROMPT, answer=ANSWER)
    ids, end = ids_of(generation), generation.start
    for target in (" film", (" film", " gripping"), 7):
        alone = explain({"input_ids": ids[:, :end]}, target=target)
        found = generation.of(0, target=target)
        assert found.label == alone.label
        assert relative(found.layers, alone.layers) < 1e-4
    listed = explain(PROMPT, answer=ANSWER, target=[(" film", " gripping"), *[None] * (len(generation) - 1)])
    assert listed.explanations[0].label == generation.of(0, target=(" film", " gripping")).label
    torch.testing.assert_close(listed.matrix[1:], generation.matrix[1:])
    contrast = explain(PROMPT, answer=ANSWER, contrast=True)
    for explanation in contrast.explanations:
        assert explanation.target is not None
        assert explanation.against == next(
            i for i in explanation.logits.argsort(descending=True) if i != explanation.target
        )
        assert abs(explanation.completeness) < 1e-4
    whole = generation.of(slice(0, None), contrast=True)
    assert whole.value == pytest.approx(sum(explanation.value or 0 for explanation in contrast.explanations), rel=1e-4)
    expected = sum(row for row in contrast.matrix)[: len(whole.tokens)]
    assert relative(whole.scores, expected) < 1e-4
    with pytest.raises(attcat.TargetError, match="one token"):
        generation.of(slice(0, None), target=" film")
    with pytest.raises(attcat.TargetError, match="leave out target"):
        explain(PROMPT, answer=ANSWER, target=" film", contrast=True)
    with pytest.raises(attcat.TargetError, match="2 targets"):
        explain(PROMPT, answer=ANSWER, target=[None, None])


def test_a_part_that_does_not_exist() -> None:
    generation = explainer()(PROMPT, answer=" was boring, was far")
    with pytest.raises(attcat.InputError, match=re.escape("slice(1, 4)")):
        generation.of("was")
    with pytest.raises(attcat.InputError, match="occurs 0 times"):
        generation.of("gripping")
    with pytest.raises(attcat.InputError, match="counted from 0"):
        generation.of(99)
    with pytest.raises(attcat.InputError, match="nothing was written"):
        generation.of(slice(99, 100))
    with pytest.raises(attcat.OptionError, match="single tokens"):
        _ = explainer(method="occlusion")(PROMPT, answer=ANSWER).total
    assert generation.of(slice(1, 4)).label.strip() == "was"


# -- prompts and answers ---------------------------------------------------------------------------------------------


def test_generated_text_is_explained_as_if_it_had_been_given() -> None:
    explain = explainer()
    generation = explain.generate(PROMPT, max_new_tokens=6, do_sample=False)
    ids = explain.adapter.processor(PROMPT, return_tensors="pt")
    plain = explain.adapter.model.generate(**ids, max_new_tokens=6, do_sample=False)
    assert ids_of(generation).tolist() == plain.tolist()
    given = explain(PROMPT, answer=plain[0, generation.start :])
    torch.testing.assert_close(given.matrix, generation.matrix)
    assert given.text == generation.text
    assert generation.text == explain.adapter.processor.decode(plain[0, generation.start :])


def test_sampling_draws_from_the_users_generator() -> None:
    explain = explainer()
    explain.adapter.model.train()
    torch.manual_seed(3)
    first, second = (explain.generate(PROMPT, max_new_tokens=5, do_sample=True).written for _ in range(2))
    torch.manual_seed(3)
    assert explain.generate(PROMPT, max_new_tokens=5, do_sample=True).written == first != second
    assert explain.adapter.model.training
    explain.adapter.model.eval()


def test_bytes_of_one_character_have_its_place() -> None:
    """An emoji is several tokens: each stands for all of it, and what follows has its own characters."""
    explain = explainer()
    tokenizer = explain.adapter.processor
    answer = tokenizer(" a 🎬 film")["input_ids"]
    generation = explain(PROMPT, answer=[*answer, 338])
    assert generation.text == " a 🎬 film"
    assert generation.prompt is not None
    assert generation.tokens.spans is not None
    text = generation.prompt + generation.text
    pieces = {text[slice(*span)].strip() for span in generation.tokens.spans[generation.start :] if span}
    assert {"a", "🎬"} <= pieces
    assert not any("🎬" in piece and piece != "🎬" for piece in pieces)
    assert len(generation.of("🎬").tokens) > len(generation.of("a").tokens) + 1
    assert generation.explanations[-2].words()[-1].text in ("film", "fil", "f", "🎬")


def test_tokens_that_no_tokenizer_would_choose() -> None:
    """A model may write `f`, `ilm` where the tokenizer says `film`: its own tokens are explained."""
    explain = explainer()
    tokenizer = explain.adapter.processor
    answer = [tokenizer.convert_tokens_to_ids(piece) for piece in ("Ġ", "f", "i", "l", "m", "!")]
    generation = explain(PROMPT, answer=answer)
    assert generation.text == " film!"
    assert generation.written == ("Ġ", "f", "i", "l", "m", "!")
    assert generation.tokens.spans is not None
    start = len(PROMPT)
    assert generation.tokens.spans[generation.start :] == tuple((start + i, start + i + 1) for i in range(6))
    assert [word.text for word in generation.explanations[-1].words()][-1] == "film"


def test_an_answer_that_does_not_begin_with_a_token() -> None:
    """`grip` + `ping` is one word to the tokenizer: then both are tokenized apart."""
    explain = explainer()
    generation = explain("the grip", answer="ping film")
    assert generation.text == "ping film"
    assert "".join(generation.written).replace("Ġ", " ") == "ping film"
    assert "".join(generation.tokens.labels[: generation.start]).replace("Ġ", " ") == "the grip"


def test_special_tokens_at_the_end_of_a_prompt_are_left_out() -> None:
    tokenizer = byte_bpe(True)
    explain = attcat.Explainer(make("GPT2", "LMHeadModel"), tokenizer)
    generation = explain(PROMPT, answer=ANSWER)
    assert generation.tokens.labels[0] == "<s>"
    assert "</s>" not in generation.tokens.labels
    assert generation.text == ANSWER


def chat_explainer() -> attcat.Explainer:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe(True).backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    return attcat.Explainer(make("GPT2", "LMHeadModel"), tokenizer)


def test_a_chat_goes_through_the_template_whose_tokens_are_special() -> None:
    explain = chat_explainer()
    chat = [{"role": "user", "content": " the film user "}, {"role": "assistant", "content": "boring"}]
    generation = explain([*chat, {"role": "user", "content": "a film?"}], answer="far")
    assert (
        generation.prompt
        == "<s>user\nthe film user</s>\n<s>assistant\nboring</s>\n<s>user\na film?</s>\n<s>assistant\n"
    )
    explanation = generation.explanations[0]
    text = "".join(generation.prompt[slice(*span)] for span in explanation.tokens.spans or () if span is not None)
    assert text.replace(" ", "") == "thefilmuserboringafilm?"
    assert explanation.special.sum() > 6
    assert explanation.tokens.labels.count("<s>") == 4  # no second one in front
    assert generation.text == "far"
    assert explain.generate(chat[:1], max_new_tokens=2).prompt == "<s>user\nthe film user</s>\n<s>assistant\n"


def test_chats_that_cannot_be_read() -> None:
    explain = chat_explainer()
    with pytest.raises(attcat.InputError, match="text as its content"):
        explain([{"role": "user", "content": [{"type": "image"}]}], answer="far")
    explain.adapter.processor.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(attcat.InputError, match="changes the messages"):
        explain([{"role": "user", "content": "film"}], answer="far")
    with pytest.raises(attcat.ProcessorError, match="no chat_template"):
        explainer()([{"role": "user", "content": "film"}], answer="far")


def test_several_prompts() -> None:
    explain = explainer()
    first, second = explain([PROMPT, "a film"], answer=[ANSWER, " was far"])
    torch.testing.assert_close(first.matrix, explain(PROMPT, answer=ANSWER).matrix)
    assert second.text == " was far"
    with pytest.raises(attcat.InputError, match="2 prompts"):
        explain([PROMPT, "a film"], answer=ANSWER)


def test_model_arguments_and_no_tokenizer() -> None:
    explain = attcat.Explainer(make("GPT2", "LMHeadModel"), None)
    ids = byte_bpe(False)(PROMPT + ANSWER)["input_ids"]
    generation = explain({"input_ids": torch.tensor([ids[:5]])}, answer=ids[5:])
    assert generation.written == tuple(f"#{number}" for number in ids[5:])
    assert generation.of(1).label == f"#{ids[6]}"
    with pytest.raises(attcat.InputError, match="characters a token has is not known"):
        generation.of(slice(0, 4))
    assert "#" in generation.to_html()
    with pytest.raises(attcat.ProcessorError, match="needs a tokenizer"):
        explain({"input_ids": torch.tensor([ids[:5]])}, answer="film")


def test_what_cannot_be_explained() -> None:
    explain = explainer()
    with pytest.raises(attcat.UnsupportedModelError, match="does not write text"):
        attcat.Explainer(make("Bert", "ForSequenceClassification"), None)(PROMPT, answer=ANSWER)
    with pytest.raises(attcat.UnsupportedModelError, match="does not write text"):
        attcat.Explainer(make("Bert", "ForMaskedLM"), None)(PROMPT, answer=ANSWER)
    for prompt, answer, told in (
        ("", " film", "an empty text"),
        (3, " film", "not int"),
        (PROMPT, "", "empty"),
        (PROMPT, [], "no tokens"),
        (PROMPT, "film " * 40, "at most"),
    ):
        with pytest.raises(attcat.InputError, match=told):
            explain(prompt, answer=answer)
    with pytest.raises(attcat.InputError, match="leave out token=, window="):
        explain(PROMPT, answer=ANSWER, token="film", window=True)
    with pytest.raises(attcat.InputError, match="give answer="):
        explain(PROMPT, contrast=True)
    with pytest.raises(attcat.OptionError, match="2 sequences"):
        explain.generate(PROMPT, max_new_tokens=2, num_return_sequences=2, do_sample=True)


# -- files and pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_file_keeps_the_numbers(tmp_path: Path, suffix: str) -> None:
    generation = explainer()(PROMPT, answer=ANSWER)
    path = generation.save(tmp_path / f"a{suffix}")
    again = attcat.Generation.load(path)
    torch.testing.assert_close(again.matrix, generation.matrix)
    assert (again.text, again.tokens, again.start) == (generation.text, generation.tokens, generation.start)
    assert again.to_html() == generation.to_html()
    with pytest.raises(attcat.InputError, match="holds no model"):
        again.of("boring")
    with pytest.raises(attcat.InputError, match="is not an explanation"):
        attcat.load(path)
    with pytest.raises(attcat.InputError, match="is not a generation"):
        attcat.Generation.load(generation.explanations[0].save(tmp_path / f"b{suffix}"))
    with pytest.raises(attcat.InputError, match=r"only \.json and"):
        attcat.Generation.load(tmp_path / "a.txt")


def test_a_page_holds_the_numbers_and_nothing_foreign() -> None:
    generation = explainer()("the <b>film</b> & </script>", answer=" was <i>far</i>")
    page = generation.to_html()
    assert page.count("</script>") == 1
    assert "<b>film" not in page
    assert "<i>far" not in page
    assert "://" not in page
    sheet = drawing.Sheet(
        generation.explanations, generation.tokens, generation.start, (generation.prompt or "") + generation.text
    )
    units = sheet.units()
    rows = [unit for unit in units if unit.positions[0] >= generation.start]
    scores = sheet.scores(units, rows)
    assert scores.sum() == pytest.approx(float(generation.matrix.sum()), rel=1e-4)
    assert page.count('tabindex="0"') == len(rows)
    told = re.findall(r'tabindex="0" title="[^"]*" data-s="([^"]*)"', page)
    for shares, row in zip(told, scores, strict=True):
        assert (
            torch.tensor([int(share) for share in shares.split()]).sub(100 * row / row.abs().max()).abs().max() <= 0.5
        )
    whole = "".join(unit.text for unit in units if unit.start is not None)
    assert "far" in whole


def test_the_whole_answer_is_the_mean_over_its_words_without_its_end() -> None:
    generation = explainer()(PROMPT, answer=ANSWER)
    tokens = generation.tokens
    assert tokens.spans is not None
    ended = replace(tokens, special=(*tokens.special[:-1], True), spans=(*tokens.spans[:-1], None))
    source = (generation.prompt or "") + generation.text
    sheet = drawing.Sheet(generation.explanations, ended, generation.start, source)
    units = sheet.units()
    rows = [unit for unit in units if unit.positions[0] >= generation.start]
    assert [row.special for row in rows] == [False] * (len(rows) - 1) + [True]
    signed = sheet.strengths(units, sheet.scores(units, rows), {})[0]
    mean = sheet.strengths(units, signed[:-1].mean(0, keepdim=True), {})[0][0].tolist()
    page = drawing.page(generation.explanations, ended, generation.start, source)
    told = re.search(r'class="label what" data-s="([^"]*)"', page)
    assert told is not None
    assert told[1] == " ".join(str(round(100 * value)) for value in mean)


def test_special_tokens_set_no_scale() -> None:
    """The first token often has more than all words together: it is not named, and does not pale them."""
    explain = attcat.Explainer(make("GPT2", "LMHeadModel"), byte_bpe(True))
    generation = explain(PROMPT, answer=ANSWER)
    sheet = drawing.Sheet(*generation._drawn)
    units = sheet.units()
    rows = [unit for unit in units if unit.positions[0] >= generation.start]
    scores = sheet.scores(units, rows)
    scores[:, 0] = 1000.0
    signed = sheet.shares(units, scores)
    assert units[0].special
    torch.testing.assert_close(signed[:, 0], torch.ones(len(rows)))
    torch.testing.assert_close(signed[:, 1:].abs().amax(1), torch.ones(len(rows)))
    stream = io.StringIO()
    drawing.show(*generation._drawn, console=Console(file=stream, width=200))
    assert "<s>" not in stream.getvalue()
    assert "fell on special tokens" in stream.getvalue()


def test_in_the_terminal_and_as_a_picture(tmp_path: Path) -> None:
    generation = explainer()(PROMPT, answer=ANSWER)
    stream = io.StringIO()
    drawing.show(*generation._drawn, console=Console(file=stream, width=200))
    lines = stream.getvalue().splitlines()
    assert lines[0] == PROMPT + ANSWER
    boring = next(line for line in lines if line.startswith("boring"))
    assert "film" in boring
    assert "+" in boring
    with Image.open(generation.save(tmp_path / "a.png")) as picture:
        assert (0, 0, 0) not in {
            colour for _, colour in picture.convert("RGB").getcolors(1 << 20)
        }  # no part is unpainted
        assert picture.width > 480
    with pytest.raises(attcat.InputError, match="do not fit"):
        drawing.figure(*_long())


def _long() -> Any:
    tokens = attcat.Tokens(tuple("a" * 100), (False,) * 100)
    explanation = attcat.Explanation(
        torch.ones(1, 99), tokens.kept([at < 99 for at in range(100)]), torch.ones(1), 0, ("a",), "attcat"
    )
    return [explanation], tokens, 99, None
