"""Other heads than a classifier's: tags, answers, masked and next tokens; pairs, multi-label, regression."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import plain_attcat
from rich.console import Console
from tasks_zoo import BLOCKS, LONG, SHORT, TAGS, TASKS, make, tokenizer
from torch import nn

import attcat
from attcat.model.labels import Answers, Vocabulary
from attcat.render import terminal


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Any:
    return TASKS[request.param]


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def arguments(explainer: attcat.Explainer, value: Any) -> dict[str, torch.Tensor]:
    return dict(explainer.adapter.encode([value]).arguments)


def class_number(explainer: attcat.Explainer, explanation: attcat.Explanation, value: Any) -> int:
    """The number of the explained class among all classes, from its name: written anew, without the library's lookup."""
    assert explanation.target is not None
    if explanation.answers is None:
        if len(explanation.labels) == len(TAGS):
            return explanation.target
        names = Vocabulary(explainer.adapter.processor, 340)
        (number,) = [i for i in range(340) if names[i] == explanation.label]
        return number
    answer = explanation.answers[explanation.target]
    if answer is None:
        return 0
    inside = [
        position
        for position, (span, segment) in enumerate(
            zip(explanation.tokens.spans, explanation.tokens.segments, strict=True)
        )
        if segment == 1 and span[0] < answer[1] and span[1] > answer[0]
    ]
    return 1 + 30 * inside[0] + inside[-1] - inside[0]


@pytest.mark.parametrize("queries", ["mean", "pooled"])
def test_scores_equal_the_plain_reference_alone_and_in_a_padded_batch(task: Any, queries: str) -> None:
    explain = task.explainer(method="attcat", rule="plain", queries=queries)
    together = explain(list(task.inputs), token=list(task.tokens))
    for row, value in enumerate(task.inputs):
        alone = explain(value, token=task.tokens[row])
        number = class_number(explain, alone, value)
        given = arguments(explain, value)
        length = given["input_ids"].shape[1]
        read = torch.zeros(1, length, dtype=torch.bool)
        if alone.position is not None:
            read[0, alone.position] = True
        else:
            read[0, [0, 0] if number == 0 else [(number - 1) // 30, (number - 1) // 30 + (number - 1) % 30]] = True
        expected, _ = plain_attcat(
            explain.adapter.model, given, lambda out, n=number, p=alone.position: task.value(out, p, n), read, queries
        )
        assert alone.layers.shape == (BLOCKS, length)
        assert relative(alone.layers, expected) < 1e-4
        assert relative(together[row].layers, expected) < 1e-4
        assert together[row].label == alone.label
        assert together[row].position == alone.position


def test_the_predicted_class_and_its_probability_are_the_models_own(task: Any) -> None:
    explain = task.explainer()
    for value, token in zip(task.inputs, task.tokens, strict=True):
        explanation = explain(value, token=token)
        with torch.no_grad():
            output = explain.adapter.model(**arguments(explain, value))
        if explanation.answers is None:
            row = output.logits[0, explanation.position]
            assert float(explanation.logits[explanation.target]) == pytest.approx(float(row.max()), abs=1e-5)
            assert explanation.probability == pytest.approx(float(row.softmax(-1).max()), rel=1e-4)
            continue
        # every candidate by hand: start <= end, both in the context, or no answer
        spans, segments = explanation.tokens.spans, explanation.tokens.segments
        context = [i for i, s in enumerate(segments) if s == 1]
        scores = {None: float(output.start_logits[0, 0] + output.end_logits[0, 0])}
        for first in context:
            for last in context:
                if first <= last:
                    scores[first, last] = float(output.start_logits[0, first] + output.end_logits[0, last])
        best = max(scores, key=lambda key: scores[key])
        total = math.log(sum(math.exp(score) for score in scores.values()))
        assert explanation.probability == pytest.approx(math.exp(scores[best] - total), rel=1e-4)
        if best is None:
            assert explanation.answer is None
            assert explanation.label == "(no answer)"
        else:
            text = value[1][spans[best[0]][0] : spans[best[1]][1]].strip()
            assert explanation.answer.text == explanation.label == text
            assert value[1][explanation.answer.start : explanation.answer.end] == text
        assert float(explanation.probabilities.sum()) <= 1 + 1e-6


def test_the_head_reads_the_tokens_that_it_is_said_to_read(task: Any) -> None:
    explain = task.explainer()
    adapter = explain.adapter
    explanation = explain(task.inputs[0], token=task.tokens[0])
    encoding = adapter.head.point(adapter.encode([task.inputs[0]]), [task.tokens[0]])
    number = class_number(explain, explanation, task.inputs[0])
    read = adapter.head.read(encoding, torch.tensor([number]))[0]
    with torch.no_grad():
        before = adapter.predict(encoding)[1][0, number]
        for position in range(len(read)):

            def disturb(module: nn.Module, args: object, output: Any, position: int = position) -> Any:
                state = (output if isinstance(output, torch.Tensor) else output[0]).clone()
                state[:, position] += torch.linspace(-3, 3, state.shape[-1])
                return state if isinstance(output, torch.Tensor) else (state, *output[1:])

            hook = adapter.blocks[-1].register_forward_hook(disturb)
            after = adapter.predict(encoding)[1][0, number]
            hook.remove()
            assert bool((before - after).abs() > 1e-4) == bool(read[position]), position


def test_the_gradient_agrees_with_a_finite_difference(task: Any) -> None:
    """In float64, at the first block's input, along the input itself: what input x gradient sums up to."""
    model = make(task.family, task.head, **dict(task.options)).double()
    explain = attcat.Explainer(model, tokenizer(task.family), method="input_x_gradient")
    explanation = explain(task.inputs[0], token=task.tokens[0])
    adapter = explain.adapter
    encoding = adapter.head.point(adapter.encode([task.inputs[0]]), [task.tokens[0]])
    number, step = class_number(explain, explanation, task.inputs[0]), 1e-5
    ends = []
    for factor in (1 + step, 1 - step):
        hook = adapter.blocks[0].register_forward_pre_hook(lambda module, args, f=factor: (args[0] * f, *args[1:]))
        with torch.no_grad():
            ends.append(float(adapter.predict(encoding)[1][0, number]))
        hook.remove()
    assert float(explanation.scores.sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_the_model_is_left_without_hooks_also_when_it_fails(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = task.explainer()
    explain(task.inputs[0], token=task.tokens[0])
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in explain.adapter.model.modules()]
    monkeypatch.setattr(type(explain.adapter.blocks[-1]), "forward", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explain(task.inputs[0], token=task.tokens[0])
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in explain.adapter.model.modules()]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_saved_and_loaded_back(task: Any, suffix: str, tmp_path: Path) -> None:
    explanation = task.explainer()(task.inputs[0], token=task.tokens[0])
    loaded = attcat.load(explanation.save(tmp_path / f"one{suffix}"))
    for name in (
        "task",
        "activation",
        "rest",
        "position",
        "answers",
        "labels",
        "target",
        "label",
        "probability",
        "answer",
    ):
        assert getattr(loaded, name) == getattr(explanation, name), name
    assert torch.equal(loaded.layers, explanation.layers)


def test_drawn_with_what_the_prediction_is_about(task: Any) -> None:
    explanation = task.explainer()(task.inputs[0], token=task.tokens[0])
    console = Console(width=100, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO())
    terminal.show(explanation, console)
    plain, page = console.export_text(), explanation.to_html()
    if explanation.position is None:
        start, end = explanation.answer.start, explanation.answer.end
        about = f"characters {start} to {end} of the context"
        assert "question" in plain
        assert ">context<" in page
    else:
        about = {"token": "tag of", "masked": "in place of", "causal": "what follows"}[explanation.task.split()[0]]
    assert about in plain
    assert about in page
    assert page.count('class="about"') >= 1


def test_several_methods_run_on_other_heads() -> None:
    for name in ("BertForTokenClassification", "RobertaForQuestionAnswering", "GPT2LMHeadModel", "BertForMaskedLM"):
        task = TASKS[name]
        for method in ("genatt", "lrp", "legrad", "occlusion", "integrated_gradients", "rollout"):
            explanation = task.explainer(method=method)(task.inputs[0], token=task.tokens[0])
            assert explanation.scores.isfinite().all()
            assert float(explanation.scores.abs().sum()) > 0, (name, method)


# -- which token ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("gripping", "grip"),
        ("not", "not"),
        ("boring", "bor"),
        ("bor", "bor"),
        (0, "the"),
        (-1, "!"),
        (slice(13, 17), "film"),
        ("!", "!"),
    ],
)
def test_a_token_by_word_number_and_characters(token: Any, label: str) -> None:
    explanation = TASKS["BertForTokenClassification"].explainer()(LONG, token=token)
    assert explanation.tokens.labels[explanation.position] == label
    assert explanation.label in TAGS.values()


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (None, r"say which one with token='word'; words: 0 the, 1 gripping"),
        ("film", r"'film' occurs 2 times: give the number of the word \(2 or 7\), e.g. token=2"),
        ("Paris", r"no token 'Paris' in the text; words: 0 the"),
        ("", r"no token '' in the text"),
        (9, r"no word number 9: the text has 9"),
        (slice(90, 95), r"slice\(90, 95, None\) is empty in a text of"),
        (["film", "film"], r"occurs 2 times"),
    ],
)
def test_a_token_that_is_not_there_or_not_the_only_one(token: Any, told: str) -> None:
    with pytest.raises(attcat.InputError, match=told):
        TASKS["BertForTokenClassification"].explainer()(LONG, token=token)


def test_several_tokens_of_one_text_give_a_list() -> None:
    explain = TASKS["BertForTokenClassification"].explainer()
    several = explain(LONG, token=["gripping", 2])
    for explanation, token in zip(several, ["gripping", 2], strict=True):
        torch.testing.assert_close(explanation.scores, explain(LONG, token=token).scores, rtol=1e-4, atol=1e-7)
    with pytest.raises(attcat.InputError, match="3 tokens for 2 inputs"):
        explain([LONG, SHORT], token=[0, 1, 2])


def test_ready_made_arguments_name_tokens_by_position_also_when_padded_on_the_left() -> None:
    explain = TASKS["BertForTokenClassification"].explainer(rule="plain")
    ids = torch.tensor([[2, 8, 5, 6, 7, 3]])
    right = explain({"input_ids": ids}, token=2)
    assert right.position == 2
    positions = torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5]])
    left = explain(
        {
            "input_ids": torch.cat([torch.zeros(1, 2, dtype=torch.long), ids], 1),
            "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]),
            "position_ids": positions,
        },
        token=2,
    )
    assert left.position == 2
    torch.testing.assert_close(left.layers, right.layers, rtol=1e-4, atol=1e-6)
    with pytest.raises(attcat.InputError, match="is 0 of the 6 tokens: give its position, 0 to 5"):
        explain({"input_ids": ids}, token="Paris")


def test_a_classifier_has_no_token() -> None:
    explain = attcat.Explainer(make("Bert", "ForSequenceClassification"), tokenizer("Bert"))
    with pytest.raises(attcat.InputError, match="one prediction for the whole input: leave out token="):
        explain(SHORT, token="film")


# -- language models ----------------------------------------------------------------------------------------------------


def test_a_word_of_the_vocabulary_and_what_is_not_one() -> None:
    explain = TASKS["GPT2LMHeadModel"].explainer(quantity="logit")
    assert explain(SHORT, target=" film").label == " film"
    contrast = explain(SHORT, target=(" film", "a"))
    assert contrast.label == " film rather than a"
    first, second = explain(SHORT, target=[" film", "a"])
    assert contrast.value == pytest.approx(first.value - second.value, abs=1e-5)
    with pytest.raises(attcat.TargetError, match=r"' film was' is \d+ tokens \(' film', .*\): give one of them"):
        explain(SHORT, target=" film was")
    with pytest.raises(attcat.TargetError, match="no token number 340"):
        explain(SHORT, target=340)
    with pytest.raises(attcat.TargetError, match="too many to explain all of them"):
        explain(SHORT, target="all")
    with pytest.raises(attcat.TargetError, match="finding 'a' in the vocabulary needs a tokenizer"):
        attcat.Explainer(explain.adapter.model)({"input_ids": torch.tensor([[5, 6]])}, "a")
    masked = TASKS["BertForMaskedLM"].explainer()
    assert masked("the [MASK]", target="##ping").label == "##ping"
    assert masked("the [MASK]", target="Film").label == "film"
    with pytest.raises(attcat.TargetError, match="'zebra' is not in the vocabulary"):
        masked("the [MASK]", target="zebra")


def test_only_the_row_of_one_position_is_projected_and_few_words_are_kept() -> None:
    explain = TASKS["GPT2LMHeadModel"].explainer()
    seen: list[tuple[int, ...]] = []
    hook = explain.adapter.model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    explanation = explain(LONG, top_k=3)
    hook.remove()
    assert seen == [(1, 1, 340)]
    with torch.no_grad():
        row = explain.adapter.model(**arguments(explain, LONG)).logits[0, -1]
    assert [one.label for one in explanation] == [
        Vocabulary(tokenizer("GPT2"), 340)[int(index)] for index in row.topk(3).indices
    ]
    torch.testing.assert_close(explanation[0].probabilities, row.softmax(-1).topk(20).values, rtol=1e-5, atol=1e-8)
    unlikely = explain(LONG, target=int(row.argmin()))
    assert len(unlikely.labels) == 21
    assert unlikely.probability == pytest.approx(float(row.softmax(-1).min()), rel=1e-4)
    assert unlikely.predicted == 0


def test_a_token_is_predicted_by_the_position_before_it_and_what_comes_later_plays_no_part() -> None:
    explain = TASKS["GPT2LMHeadModel"].explainer(rule="plain")
    explanation = explain("the gripping film was", token="film", target=" film")
    assert explanation.position == 1
    assert (explanation.scores[2:] == 0).all()
    cut = explain("the gripping", target=" film")
    torch.testing.assert_close(explanation.logits, cut.logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(attcat.InputError, match="nothing comes before 'the'"):
        explain("the gripping film", token="the")


def test_masks_that_are_missing_or_several() -> None:
    explain = TASKS["BertForMaskedLM"].explainer()
    with pytest.raises(attcat.InputError, match=r"there is no \[MASK\] in the text"):
        explain("the film")
    with pytest.raises(attcat.InputError, match=r"occurs 2 times in the text: .*; words: 0 the, 1 \[MASK\]"):
        explain("the [MASK] was [MASK]")
    assert explain("the [MASK] was [MASK]", token=3).position == 4
    with pytest.raises(attcat.ProcessorError, match="the tokenizer has no mask token"):
        TASKS["RobertaForMaskedLM"].explainer()(SHORT)


# -- question answering -------------------------------------------------------------------------------------------------


def test_another_answer_can_be_explained() -> None:
    explain = TASKS["BertForQuestionAnswering"].explainer(quantity="logit")
    pair = ("a film", LONG)
    by_text, by_place = explain(pair, target="not boring"), explain(pair, target=slice(18, 28))
    assert by_text.answer == by_place.answer
    assert (by_text.answer.start, by_text.answer.end) == (18, 28)
    none = explain(pair, target="(no answer)")
    assert none.answer is None
    assert explain(pair, target=("not boring", "(no answer)")).value == pytest.approx(
        by_text.value - none.value, abs=1e-5
    )
    best = explain(pair, top_k=3)
    assert [one.target for one in best] == [0, 1, 2]
    assert best[0].probability >= best[1].probability >= best[2].probability


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("film", r"occurs 2 times in the context: give one by its characters, e.g. slice\(13, 17\), slice\(32, 36\)"),
        ("Paris", r"'Paris' is not in the context"),
        (1.5, r"give an answer by its text or as slice\(start, end\)"),
        (3, "the model rules this class out"),  # the number of a span that ends before it begins, or lies elsewhere
        (slice(90, 99), r"slice\(90, 99, None\) is empty in a text of"),
    ],
)
def test_what_is_not_an_answer(target: Any, told: str) -> None:
    with pytest.raises(attcat.TargetError, match=told):
        TASKS["BertForQuestionAnswering"].explainer()(("a film", LONG), target=target)


def test_a_question_needs_a_context() -> None:
    with pytest.raises(attcat.InputError, match=r"as a tuple \(question, context\)"):
        TASKS["BertForQuestionAnswering"].explainer()("a film")


def test_no_answer_wins_where_its_logits_are_highest() -> None:
    """A head whose start and end logits are highest at [CLS], by its construction."""
    model = make("Bert", "ForQuestionAnswering")
    tokens = attcat.Explainer(model, tokenizer("Bert")).adapter.encode([("a film", LONG)])
    with torch.no_grad():
        states = model.bert(**tokens.arguments).last_hidden_state[0]
        towards = states[0] - states.mean(0)
        model.qa_outputs.weight.copy_((40 * towards / towards.dot(towards)).expand(2, -1))
    explanation = attcat.Explainer(model, tokenizer("Bert"))(("a film", LONG))
    assert explanation.label == "(no answer)"
    assert explanation.answer is None
    assert explanation.probability > 0.99


def test_answers_are_at_most_thirty_tokens() -> None:
    spans = tuple((2 * i, 2 * i + 1) for i in range(40))
    tokens = attcat.Tokens(("x",) * 40, (False,) * 40, spans=spans, segments=(1,) * 40)
    answers = Answers(tokens, "x " * 40, 1 + 40 * 30, 30)
    assert answers[answers.find(slice(2, 5))] == "x x"
    with pytest.raises(attcat.TargetError, match="the answer has 31 tokens, candidates have at most 30"):
        answers.find(slice(0, 61))


# -- pairs, multi-label, regression -------------------------------------------------------------------------------------


def test_the_texts_of_a_pair_stay_apart() -> None:
    labels = {0: "entailment", 1: "contradiction"}
    explain = attcat.Explainer(make("Bert", "ForSequenceClassification", id2label=labels), tokenizer("Bert"))
    explanation = explain(("the film", "a gripping film"))
    assert [(word.text, word.segment) for word in explanation.words()] == [
        ("the", 0), ("film", 0), ("a", 1), ("gripping", 1), ("film", 1),
    ]  # fmt: skip
    special = float(explanation.scores[explanation.special].sum())
    assert sum(word.score for word in explanation.words()) + special == pytest.approx(
        float(explanation.scores.sum()), abs=1e-6
    )
    assert "first text" in explanation.to_html()


MOODS = {0: "joy", 1: "anger", 2: "fear"}


def multi_label(bias: list[float]) -> attcat.Explainer:
    """Whose logits are nearly these numbers."""
    model = make("Bert", "ForSequenceClassification", id2label=MOODS, problem_type="multi_label_classification")
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)
        model.classifier.bias.copy_(torch.tensor(bias))
    return attcat.Explainer(model, tokenizer("Bert"))


def test_multi_label_probabilities_are_independent() -> None:
    explanation = multi_label([2.0, -2.0, 1.0])(SHORT)
    torch.testing.assert_close(explanation.probabilities, explanation.logits.sigmoid())
    assert explanation.label == "joy"
    assert explanation.predictions == (0, 2)
    assert explanation.probability == pytest.approx(0.88, abs=0.02)
    assert "also predicted: fear 7" in explanation.to_html()
    other = multi_label([2.0, -2.0, 1.0])(SHORT, target="anger")
    assert other.probability == pytest.approx(0.12, abs=0.02)
    page = other.to_html()
    assert ">predicted: joy 8" in page
    assert "fear 7" in page
    assert "none is above 50%" in multi_label([-1.0, -2.0, -3.0])(SHORT).to_html()


def test_regression_reports_the_value_and_no_probability(tmp_path: Path) -> None:
    model = make("Bert", "ForSequenceClassification", id2label={0: "rating"})
    explanation = attcat.Explainer(model, tokenizer("Bert"))(SHORT)
    value = float(explanation.logits[0])
    assert explanation.activation == "none"
    assert explanation.probability is None
    assert explanation.label == f"rating = {value:.4g}"
    with pytest.raises(attcat.InputError, match=r"measured values, which have no probability: read \.logits"):
        _ = explanation.probabilities
    page = explanation.to_html()
    assert "raises rating" in page
    assert "predicted:" not in page
    assert "%" not in repr(explanation).partition("by")[0]
    assert attcat.load(explanation.save(tmp_path / "r.json")).label == explanation.label


def test_a_cross_encoder_names_its_sigmoid() -> None:
    function = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    model = make("Bert", "ForSequenceClassification", num_labels=1, sentence_transformers=function)
    explanation = attcat.Explainer(model, tokenizer("Bert"))(("a film", SHORT))
    assert explanation.probability == pytest.approx(float(explanation.logits.sigmoid()[0]))


def test_several_measured_values_have_no_predicted_one() -> None:
    model = make("Bert", "ForSequenceClassification", id2label={0: "x", 1: "y"}, problem_type="regression")
    explain = attcat.Explainer(model, tokenizer("Bert"))
    with pytest.raises(attcat.TargetError, match="the 2 outputs are measured values"):
        explain(SHORT)
    assert explain(SHORT, target="y").label.startswith("y = ")
    assert len(explain(SHORT, target="all")) == 2


def test_libra_is_complete_on_every_head(task: Any) -> None:
    """Gradient x input at the first block and the bias terms make up the logit, alone and in a padded batch."""
    explain = task.explainer(method="input_x_gradient", rule="libra", completeness=True)
    for explanation in explain(list(task.inputs), token=list(task.tokens)):
        assert abs(explanation.completeness) < 1e-4 * max(1.0, abs(explanation.value))
        assert explanation.value == pytest.approx(float(explanation.logits[explanation.target]), abs=1e-5)
