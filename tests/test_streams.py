"""Encoders with a decoder: classifiers whose decoder reads the text again, and models that write after a source."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tasks_zoo import redraw, tokenizer
from torch import Tensor, nn

import attcat
from attcat.capture.streams import Streams
from attcat.testing import check_adapter
from attcat.trace.streams import Cuts

SMALL = {
    "vocab_size": 340,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
"""Of an encoder and a decoder in BART's names."""
_BART = {
    **SMALL,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_T5 = {
    "vocab_size": 340,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
# Every second layer has experts, of which each token takes one or two.
_SWITCH = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_decoder_layers": 2, "num_experts": 4}
_NLLB = {"num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2}
_FSMT = {"langs": ["en", "de"], "src_vocab_size": 340, "tgt_vocab_size": 340}
_PEGASUS = {**_BART, "decoder_start_token_id": 0}
WRITERS = {
    "bart": lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**_BART)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)),
    "marian": lambda: transformers.MarianMTModel(transformers.MarianConfig(**_PEGASUS)),
    "pegasus": lambda: transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(**_PEGASUS)),
    "mbart": lambda: transformers.MBartForConditionalGeneration(transformers.MBartConfig(**_BART)),
    "switch": lambda: transformers.SwitchTransformersForConditionalGeneration(
        transformers.SwitchTransformersConfig(**_T5, **_SWITCH)
    ),
    "fsmt": lambda: transformers.FSMTForConditionalGeneration(transformers.FSMTConfig(**_BART, **_FSMT)),
    "nllb-moe": lambda: transformers.NllbMoeForConditionalGeneration(transformers.NllbMoeConfig(**_BART, **_NLLB)),
}
CLASSIFIERS = {
    "bart": lambda: transformers.BartForSequenceClassification(transformers.BartConfig(**_BART, num_labels=3)),
    "t5": lambda: transformers.T5ForSequenceClassification(transformers.T5Config(**_T5, num_labels=3)),
}
SOURCE, ANSWER = "a gripping film", "boring film"


def made(make: Any) -> nn.Module:
    return redraw(make())


def block_inputs(model: nn.Module, arguments: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """By plain autograd: the output, and what the first block of the encoder and of the decoder takes."""
    core = model.get_decoder(), model.get_encoder()
    decoder, encoder = ((part.layers if hasattr(part, "layers") else part.block) for part in core)
    taken: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        state.retain_grad()
        taken.append(state)

    hooks = [blocks[0].register_forward_pre_hook(enter, with_kwargs=True) for blocks in (encoder, decoder)]
    logits = model(**arguments, use_cache=False).logits  # with a cache FSMT's decoder sees what comes later
    for hook in hooks:
        hook.remove()
    return logits, taken


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_whose_decoder_reads_the_text_again(name: str) -> None:
    model = made(CLASSIFIERS[name])
    assert [str(check) for check in check_adapter(model) if check.passed is False] == []
    ids = torch.arange(5, 14)[None]
    ids[0, -1] = model.config.eos_token_id
    explain = attcat.Explainer(model, method="input_x_gradient", rule="plain")
    found = explain({"input_ids": ids}, 1)
    logits, taken = block_inputs(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    logits[0, 1].backward()
    source, target = ((state * state.grad).sum(-1)[0].detach() for state in taken)
    # The decoder reads the text moved by one: its position p + 1 is the source's p, its start stands for the last token.
    expected = source + torch.cat([target[1:], target[:1]])
    torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_comes_from_the_source_and_from_what_was_written(name: str) -> None:
    model, words = made(WRITERS[name]), tokenizer("Bert")
    explain = attcat.Explainer(model, words, method="input_x_gradient", rule="plain")
    generation = explain(SOURCE, answer=ANSWER)
    source = words(SOURCE, return_tensors="pt").input_ids
    width = source.shape[1]
    answer = words(ANSWER, add_special_tokens=False).input_ids
    begun = [model.config.decoder_start_token_id, words.cls_token_id]  # as the tokenizer begins every text
    assert generation.start == width + len(begun)
    assert generation.matrix.shape == (len(answer), width + len(begun) + len(answer))
    read = torch.tensor([[*begun, *answer[:-1]]])
    for number, token in enumerate(answer):
        arguments = {
            "input_ids": source,
            "attention_mask": torch.ones_like(source),
            "decoder_input_ids": read[:, : number + len(begun)],
        }
        logits, taken = block_inputs(model, arguments)
        logits[0, -1, token].backward()
        # FSMT's states are [T, 1, D].
        from_source, from_written = ((state * state.grad).sum(-1).flatten().detach() for state in taken)
        expected = torch.cat([from_source, from_written])
        scores = generation.explanations[number].scores
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-3)
        assert generation.explanations[number].value == pytest.approx(logits[0, -1, token].item(), rel=1e-4)


@pytest.mark.parametrize("name", ["bart", "t5", "fsmt", "switch", "nllb-moe"])
def test_at_one_cut_the_scores_and_biases_add_up(name: str) -> None:
    explain = attcat.Explainer(
        made(WRITERS[name]), tokenizer("Bert"), method="input_x_gradient", rule="libra", completeness=True
    )
    for one in explain(SOURCE, answer=ANSWER).explanations:
        assert one.value is not None
        assert abs(one.completeness) < 1e-3 * max(1.0, abs(one.value))


def test_a_model_writes_and_every_word_is_explained() -> None:
    model, words = made(WRITERS["bart"]), tokenizer("Bert")
    explain = attcat.Explainer(model, words)
    generation = explain.generate(SOURCE, max_new_tokens=4)
    written = model.generate(words(SOURCE, return_tensors="pt").input_ids, max_new_tokens=4)[0, 1:]
    assert len(generation) == len(written)
    assert generation.matrix.shape[0] == len(written)
    assert bool((generation.total.scores.abs() > 0).any())


def test_received_attention_is_that_of_both_kinds() -> None:
    """A head that attends evenly gives every token of the source the same; the weights of AttCAT are those attentions."""
    model = made(WRITERS["bart"])
    for name, parameter in model.named_parameters():
        if "q_proj" in name:
            nn.init.zeros_(parameter)  # even attention everywhere
    words = tokenizer("Bert")
    plain = attcat.Explainer(model, words, method="cat", rule="plain")(SOURCE, answer=ANSWER).explanations[-1]
    weighed = attcat.Explainer(model, words, method="attcat", rule="plain")(SOURCE, answer=ANSWER).explanations[-1]
    width = len(words(SOURCE).input_ids)
    own = plain.layers[:2, :width] / width  # in the encoder each of T tokens receives 1 / T
    torch.testing.assert_close(weighed.layers[:2, :width], own, atol=1e-6, rtol=1e-4)


def test_states_over_both_sequences_are_taken_apart_as_they_were_put_together() -> None:
    """Where a token has a state in each, one place later in the decoder, beside padding: by the real tokens of each row."""
    cuts = Cuts(Streams(1, (1,), (0,), (1,), shift=1), (), 4, True)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    source, target = torch.rand(2, 4, 3), torch.rand(2, 4, 2)
    states = cuts._together(source, target, mask)
    assert torch.equal(states[..., :3], source)
    assert torch.equal(states[0, :, 3:], target[0, [1, 2, 3, 0]])
    assert torch.equal(states[1, :, 3:], target[1, [1, 0, 2, 3]])
    apart = cuts.split(states, mask, (3, 2))
    assert torch.equal(apart[0], source)
    assert torch.equal(apart[1], target)
