"""Metrics on every task: the class that is watched, the position that is explained, and what a probability is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tasks_zoo import LONG, SHORT, TASKS, make, tokenizer
from test_image_text import explainer as pair_explainer
from test_image_text import pictures
from torch import Tensor

import attcat
from attcat.demos import new_architecture
from attcat.errors import InputError, OptionError
from attcat.metrics import Ablation, evaluate, perturbation_curves
from attcat.metrics.sanity import batch_invariance, completeness_gap, max_sensitivity, parameter_randomisation

HEADS = list(TASKS)
PROBLEMS = {"softmax": "single_label_classification", "sigmoid": "multi_label_classification", "none": "regression"}


def classifier(activation: str, classes: int = 3) -> attcat.Explainer:
    model = make("Bert", "ForSequenceClassification", num_labels=classes, problem_type=PROBLEMS[activation])
    return attcat.Explainer(model, tokenizer("Bert"))


def asked(name: str) -> tuple[attcat.Explainer, list[Any], list[Any]]:
    task = TASKS[name]
    return task.explainer(), list(task.inputs), list(task.tokens)


# -- the same class again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_what_was_explained_can_be_asked_for_again(name: str) -> None:
    explainer, inputs, tokens = asked(name)
    for found in explainer(inputs, top_k=2, token=tokens):
        for explanation in found:
            assert isinstance(explanation.again, int)
            assert explanation.classes is None or explanation.classes[explanation.target] == explanation.again
    for explanation, value, token in zip(explainer(inputs, token=tokens), inputs, tokens, strict=True):
        same = explainer(value, explanation.again, token=token)
        assert same.label == explanation.label
        torch.testing.assert_close(same.layers, explanation.layers, rtol=1e-3, atol=1e-5)
        first, second = (explainer(value, top_k=2, token=token)[place].again for place in (1, 0))
        contrast = explainer(value, (first, second), token=token)
        assert contrast.again == (first, second)


@pytest.mark.parametrize("name", HEADS)
def test_batches_change_nothing_whatever_the_task(name: str) -> None:
    explainer, inputs, tokens = asked(name)
    assert float(batch_invariance(explainer, inputs, token=tokens).max()) < 1e-4


def test_checks_keep_contrasts_and_functions() -> None:
    """An explainer that counts says what it was asked for."""
    explainer = classifier("softmax")
    inputs = [LONG, SHORT]
    seen: list[Any] = []

    class Noted(attcat.Explainer):
        def __call__(self, inputs: Any, target: Any = None, **options: Any) -> Any:  # type: ignore[override]
            seen.append(target)
            return super().__call__(inputs, target, **options)

    noted = Noted(explainer.adapter)
    assert float(batch_invariance(noted, inputs, target=(2, 0)).max()) < 1e-4
    assert seen == [(2, 0), (2, 0), (2, 0)]
    seen.clear()
    parameter_randomisation(noted, inputs, target=(2, 0))
    assert seen[-1] == [(2, 0), (2, 0)]

    def margin(output: Any) -> Tensor:
        return output.logits[:, 0] - output.logits[:, 1]

    assert float(batch_invariance(noted, inputs, target=margin).max()) < 1e-4
    assert float(max_sensitivity(noted, inputs, target=margin, samples=1).min()) > 0
    with pytest.raises(InputError, match=r"target was a function.*give the function itself again"):
        _ = explainer(SHORT, margin).again


def test_class_numbers_are_saved(tmp_path: Any) -> None:
    explanation = TASKS["BertForMaskedLM"].explainer()("a [MASK]", 99)
    assert explanation.again == 99
    assert explanation.target != 99
    for suffix in (".json", ".safetensors"):
        assert attcat.load(explanation.save(tmp_path / f"one{suffix}")).again == 99
    with pytest.raises(ValueError, match="different class numbers for"):
        attcat.Explanation(
            explanation.layers, explanation.tokens, explanation.logits, 0, explanation.labels, "m", classes=(1, 1)
        )


def test_a_value_of_zero_has_no_share() -> None:
    """Rows line up with the inputs."""
    explainer = classifier("none", 1).like(completeness=True)
    model = explainer.adapter.model
    model.classifier.weight.data[:] = 0
    model.classifier.bias.data[:] = 0
    found = completeness_gap(explainer, [LONG, SHORT])
    assert found.shape == (2,)
    assert found.isnan().all()


# -- the user's own adapter ------------------------------------------------------------------------------------------


def test_checks_and_metrics_use_the_users_own_adapter() -> None:
    """Of a model in plain PyTorch that no other adapter could serve."""
    torch.manual_seed(0)
    explainer = attcat.Explainer(new_architecture.Dispatcher().eval())
    texts = ["we saw smoke near her old house", "my roses came from a large garden"]
    randomised = parameter_randomisation(explainer, texts)
    assert randomised.stages == ("head", "block 2", "block 1", "embeddings")
    assert type(explainer.like(explainer.adapter.model).adapter) is new_architecture.DispatcherAdapter
    assert float(batch_invariance(explainer, texts).max()) < 1e-5
    found = evaluate(Ablation(explainer, texts), explainer(texts), ["aopc", "saco"])
    assert all(values.isfinite().all() for values in found.values())


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("side", [0, 1])
def test_each_side_of_a_pair_can_be_measured(kind: str, side: int) -> None:
    whole = pair_explainer(kind)
    explainer = whole.sides[side]
    pairs = list(zip(pictures(), (LONG, SHORT), strict=True))
    together = whole(pairs)
    alone = explainer(pairs)
    for one, both in zip(alone, together, strict=True):
        torch.testing.assert_close(one.layers, both[side].layers)
    found = parameter_randomisation(explainer, pairs)
    assert found.similarity.shape == (len(found.stages), 2)
    assert type(explainer.like(whole.adapter.model).adapter) is type(whole.adapter.towers[side])
    assert explainer.sides == (explainer,)
    assert float(batch_invariance(explainer, pairs).max()) < 1e-3
    curves = perturbation_curves(Ablation(explainer, pairs), alone)
    assert curves.morf.of == ("value" if kind == "clip" else "probability")
    with pytest.raises(InputError, match=r"two explanations of each input: check one of explainer\.sides"):
        batch_invariance(whole, pairs)


# -- what is watched -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", list(PROBLEMS))
def test_curves_show_what_the_model_predicts(activation: str) -> None:
    explainer = classifier(activation)
    model, text = explainer.adapter.model, LONG
    with torch.no_grad():
        logits = model(**tokenizer("Bert")(text, return_tensors="pt")).logits[0].double()
    by_hand = {
        "softmax": logits.exp() / logits.exp().sum(),
        "sigmoid": 1 / (1 + (-logits).exp()),
        "none": logits,
    }[activation]
    ablation = Ablation(explainer, [text])
    for index in range(3):
        curves = perturbation_curves(ablation, explainer([text], index), [index])
        assert float(curves.morf.level[0, 0]) == pytest.approx(float(by_hand[index]), abs=1e-6)
        assert curves.morf.of == ("value" if activation == "none" else "probability")
        kept = {"softmax": logits.argmax() == index, "sigmoid": logits[index] > 0, "none": True}[activation]
        assert bool(curves.morf.kept[0, 0]) == bool(kept)
        (fall,) = evaluate(ablation, explainer([text], index), ["aopc"], classes=[index])["aopc"].tolist()
        steps = curves.morf.level[0, 0] - curves.morf.level[0, 1:-1]
        assert fall == pytest.approx(float(steps.mean()), abs=1e-9)


def test_a_measured_value_has_no_odds_and_no_accuracy() -> None:
    explainer = classifier("none", 1)
    ablation, found = Ablation(explainer, [LONG, SHORT]), explainer([LONG, SHORT])
    assert evaluate(ablation, found, ["aopc", "abpc", "naopc", "saco"])["aopc"].shape == (2,)
    for name in ("lodds", "positive_perturbation", "negative_perturbation"):
        with pytest.raises(OptionError, match=rf"{name}.*measured value.*aopc"):
            evaluate(ablation, found, [name])
    curves = perturbation_curves(ablation, found)
    with pytest.raises(OptionError, match=r"no probability: read \.level"):
        _ = curves.morf.log_probability
    with pytest.raises(OptionError, match=r"no accuracy: read \.level"):
        _ = curves.morf.still
    several = classifier("none", 3)
    with pytest.raises(InputError, match="predicted over the others: say which"):
        _ = Ablation(several, [LONG]).predicted


# -- the position that is explained ----------------------------------------------------------------------------------


def removals(name: str) -> list[str]:
    return ["mask", "pad"] if "Question" in name else ["mask", "pad", "delete"]


@pytest.mark.parametrize(("name", "how"), [(name, how) for name in HEADS for how in removals(name)])
def test_the_position_that_is_explained_is_kept_through_removal(name: str, how: str) -> None:
    """Against single runs of the plain model, with the position followed by hand."""
    task = TASKS[name]
    explainer, inputs, tokens = asked(name)
    ablation = Ablation(explainer, inputs, how, token=tokens)
    classes = ablation.predicted
    adapter = explainer.adapter
    generator = torch.Generator().manual_seed(1)
    for number, (value, token) in enumerate(zip(inputs, tokens, strict=True)):
        encoding = adapter.head.point(adapter.encode([value]), [token])
        focus = None if encoding.focus is None else int(encoding.focus[0])
        content = ablation.content[number]
        assert focus is None or not content[focus]
        removed = content & (torch.rand(len(content), generator=generator) < 0.5)
        removed[content.nonzero()[0]] = True
        arguments = {key: tensor.clone() for key, tensor in encoding.arguments.items()}
        if how == "delete":
            arguments = {key: tensor[:, ~removed] for key, tensor in arguments.items()}
            focus = None if focus is None else focus - int(removed[:focus].sum())
        else:
            arguments["input_ids"][0, removed] = adapter.blank_token if how == "mask" else adapter.pad_token
        with torch.no_grad():
            expected = float(task.value(task.model()(**arguments), focus, int(classes[number])))
        found = ablation.logits([(number, removed), (number, torch.zeros_like(removed))])
        assert float(found[0, classes[number]]) == pytest.approx(expected, abs=1e-4)
    found = evaluate(ablation, explainer(inputs, classes.tolist(), token=tokens), ["aopc", "lodds"])
    assert all(values.isfinite().all() for values in found.values())


def test_answers_are_not_broken_apart() -> None:
    explainer, inputs, _ = asked("BertForQuestionAnswering")
    with pytest.raises(OptionError, match=r"an answer is a stretch of the text.*use the removal mask or pad"):
        Ablation(explainer, inputs, "delete")


def test_the_explained_token_cannot_be_deleted() -> None:
    explainer, inputs, _ = asked("BertForMaskedLM")
    adapter = explainer.adapter
    encoding = adapter.head.point(adapter.encode(inputs[:1]), [None])
    with pytest.raises(OptionError, match="whose prediction is explained cannot be deleted"):
        adapter.remove(encoding, encoding.mask, "delete")
    with pytest.raises(InputError, match="1 tokens for 2 inputs"):
        Ablation(explainer, inputs, token=["x"])
    with pytest.raises(InputError, match="only tokens that stay"):
        Ablation(explainer, ["[MASK]"])


# -- occlusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 38, 45])
def test_occlusion_of_a_picture_whose_size_is_no_multiple_of_the_patch(size: int) -> None:
    """Patches as the model's own convolution cuts them, one pass each."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=size, patch_size=8
    )
    model = ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pixels = torch.randn(1, 3, size, size)
    explanation = attcat.Explainer(model, method="occlusion")({"pixel_values": pixels}, 1)
    cells = size // 8
    expected = torch.zeros(cells, cells)
    with torch.no_grad():
        for row in range(cells):
            for column in range(cells):
                changed = pixels.clone()
                changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
                expected[row, column] = (model(pixels).logits - model(changed).logits)[0, 1]
    torch.testing.assert_close(explanation.grid, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "contrast_cat"])
def test_methods_that_remove_tokens_ask_the_adapter(method: str) -> None:
    """Of a model whose argument is called `numbers`."""
    torch.manual_seed(0)
    model = new_architecture.Dispatcher().eval()
    text = "we saw smoke near her old house"
    options: dict[str, Any] = {"references": ["my roses"], "select": 1.0} if method == "contrast_cat" else {}
    explainer = attcat.Explainer(model, method=method, **options)
    explanation = explainer(text, "doctor")
    assert explanation.scores.isfinite().all()
    if method == "occlusion":
        numbers = explainer.adapter.encode([text]).arguments["numbers"]
        blank = new_architecture.NUMBERS["a"]
        with torch.no_grad():
            for place in range(1, numbers.shape[1]):
                changed = numbers.clone()
                changed[0, place] = blank
                fall = (model(numbers) - model(changed))[0, 1]
                assert float(explanation.scores[place]) == pytest.approx(float(fall), abs=1e-5)
        assert float(explanation.scores[0]) == 0
        with pytest.raises(OptionError, match="batch=0"):
            attcat.Explainer(model, method="occlusion", batch=0)(text)


def test_occlusion_in_a_padded_batch_and_in_any_number_of_copies() -> None:
    explainer = classifier("softmax")
    together = explainer.like().__class__(explainer.adapter, method="occlusion", batch=3)([LONG, SHORT], 1)
    for text, found in zip((LONG, SHORT), together, strict=True):
        alone = attcat.Explainer(explainer.adapter, method="occlusion", batch=1)(text, 1)
        torch.testing.assert_close(found.layers, alone.layers, rtol=1e-3, atol=1e-5)


# -- one geometry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0.0, 0.0, 12.0, 8.0), (1.5, -2.0, 9.5, 7.0), (-1.0, 0.5, 20.0, 5.5)])
def test_the_three_readings_of_a_grid_agree(box: tuple[float, float, float, float]) -> None:
    """`cells`, `overlap` and `spread` against loops over pixels."""
    view, grid = attcat.View(12, 8, box), (2, 3)
    left, top, right, bottom = box
    high, wide = (bottom - top) / grid[0], (right - left) / grid[1]
    cells = view.cells(grid)
    values = np.arange(6.0).reshape(grid)
    heat = view.spread(values)
    for y in range(8):
        for x in range(12):
            row, column = int((y + 0.5 - top) // high), int((x + 0.5 - left) // wide)
            inside = 0 <= row < grid[0] and 0 <= column < grid[1]
            assert cells[y, x] == (row * grid[1] + column if inside else -1)
            assert np.isnan(heat[y, x]) == (not inside)
    part = view.overlap(grid, (2.0, 1.0, 7.0, 6.0))
    for row in range(grid[0]):
        for column in range(grid[1]):
            across = min(7.0, left + (column + 1) * wide) - max(2.0, left + column * wide)
            down = min(6.0, top + (row + 1) * high) - max(1.0, top + row * high)
            assert part[row, column] == pytest.approx(max(across, 0) * max(down, 0) / (wide * high))
