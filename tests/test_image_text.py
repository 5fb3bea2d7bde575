"""CLIP and SigLIP: one call, which words and which patches."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tasks_zoo import redraw
from tokenizers_small import byte_bpe

import attcat
from attcat.cli.inputs import Item
from attcat.cli.models import check_kind
from attcat.testing import check_adapter

BLOCKS, SIDE, PATCH, LENGTH = 3, 32, 8, 16
_TOWER = {"hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4, "intermediate_size": 48}
TEXTS = ["a gripping film with a gripping end", "boring"]


def make(kind: str) -> Any:
    text = {
        **_TOWER,
        "vocab_size": 340,
        "max_position_embeddings": LENGTH,
        "eos_token_id": 3,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    vision = {**_TOWER, "image_size": SIDE, "patch_size": PATCH}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        return redraw(transformers.CLIPModel(config))
    return redraw(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)))


class Processor(SimpleNamespace):
    """What CLIPProcessor is to the library: a tokenizer and an image processor."""


def processor(kind: str) -> Processor:
    tokenizer = copy.deepcopy(byte_bpe(unused=1))
    tokenizer.model_max_length = LENGTH
    if kind == "siglip":
        tokenizer.model_input_names = ["input_ids"]
    images = transformers.CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Processor(tokenizer=tokenizer, image_processor=images)


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 255, (40, 48, 3), dtype=np.uint8),
        generator.integers(0, 255, (32, 32, 3), dtype=np.uint8),
    ]


@pytest.fixture(params=["clip", "siglip"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def explainer(kind: str, **options: Any) -> attcat.Explainer:
    return attcat.Explainer(make(kind), processor(kind), **options)


@pytest.mark.parametrize("value", [Path("photo.jpg"), (Path("photo.jpg"), "a ship"), "a ship"])
def test_the_shell_says_where_both_are_explained(kind: str, value: Any) -> None:
    """One line of a table has one explanation; no advice leads to the next refusal."""
    with pytest.raises(attcat.InputError, match=r"two explanations: in Python, explainer\(\(picture, text\)\)"):
        check_kind(explainer(kind), Item(value))


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def plain(model: Any, arguments: dict[str, torch.Tensor], side: str) -> torch.Tensor:
    """AttCAT of one tower `[L, T]`, plain gradient: eager, all states, a full backward pass."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    output = twin(**arguments, output_hidden_states=True, output_attentions=True)
    tower = output.vision_model_output if side == "image" else output.text_model_output
    states, attention = tower.hidden_states[:BLOCKS], tower.attentions
    for state in states:
        state.retain_grad()
    output.logits_per_image[0, 0].backward()
    rows = [
        a[0].mean(0).mean(0) * (state.grad[0] * state[0]).sum(-1) for state, a in zip(states, attention, strict=True)
    ]
    return torch.stack(rows).detach()


def alone(explain: attcat.Explainer, row: int) -> tuple[Any, dict[str, torch.Tensor]]:
    value = (pictures()[row], TEXTS[row])
    return value, dict(explain.adapter.encode([value]).arguments)


def test_both_sides_equal_the_plain_reference_alone_and_in_a_batch(kind: str) -> None:
    explain = explainer(kind, method="attcat", rule="plain")
    together = explain(list(zip(pictures(), TEXTS, strict=True)))
    for row in range(2):
        value, arguments = alone(explain, row)
        result = explain(value)
        assert isinstance(result, attcat.ImageText)
        for side in ("image", "text"):
            expected = plain(explain.adapter.model, arguments, side)
            assert relative(getattr(result, side).layers, expected) < 1e-4, side
            assert relative(getattr(together[row], side).layers, expected) < 1e-4, side


def test_the_value_is_the_similarity_of_the_pair(kind: str) -> None:
    explain = explainer(kind)
    value, arguments = alone(explain, 0)
    with torch.no_grad():
        logit = float(explain.adapter.model(**arguments).logits_per_image)
    image, text = explain(value)
    assert image.value == pytest.approx(logit, abs=1e-4)
    assert text.value == pytest.approx(logit, abs=1e-4)
    if kind == "clip":
        assert image.probability is None
        assert image.label.startswith(f'similarity to "{TEXTS[0]}" = ')
    else:
        assert image.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert image.heatmap().shape == (40, 48)
    assert image.tokens.grid == (4, 4)
    assert "".join(word.text for word in text.words()) == TEXTS[0].replace(" ", "")


def test_the_tower_reads_the_tokens_that_it_is_said_to_read(kind: str) -> None:
    explain = explainer(kind)
    for tower in explain.adapter.towers:
        value, _ = alone(explain, 0)
        encoding = tower.encode([value])
        read = tower.read(encoding)[0]
        with torch.no_grad():
            before = tower.predict(encoding)[1]
            for position in range(len(read)):

                def disturb(module: Any, args: Any, output: Any, position: int = position) -> Any:
                    state = output.clone()
                    state[:, position] += torch.linspace(-3, 3, state.shape[-1])
                    return state

                hook = tower.blocks[-1].register_forward_hook(disturb)
                after = tower.predict(encoding)[1]
                hook.remove()
                assert bool((before - after).abs().max() > 1e-5) == bool(read[position]), (tower.family, position)


@pytest.mark.parametrize("rule", ["plain", "libra"])
def test_the_gradient_agrees_with_a_finite_difference_and_libra_is_complete(kind: str, rule: str) -> None:
    """In float64. Libra: each tower with the bias terms makes up the logit (SigLIP's own bias, a constant, apart)."""
    explain = explainer(kind, rule=rule, method="input_x_gradient", completeness=True)
    explain.adapter.model.double()
    value, _ = alone(explain, 0)
    result = explain(value)
    for tower, explanation in zip(explain.adapter.towers, result, strict=True):
        if rule == "libra":
            assert abs(explanation.completeness) < 1e-4 * max(1, abs(explanation.value))
            continue
        encoding, ends, step = tower.encode([value]), [], 1e-5
        for factor in (1 + step, 1 - step):
            hook = tower.blocks[0].register_forward_pre_hook(lambda module, args, f=factor: (args[0] * f, *args[1:]))
            with torch.no_grad():
                ends.append(float(tower.predict(encoding)[1]))
            hook.remove()
        assert float(explanation.scores.sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_both_towers_are_checked(kind: str) -> None:
    """With a processor and without; each side keeps every promise that is asked of it."""
    model = make(kind)
    for brought in (processor(kind), None):
        checks = check_adapter(model, brought)
        sides = {check.name.partition(":")[0] for check in checks}
        assert sides == {tower.family for tower in attcat.Explainer(model, processor(kind)).adapter.towers}
        assert [check for check in checks if check.passed is False] == []


def test_saved_drawn_and_with_other_methods(kind: str, tmp_path: Path) -> None:
    value, arguments = alone(explainer(kind), 0)
    image, text = explainer(kind)(value)
    for side, explanation in (("image", image), ("text", text)):
        loaded = attcat.load(explanation.save(tmp_path / f"{side}.json"))
        assert loaded.label == explanation.label
        assert "similarity to" in explanation.to_html()
    image.save(tmp_path / "image.png")
    for method in ("genatt", "occlusion", "rollout"):
        for side in explainer(kind, method=method)(value):
            assert float(side.scores.abs().sum()) > 0
    ready = explainer(kind)(arguments)
    assert relative(ready.image.layers, image.layers) < 1e-5
    assert relative(ready.text.layers, text.layers) < 1e-5


def test_readable_errors(kind: str) -> None:
    explain = explainer(kind)
    with pytest.raises(attcat.InputError, match=r"an input is a picture and a text, e\.g\. \(picture, .*got str"):
        explain("a film")
    with pytest.raises(attcat.InputError, match="got a tuple of str, ndarray"):
        explain(("a film", pictures()[0]))
    with pytest.raises(attcat.InputError, match="need both 'input_ids' and 'pixel_values', got input_ids"):
        explain({"input_ids": torch.tensor([[5, 2]])})
    with pytest.raises(attcat.TooLongError):
        explain((pictures()[0], "a film " * 40))
    with pytest.raises(attcat.ProcessorError, match="needs the processor for both"):
        attcat.Explainer(make(kind), processor(kind).tokenizer)
