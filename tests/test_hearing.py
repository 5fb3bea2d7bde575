"""Models that hear and write: which moments of a sound, and which words before, a written word came from."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tasks_zoo import redraw, tokenizer
from test_streams import SMALL, block_inputs
from torch import nn

import attcat
from attcat.model.listening import begun
from attcat.testing import check_adapter

_SMALL = {**SMALL, "max_target_positions": 32}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
_WHISPER = {"num_mel_bins": 20, "max_source_positions": 50, "suppress_tokens": None, "begin_suppress_tokens": None}
_MOONSHINE = {
    "vocab_size": 340,
    "hidden_size": 32,
    "intermediate_size": 48,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
}
_SPEECH = {"input_feat_per_channel": 20, "input_channels": 1, "conv_channels": 32, "max_source_positions": 200}
_SMALL_DECODER = {
    "vocab_size": 340,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "is_decoder": True,
    "add_cross_attention": True,
}
RATE, ANSWER = 16_000, "boring film"


def whisper() -> tuple[nn.Module, Any]:
    config = transformers.WhisperConfig(**_SMALL, **_IDS, **_WHISPER)
    extractor = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    return redraw(transformers.WhisperForConditionalGeneration(config)), extractor


def moonshine() -> tuple[nn.Module, Any]:
    config = transformers.MoonshineConfig(**_MOONSHINE, **_IDS)
    return redraw(transformers.MoonshineForConditionalGeneration(config)), transformers.Wav2Vec2FeatureExtractor()


def speech() -> tuple[nn.Module, Any]:
    config = transformers.Speech2TextConfig(**_SMALL, **_IDS, **_SPEECH)
    extractor = transformers.Speech2TextFeatureExtractor(feature_size=20, num_mel_bins=20)
    return redraw(transformers.Speech2TextForConditionalGeneration(config)), extractor


MAKE = {"whisper": whisper, "moonshine": moonshine, "speech to text": speech}


@cache
def made(name: str) -> tuple[nn.Module, Any]:
    """The model, and a processor of the kind that transformers has: a feature extractor and a tokenizer."""
    model, extractor = MAKE[name]()
    return model, SimpleNamespace(feature_extractor=extractor, tokenizer=tokenizer("Bert"))


@cache
def found(name: str) -> attcat.Explainer:
    return attcat.Explainer(*made(name))


def explainer(name: str, method: str = "input_x_gradient", rule: str = "libra") -> attcat.Explainer:
    return found(name).like(method=method, rule=rule, completeness=rule == "libra")


def sound(seconds: float = 0.8) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32) / 10
    return samples, RATE


@pytest.mark.parametrize("name", MAKE)
def test_every_promise_is_kept(name: str) -> None:
    assert [str(check) for check in check_adapter(*made(name)) if check.passed is False] == []


@pytest.mark.parametrize("name", MAKE)
def test_what_is_written_comes_from_the_sound_and_from_what_was_written(name: str) -> None:
    """Of every written token gradient times state equals plain autograd in a pass of its own over what came before."""
    model, processor = made(name)
    explain = explainer(name, rule="plain")
    generation = explain(sound(), answer=ANSWER)
    given = explain.adapter.encode_source(sound()).arguments
    begun = [3, processor.tokenizer.cls_token_id]
    answer = processor.tokenizer(ANSWER, add_special_tokens=False).input_ids
    assert generation.text == ANSWER
    for number, token in enumerate(answer):
        read = torch.tensor([[*begun, *answer[:number]]])
        logits, taken = block_inputs(model, {**given, "decoder_input_ids": read})
        logits[0, -1, token].backward()
        expected = torch.cat([(state * state.grad).sum(-1)[0].detach() for state in taken])
        found = generation.explanations[number]
        torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=1e-3)
        assert found.value == pytest.approx(logits[0, -1, token].item(), rel=1e-3, abs=1e-5)
        assert found.start == generation.start
        heard = [at for at, time in enumerate(found.tokens.times) if time is not None]
        assert sum(segment.score for segment in found.segments()) == pytest.approx(
            float(expected[heard].sum()), abs=1e-4
        )


@pytest.mark.parametrize("name", MAKE)
def test_complete_under_libra(name: str) -> None:
    for one in explainer(name)(sound(), answer=ANSWER).explanations:
        assert abs(one.completeness) < 1e-4 * max(1.0, abs(one.value))


def silent() -> attcat.Explainer:
    """Whisper without biases and positions: silence is 0 in its first block, so that it can owe nothing to silence."""
    model, processor = whisper()[0], made("whisper")[1]
    encoder = model.model.encoder
    with torch.no_grad():
        for part in (encoder.conv1.bias, encoder.conv2.bias, encoder.embed_positions.weight):
            part.zero_()
    return attcat.Explainer(model, processor, method="input_x_gradient", rule="plain")


@pytest.mark.parametrize("first", [20, 60])
def test_a_word_comes_from_the_only_moment_that_is_not_silent(first: int) -> None:
    features = torch.zeros(1, 20, 100)
    features[..., first : first + 10] = torch.randn(20, 10, generator=torch.Generator().manual_seed(1))
    explanations = silent()({"input_features": features}, answer=ANSWER).explanations
    for one in explanations:
        scored = [(s.start, s.end) for s in one.segments() if s.score]
        assert scored
        assert first / 100 - 0.05 < min(scored)[0]
        assert max(scored)[1] < first / 100 + 0.15  # each moment sees a little of its neighbours


@pytest.mark.parametrize("name", MAKE)
def test_a_model_writes_what_it_hears(name: str) -> None:
    model, _ = made(name)
    explain = explainer(name)
    generation = explain.generate(sound(), max_new_tokens=4)
    arguments = explain.adapter.encode_source(sound()).arguments
    written = model.generate(**arguments, max_new_tokens=4)[0]
    written = written[1:] if written[0] == 3 else written
    assert len(generation) == len(written)
    again = explain(sound(), answer=written.tolist())
    torch.testing.assert_close(generation.matrix, again.matrix)
    assert [float(one.logits[one.target]) for one in again.explanations] == pytest.approx(
        [float(one.logits.max()) for one in generation.explanations]
    )


def test_one_written_token_without_an_answer() -> None:
    explanation = explainer("whisper")(sound())
    assert explanation.tokens.times is not None
    assert explanation.segments()


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_file_keeps_the_sound(tmp_path: Path, suffix: str) -> None:
    generation = explainer("moonshine", "attcat")(sound(), answer=ANSWER)
    again = attcat.Generation.load(generation.save(tmp_path / f"words{suffix}"))
    torch.testing.assert_close(again.matrix, generation.matrix)
    assert again.explanations[-1].segments() == generation.explanations[-1].segments()
    assert again.explanations[-1].source == generation.explanations[-1].source
    alone = attcat.load(generation.of("film").save(tmp_path / f"film{suffix}"))
    assert alone.segments() == generation.of("film").segments()


def test_stretches_of_the_sound_are_named_where_it_is_drawn(tmp_path: Path, capsys: Any) -> None:
    generation = explainer("moonshine", "attcat")(sound(), answer=ANSWER)
    page = generation.to_html()
    first, second, *_ = generation.explanations[-1].segments()
    assert f"{first.start:.2f} to {second.end:.2f} s" in page  # more than 24 moments: two of them are a stretch
    assert page.count('class="unit written') == 2  # boring, film
    generation.save(tmp_path / "words.png")
    generation.show()
    assert " s " in capsys.readouterr().out


def test_moments_that_are_mixed_before_the_first_block() -> None:
    """Wav2Vec2's positional convolution stands between the waveform and the blocks, and is a block itself."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    stem = {"conv_dim": (16, 16), "conv_stride": (20, 16), "conv_kernel": (20, 16), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    encoder = transformers.Wav2Vec2Config(**small, **stem, **positions)
    decoder = transformers.BartConfig(**_SMALL_DECODER | {"d_model": 24})  # narrower than the encoder
    config = transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **_IDS)
    model = redraw(transformers.SpeechEncoderDecoderModel(config=config))
    processor = SimpleNamespace(feature_extractor=transformers.Wav2Vec2FeatureExtractor(), tokenizer=tokenizer("Bert"))
    explain = attcat.Explainer(model, processor, method="input_x_gradient", rule="libra", completeness=True)
    for one in explain(sound(), answer=ANSWER).explanations:
        assert one.completeness == pytest.approx(0, abs=1e-4)
    given, taken = {"input_values": torch.randn(1, 8000) / 10}, []
    hook = model.encoder.feature_projection.register_forward_hook(lambda m, a, output: taken.append(output[0]))
    logits = model(**given, decoder_input_ids=torch.tensor([[3, 40]])).logits
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, -1, 41], taken)
    plain = attcat.Explainer(model, processor, method="input_x_gradient", rule="plain")
    found = plain(given, answer=[40, 41]).explanations[1]
    torch.testing.assert_close(found.scores[:-2], (gradient * taken[0]).sum(-1)[0].detach(), atol=1e-6, rtol=1e-3)


def test_positions_that_an_encoder_is_given_are_no_memory() -> None:
    """SpeechT5 hands relative positions to every block of its encoder, as its decoder's blocks are handed the memory."""
    shape = {"hidden_size": 32, "max_speech_positions": 200, "max_text_positions": 64, "vocab_size": 340}
    shape |= {f"{part}_layers": 2 for part in ("encoder", "decoder")}
    shape |= {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
    shape |= {f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")}
    stem = {"conv_dim": (16, 16), "conv_stride": (20, 16), "conv_kernel": (20, 16)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    config = transformers.SpeechT5Config(**shape, **stem, **positions, **_IDS)
    model = redraw(transformers.SpeechT5ForSpeechToText(config))
    processor = SimpleNamespace(feature_extractor=transformers.SpeechT5FeatureExtractor(), tokenizer=tokenizer("Bert"))
    explain = attcat.Explainer(model, processor, method="input_x_gradient", rule="libra", completeness=True)
    generation = explain(sound(), answer=ANSWER)
    assert len(generation.of("film").segments()) == 40  # of 0.8 s, each of 320 samples
    for one in generation.explanations:
        assert one.completeness == pytest.approx(0, abs=1e-4)


def test_bfloat16() -> None:
    model, processor = whisper()[0].to(torch.bfloat16), made("whisper")[1]
    half = attcat.Explainer(model, processor, method="cat")(sound(), answer=ANSWER).total
    whole = found("whisper").like(method="cat")(sound(), answer=ANSWER).total
    assert half.scores.dtype == torch.float32
    assert float(torch.corrcoef(torch.stack([half.scores, whole.scores]))[0, 1]) > 0.95


def test_a_part_and_a_target() -> None:
    generation = explainer("speech to text", "attcat")(sound(), answer=ANSWER)
    assert generation.of("boring").label == "bor##ing"
    assert generation.total.segments()
    assert generation.of(0, target=(5, 9)).against is not None


def test_what_the_decoder_was_given_before() -> None:
    ask, begin = [3], [3, 50, 60]  # which language is it?
    assert begun([ask, begin, [7], [8]], [7, 8, 9], 3) == begin
    assert begun([begin], [7], 3) == begin
    assert begun([ask, begin, [*begin, 7], [*begin, 7, 8]], [7, 8, 9], 3) == begin
    assert begun([ask, [7], [8]], [3, 7, 8, 9], 3) == []


def test_tokens_that_the_decoder_began_with_and_generate_leaves_out() -> None:
    begin = [3, 4, 2]  # of a real one its language and its task
    explain = explainer("whisper")
    generation = explain.generate(sound(), max_new_tokens=6, decoder_input_ids=torch.tensor([begin]))
    source = explain.adapter.encode_source(sound()).mask.shape[1]
    names = explain.adapter.processor.convert_ids_to_tokens(begin)
    assert list(generation.tokens.labels[source : source + 3]) == names
    assert generation.start >= source + 3
    assert [float(one.logits[one.target]) for one in generation.explanations] == pytest.approx(
        [float(one.logits.max()) for one in generation.explanations]
    )


def test_inputs_that_are_no_sound() -> None:
    with pytest.raises(attcat.InputError, match="no such file"):
        explainer("whisper")("a film", answer=ANSWER)
    with pytest.raises(attcat.InputError, match="too short or too long"):
        explainer("whisper")({"input_features": torch.zeros(1, 20, 140)}, answer=ANSWER)
    with pytest.raises(attcat.InputError, match="answer is empty"):
        explainer("whisper")(sound(), answer=" ")
    with pytest.raises(attcat.TooLongError, match="at most 32"):
        explainer("whisper")(sound(), answer="film " * 40)
