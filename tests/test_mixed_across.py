"""Words that read a picture by cross-attention in some of their blocks, and go on from it: Mllama."""

from __future__ import annotations

from functools import cache, wraps
from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import CHAT, PICTURE, PLACED, QUESTION, paint_corners
from torch import Tensor, nn

import attcat
from attcat.capture.rules import make_rule
from attcat.testing import check_adapter
from attcat.trace import record

ANSWER = [40, 41, 42]
WHOLE = "<|image|>"


@cache
def made() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, processor = zoo.mllama()
    return redraw(model.eval()), processor


def explainer(method: str = "cat", **options: Any) -> attcat.Explainer:
    return attcat.Explainer(*made(), method=method, **options)


def real_arguments(picture: np.ndarray = PICTURE) -> dict[str, Tensor]:
    """What the processor itself makes, without the library."""
    return dict(made()[1](text=[WHOLE + QUESTION], images=[picture], return_tensors="pt"))


def plain_pass(arguments: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """By hooks of our own: what the projector makes of the picture, what each block takes, and the logits."""
    model = made()[0]
    read: list[Tensor] = []
    taken: list[Tensor] = []
    language = model.get_submodule("model.language_model.layers")
    hooks = [
        model.get_submodule("model.multi_modal_projector").register_forward_hook(lambda m, a, out: read.append(out))
    ]
    hooks += [block.register_forward_pre_hook(lambda m, args: taken.append(args[0])) for block in language]
    logits = model(**arguments, use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return (read or [torch.empty(0)])[0], taken, logits


def longer(arguments: dict[str, Tensor], answer: list[int]) -> dict[str, Tensor]:
    """With an answer behind the prompt, whose tokens see what the prompt's last one sees."""
    ids = torch.cat([arguments["input_ids"], torch.tensor([answer], dtype=torch.long)], 1)
    mask = arguments["cross_attention_mask"]
    mask = torch.cat([mask, mask[:, -1:].expand(-1, len(answer), -1, -1)], 1)
    return {**arguments, "input_ids": ids, "attention_mask": torch.ones_like(ids), "cross_attention_mask": mask}


@pytest.mark.parametrize("with_processor", [True, False])
def test_it_keeps_what_adapters_promise(with_processor: bool) -> None:
    model, processor = made()
    checks = check_adapter(model, processor if with_processor else None)
    assert [str(check) for check in checks if check.passed is False] == []
    (placed,) = [check for check in checks if check.name == PLACED]
    assert placed.passed is (True if with_processor else None)


def test_the_scores_of_an_answer_are_those_of_a_plain_pass() -> None:
    """Gradient times input of what is read of the picture, then of the words, by autograd without the library."""
    found = explainer("input_x_gradient", rule="plain")((PICTURE, QUESTION), answer=ANSWER)
    for place, explanation in enumerate(found.explanations):
        prompt = real_arguments()
        prompt["input_ids"] = prompt["input_ids"][:, :-1]  # the end of a text, which goes on
        prompt["cross_attention_mask"] = prompt["cross_attention_mask"][:, :-1]
        read, taken, logits = plain_pass(longer(prompt, ANSWER[:place]))
        value = logits[-1, ANSWER[place]]
        slopes = torch.autograd.grad(value, [read, taken[0]])
        both = [read.flatten(0, -2), taken[0][0]]
        expected = [
            float(x)
            for state, slope in zip(both, slopes, strict=True)
            for x in (state * slope.reshape(state.shape)).sum(-1).detach()
        ]
        assert explanation.value == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(explanation.scores, expected, rtol=1e-3, atol=1e-6)


def test_in_each_block_a_picture_counts_as_far_as_it_is_yet_to_be_read() -> None:
    """The second block of three reads it: the first two cuts have all of the picture, the third nothing."""
    found = explainer("cat", rule="plain")((PICTURE, QUESTION), 7)
    read, taken, logits = plain_pass(real_arguments())
    slopes = torch.autograd.grad(logits[-1, 7], [read, *taken])
    picture = (read * slopes[0]).flatten(0, -2).sum(-1).detach()
    count = len(picture)
    states = [(state * slope)[0].sum(-1).detach() for state, slope in zip(taken, slopes[1:], strict=True)]
    for block, own in enumerate(states):
        layer = found.layers[block]
        np.testing.assert_allclose(layer[:count], picture if block < 2 else 0 * picture, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(layer[count:], own, rtol=1e-3, atol=1e-6)


def test_attention_is_over_words_or_over_what_is_read() -> None:
    adapter = explainer().adapter
    encoding = adapter.head.point(adapter.encode([(PICTURE, QUESTION)]), [None])
    recording = record(adapter, encoding, make_rule("plain"))
    weights = recording.read.float()
    received = recording.received_by(weights)
    sums = [(float(each[0, : encoding.offset].sum()), float(each[0, encoding.offset :].sum())) for each in received]
    np.testing.assert_allclose(sums, [(0, 1), (1, 0), (0, 1)], atol=1e-5)


@pytest.mark.parametrize("picture", [PICTURE, PICTURE[:, :48], PICTURE.transpose(1, 0, 2).copy()])
def test_words_and_patches_share_one_complete_explanation(picture: np.ndarray) -> None:
    explain = explainer("input_x_gradient", rule="libra", completeness=True)
    found = explain((picture, QUESTION))
    assert found.completeness == pytest.approx(0, abs=1e-4)
    assert [word.text for word in found.words()] == ["a", "gripping", "film", "?"]
    assert found.shares().picture > 0
    assert found.shares().text > 0
    assert found.heatmap(image=0).shape == picture.shape[:2]
    for written in explain((picture, QUESTION), answer=ANSWER).explanations:
        assert written.completeness == pytest.approx(0, abs=1e-4)


def test_every_painted_corner_moves_the_token_that_lies_there() -> None:
    """Two tiles side by side, each with a class token, which stands for all of the picture; the second is padded."""
    tokens = explainer().adapter.encode([(PICTURE, QUESTION)]).tokens[0]
    assert tokens.patches is not None
    assert [patches.grid for patches in tokens.patches] == [(4, 4), (4, 4), None]
    paint_corners(tokens, lambda picture: plain_pass(real_arguments(picture))[0].flatten(0, -2).detach())


def test_a_tile_that_shows_nothing_stands_for_the_picture_as_a_whole() -> None:
    tokens = explainer().adapter.encode([(PICTURE[:, :48], QUESTION)]).tokens[0]
    assert tokens.patches is not None
    assert tokens.places is not None
    assert [patches.grid for patches in tokens.patches] == [(4, 4), None]
    assert [place and place[0] for place in tokens.places[:34]] == [1, *[0] * 16, *[1] * 17]


def test_what_it_writes_itself_is_what_it_writes_alone() -> None:
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    found = explainer().generate((PICTURE, QUESTION), **options)
    prompt = real_arguments()
    prompt |= {n: prompt[n][:, :-1] for n in ("input_ids", "attention_mask", "cross_attention_mask")}
    alone = made()[0].generate(**prompt, **options)
    assert [one.classes[one.target] for one in found.explanations] == alone[0, -3:].tolist()


def test_a_text_alone_goes_past_the_blocks_that_read() -> None:
    """Its scores are those of a plain pass, before and after a picture was explained."""
    explain = explainer("input_x_gradient", rule="plain")
    first = explain("a gripping film?", 7)
    explain((PICTURE, QUESTION))
    ids = torch.tensor([made()[1].tokenizer("a gripping film?").input_ids])
    _, taken, logits = plain_pass({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    (slope,) = torch.autograd.grad(logits[-1, 7], [taken[0]])
    for found in (first, explain("a gripping film?", 7)):
        np.testing.assert_allclose(found.scores, (taken[0] * slope)[0].sum(-1).detach(), rtol=1e-3, atol=1e-6)
    assert len(explainer("rollout")("a gripping film?").scores) == ids.shape[1]
    assert len(explain("a gripping film?", answer=ANSWER).explanations) == 3


def test_model_arguments_do_without_a_processor() -> None:
    expected = explainer()((PICTURE, QUESTION))
    for processor in (None, made()[1]):
        found = attcat.Explainer(made()[0], processor, method="cat")(real_arguments())
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
        assert found.shares().picture == pytest.approx(expected.shares().picture, rel=1e-4)
        with pytest.raises(attcat.InputError, match="lie nowhere"):
            found.heatmap(image=0)


def test_each_of_several_pictures_has_states_of_its_own() -> None:
    explain = explainer("input_x_gradient", rule="libra", completeness=True)
    found = explain(((PICTURE, PICTURE[:, :48]), QUESTION))
    assert found.completeness == pytest.approx(0, abs=1e-4)
    assert [patches.picture for patches in found.tokens.patches or ()] == [0, 0, 0, 1, 1]
    assert found.heatmap(image=1).shape == (48, 48)
    assert all(share > 0 for share in found.shares().pictures)


def test_a_chat_holds_a_picture() -> None:
    model, _ = made()
    processor = zoo.mllama()[1]
    processor.chat_template = CHAT.replace("MARK", WHOLE)
    found = attcat.Explainer(model, processor, method="cat")((PICTURE, QUESTION))
    assert [word.text for word in found.words()] == ["a", "gripping", "film", "?"]
    assert found.shares().picture > 0


def test_a_removed_patch_is_painted_and_a_class_token_is_not() -> None:
    adapter = explainer().adapter
    encoding = adapter.encode([(PICTURE, QUESTION)])
    removed = torch.zeros_like(encoding.mask)
    removed[0, [0, 1]] = True  # the class token of the first tile, and its first patch
    changed = adapter.remove(encoding, removed).arguments
    assert torch.equal(changed["input_ids"], encoding.arguments["input_ids"])
    moved = (changed["pixel_values"] - encoding.arguments["pixel_values"]).abs().amax(3)[0, 0] > 0
    assert moved[0, :7, :7].all()
    assert not moved[0, 10:].any()
    assert not moved[1].any()
    removed[0, :34] = True
    changed = adapter.remove(encoding, removed).arguments
    assert changed["pixel_values"][0, 0, 0].flatten(1).std(1).max() < 1e-5


def test_a_path_of_states_moves_what_is_read_as_well() -> None:
    """Integrated gradients add up to what removing everything changes, though some of it is the picture's."""
    explain = explainer("integrated_gradients", steps=200)
    found = explain((PICTURE, QUESTION), 7)
    adapter = explain.adapter
    encoding = adapter.head.point(adapter.encode([(PICTURE, QUESTION)]), [None])
    with torch.no_grad():
        before, after = (float(adapter.predict(one)[1][0, 7]) for one in (encoding, adapter.remove(encoding)))
    assert float(found.scores.sum()) == pytest.approx(before - after, rel=1e-2, abs=1e-4)


def test_it_is_said_what_the_picture_s_tokens_are(tmp_path: Any) -> None:
    explain = explainer()
    said = explain.describe()
    assert "its words read a picture by cross-attention, in 1 of these blocks" in said
    assert "2 blocks read a text alone" in said
    found = explain((PICTURE, QUESTION), answer="film")
    found.save(tmp_path / "answer.html")
    assert "gripping" in (tmp_path / "answer.html").read_text()
    assert found.explanations[0].of_image(0).grid.shape == (4, 8)


def test_what_needs_one_sequence_is_refused() -> None:
    with pytest.raises(attcat.CaptureError, match="words attend to words, and in some blocks to what they read"):
        explainer("rollout")((PICTURE, QUESTION))
    with pytest.raises(attcat.OptionError, match="several layers of the tower"):
        explainer()((PICTURE, QUESTION), through_tower=True)


def test_a_picture_that_reaches_the_words_otherwise_is_not_explained() -> None:
    torch.manual_seed(0)
    model, processor = zoo.mllama()
    redraw(model.eval())
    plain = type(model).forward

    class Leaking(type(model)):  # type: ignore[misc]
        @wraps(plain)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = plain(self, *args, **kwargs)
            if kwargs.get("pixel_values") is not None:
                output.logits = output.logits * (1 + kwargs["pixel_values"].mean())
            return output

    model.__class__ = Leaking
    explain = attcat.Explainer(model, processor, method="cat")
    assert "words alone are explained" in explain.describe()
    with pytest.raises(attcat.UnsupportedModelError, match="its words read it by cross-attention"):
        explain((PICTURE, QUESTION))
