"""Detectors and segmentation: a target names a box or a pixel; small random models."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from running import Run
from tasks_zoo import redraw
from torch import Tensor, nn

import attcat
from attcat.adapters import hub
from attcat.model.discovered.experiments import _middle_of_reach
from attcat.testing import check_adapter
from attcat.trace import incompleteness, past_the_blocks

NAMES = {0: "cat", 1: "dog", 2: "cow"}
VIT = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64, "patch_size": 16}


RESNET = {"embedding_size": 8, "layer_type": "basic"}


def _detr(family: str = "Detr") -> nn.Module:
    backbone = transformers.ResNetConfig(hidden_sizes=[8, 12, 16], depths=[1, 1, 1], out_features=["stage3"], **RESNET)
    sides = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = getattr(transformers, f"{family}Config")(
        d_model=24, num_queries=5, id2label=NAMES, backbone_config=backbone, use_timm_backbone=False,
        use_pretrained_backbone=False, backbone=None, encoder_ffn_dim=32, decoder_ffn_dim=32, **sides,
    )  # fmt: skip
    return _with_variances(redraw(getattr(transformers, f"{family}ForObjectDetection")(config)))


def _rt_detr(family: str = "RTDetr") -> nn.Module:
    """Whose decoder is given grids of three sizes, and looks at a few places of each."""
    backbone = transformers.RTDetrResNetConfig(
        hidden_sizes=[8, 12, 16, 20], depths=[1] * 4, out_features=["stage2", "stage3", "stage4"], **RESNET
    )
    config = getattr(transformers, f"{family}Config")(
        backbone_config=backbone, d_model=32, encoder_hidden_dim=32, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_in_channels=[12, 16, 20], decoder_in_channels=[32] * 3, encoder_attention_heads=4, decoder_layers=2,
        decoder_attention_heads=4, num_queries=5, num_denoising=0, id2label=NAMES, anchor_image_size=None,
    )  # fmt: skip
    return _with_variances(redraw(getattr(transformers, f"{family}ForObjectDetection")(config)))


def _with_variances(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            nn.init.ones_(module.running_var)
    return model


MODELS: dict[str, Any] = {
    "detr": _detr,
    "yolos": lambda: redraw(
        transformers.YolosForObjectDetection(
            transformers.YolosConfig(
                **{**VIT, "image_size": [64, 64]}, num_hidden_layers=2, num_detection_tokens=5, id2label=NAMES
            )
        )
    ),
    "conditional detr": partial(_detr, "ConditionalDetr"),
    "table transformer": partial(_detr, "TableTransformer"),
    "rt-detr": _rt_detr,
    "rt-detr v2": partial(_rt_detr, "RTDetrV2"),
    "segformer": lambda: redraw(
        transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(
                hidden_sizes=[8, 16], depths=[1, 1], num_attention_heads=[1, 2], decoder_hidden_size=16, id2label=NAMES,
                num_encoder_blocks=2, sr_ratios=[4, 2], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
            )
        )
    ),
    "beit": lambda: redraw(
        transformers.BeitForSemanticSegmentation(
            transformers.BeitConfig(
                **VIT, num_hidden_layers=4, id2label=NAMES, out_indices=[1, 2, 3, 4], pool_scales=[1, 2],
                use_auxiliary_head=False,
            )
        )
    ),
    "beit, idle end": lambda: redraw(
        transformers.BeitForSemanticSegmentation(
            transformers.BeitConfig(
                **VIT, num_hidden_layers=6, id2label=NAMES, out_indices=[1, 2, 3, 4], pool_scales=[1, 2],
                use_auxiliary_head=False,
            )
        )
    ),
}  # fmt: skip
DETECTORS, SEGMENTERS = ("detr", "yolos"), ("segformer", "beit", "beit, idle end")
OTHERS = ("conditional detr", "table transformer", "rt-detr", "rt-detr v2")


def test_blocks_behind_the_last_state_that_is_read_are_left_out() -> None:
    """BEiT's head reads what its first three blocks take and what the third returns: `out_indices` count from 1."""
    for name in ("beit", "beit, idle end"):
        assert len(explainer(name).adapter.blocks) == 3


@cache
def explainer(name: str, **options: Any) -> attcat.Explainer:
    if options:
        return attcat.Explainer(explainer(name).adapter, **options)
    return attcat.Explainer(MODELS[name](), _transform)


def _transform(picture: Any, side: int = 64) -> Tensor:
    """A square picture of any that is given: both sides are resized on their own, whatever the proportions."""
    pixels = np.asarray(picture.resize((side, side)), dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(2, 0, 1)


def noise(height: int = 48, width: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def first_block(explain: attcat.Explainer, pixels: Tensor, value: Any) -> Tensor:
    """Gradient times input of the first block, by hand; `value` makes a number of the model's output."""
    state: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> Any:
        state.append(args[0].detach().requires_grad_())
        return (state[0], *args[1:])

    handle = explain.adapter.blocks[0].register_forward_pre_hook(keep)
    try:
        output = explain.adapter.model(pixel_values=pixels)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(value(output), state[0])
    return (gradient * state[0]).sum(-1)[0].detach()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_box_is_explained_by_the_gradient_of_its_own_logit(name: str) -> None:
    explain = explainer(name, method="input_x_gradient", rule="plain")
    explanation = explain(noise(), target=("box", 3, "dog"))
    pixels = explain.adapter.encode([noise()]).arguments["pixel_values"]
    expected = first_block(explain, pixels, lambda output: output.logits[0, 3, 1])
    torch.testing.assert_close(explanation.scores, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    logits = explain.adapter.model(pixel_values=pixels).logits[0, 3]
    torch.testing.assert_close(explanation.logits, logits.detach(), rtol=1e-4, atol=1e-4)
    assert explanation.task == "object detection"
    assert explanation.labels[-1] == "no object"
    torch.testing.assert_close(explanation.probabilities, logits.detach().softmax(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_pixel_is_explained_by_the_gradient_of_its_own_logit(name: str) -> None:
    explain = explainer(name, method="input_x_gradient", rule="plain")
    pixels = explain.adapter.encode([noise()]).arguments["pixel_values"]
    logits = explain.adapter.model(pixel_values=pixels).logits[0].detach()
    assert logits.shape[1:] == (16, 16)
    # The picture is 96 x 48, so that a cell of the logits is 6 pixels wide and 3 high.
    for x, y, column, row in ((0, 0, 0, 0), (95, 47, 15, 15), (95, 0, 15, 0), (61, 7, 10, 2)):
        explanation = explain(noise(), target=("pixel", x, y))
        torch.testing.assert_close(explanation.logits, logits[:, row, column], rtol=1e-4, atol=1e-4)
        assert explanation.target == int(logits[:, row, column].argmax())
    if name == "beit":  # whose first block takes [B, T, D]
        expected = first_block(explain, pixels, lambda output: output.logits[0, 2, 2, 10])
        found = explain(noise(), target=("pixel", 61, 7, "cow")).scores
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_contrast_of_two_classes_of_a_box_is_their_difference(name: str) -> None:
    explain = explainer(name, method="input_x_gradient", rule="plain")
    cat, dog, both = explain(noise(), target=[("box", 1, "cat"), ("box", 1, "dog"), ("box", 1, ("cat", "dog"))])
    torch.testing.assert_close(
        both.scores, cat.scores - dog.scores, rtol=1e-3, atol=1e-4 * float(cat.scores.abs().max())
    )
    assert both.label.startswith("cat, box 1 from (")
    assert both.label.endswith(") rather than dog")


@pytest.mark.parametrize("name", DETECTORS)
def test_without_a_box_it_is_the_most_probable_one_and_never_no_object(name: str) -> None:
    explain = explainer(name)
    explanation = explain(noise())
    output = explain.adapter.model(**explain.adapter.encode([noise()]).arguments)
    chances = output.logits[0].softmax(-1)[:, :-1]
    box, best = divmod(int(chances.argmax()), len(NAMES))
    across, down, width, height = output.pred_boxes[0, box].tolist()
    left, right = (96 * (across + half * width) for half in (-0.5, 0.5))
    top, bottom = (48 * (down + half * height) for half in (-0.5, 0.5))
    assert explanation.label == f"{NAMES[best]}, box {box} from ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"
    for number in range(5):
        named = explain(noise(), target=("box", number))
        assert named.target == int(output.logits[0, number, :-1].argmax())


@pytest.mark.parametrize(
    ("name", "target"),
    [("yolos", ("box", 3, "cat")), ("yolos", ("box", 3, ("cat", "dog"))), ("segformer", ("pixel", 61, 7, "cow"))],
)
def test_an_explanation_knows_its_place(name: str, target: Any) -> None:
    explanation = explainer(name)(noise(), target=target)
    read = attcat.Explanation.from_json(explanation.to_json())
    assert read.again[:-1] == target[:-1]
    again = explainer(name)(noise(), target=read.again)
    assert again.label == explanation.label
    torch.testing.assert_close(again.scores, explanation.scores)


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTERS])
def test_a_batch_is_as_each_alone(name: str) -> None:
    explain = explainer(name, method="attcat")
    kind = [("box", 1, "cat"), ("box", 4)] if name in DETECTORS else [("pixel", 5, 5, "cat"), ("pixel", 90, 40)]
    pictures = [noise(), noise(seed=1)]
    together = explain(pictures, target=kind)
    for picture, target, found in zip(pictures, kind, together, strict=True):
        alone = explain(picture, target=target)
        assert alone.label == found.label
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-3, atol=1e-4 * float(alone.scores.abs().max()))


@pytest.mark.parametrize("name", [*DETECTORS, *OTHERS, *SEGMENTERS])
def test_a_painted_corner_is_seen_in_that_corner(name: str) -> None:
    explain = explainer(name, method="input_x_gradient", rule="plain")
    box = [("box", number, name) for number in range(5) for name in NAMES.values()]
    targets = [("pixel", 92, 2, "cat")] if name in SEGMENTERS else box
    plain = np.full((48, 96, 3), 127, np.uint8)
    painted = plain.copy()
    painted[:12, 72:] = (255, 0, 60)
    maps = [np.stack([one.heatmap() for one in explain(picture, target=targets)]) for picture in (plain, painted)]
    change = np.abs(maps[1] - maps[0]).mean(0)
    quarters = change.reshape(2, 24, 2, 48).sum((1, 3))
    assert quarters.argmax() == 1  # above, on the right


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTERS])
def test_promises_are_kept(name: str) -> None:
    failed = [str(check) for check in check_adapter(explainer(name).adapter) if check.passed is False]
    assert not failed


def test_yolos_reads_a_box_at_its_own_token_which_is_special() -> None:
    explain = explainer("yolos")
    explanation = explain(noise(), target=("box", 2))
    assert explanation.tokens.labels[-5:] == ("[BOX0]", "[BOX1]", "[BOX2]", "[BOX3]", "[BOX4]")
    assert explanation.special.tolist() == [True, *[False] * 16, *[True] * 5]
    head = explain.adapter.head
    encoding = head.point(explain.adapter.encode([noise()]), [("box", 2)])
    assert head.read(encoding, torch.tensor([0])).nonzero().tolist() == [[0, 19]]


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("yolos", ("box", 5), "no box 5: the model predicts 5 boxes, 0 to 4"),
        ("yolos", ("box", -1), "boxes are numbered from 0"),
        ("yolos", ("box", "cat"), "expected target=('box', 3), or with a class, target=('box', 3, 'cat')"),
        ("yolos", ("box", 1, "bird"), "no class 'bird'"),
        ("segformer", ("pixel", 96, 3), "no pixel (96, 3): the picture is 96 x 48"),
        ("segformer", ("pixel", 96), "expected target=('pixel', 120, 40)"),
        ("segformer", None, "say which one by its column and row"),
    ],
)
def test_a_place_that_is_not_there_is_refused(name: str, target: Any, message: str) -> None:
    with pytest.raises(attcat.AttCATError) as caught:
        explainer(name)(noise(), target=target)
    assert message in str(caught.value)


def test_a_pixel_that_the_processor_cuts_off_is_refused() -> None:
    def cropped(picture: Any) -> Tensor:
        return _transform(picture.crop((24, 0, 72, 48)))

    explain = attcat.Explainer(explainer("segformer").adapter.model, cropped)
    with pytest.raises(attcat.TargetError, match=r"\(3, 20\) is cut off by the processor"):
        explain(noise(), target=("pixel", 3, 20))
    logits = explain.adapter.model(**explain.adapter.encode([noise()]).arguments).logits[0]
    found = explain(noise(), target=("pixel", 70, 20))  # in the last of 48 columns
    torch.testing.assert_close(found.logits, logits[:, 6, 15].detach(), rtol=1e-4, atol=1e-4)


def test_the_best_box_stays_when_patches_are_removed() -> None:
    explain = explainer("yolos")
    ablation = attcat.metrics.Ablation(explain, [noise()])
    assert int(ablation.encodings[0].place) == int(explain(noise()).label.split("box ")[1].split()[0])


# -- on the command line ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models, and a picture."""
    folder = tmp_path_factory.mktemp("regions")
    for name in ("yolos", "segformer"):
        MODELS[name]().save_pretrained(folder / name)
        # Its name before transformers 5 was without the suffix.
        processor = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
        processor(size={"height": 64, "width": 64}).save_pretrained(folder / name)
    Image.fromarray(noise()).save(folder / "photo.png")
    return folder


@pytest.mark.parametrize(
    ("name", "written", "target"),
    [
        ("yolos", "box:3", ("box", 3)),
        ("yolos", "box:2:dog", ("box", 2, "dog")),
        ("yolos", "box:2:1", ("box", 2, 1)),
        ("segformer", "pixel:61,7", ("pixel", 61, 7)),
        ("segformer", "pixel:61,7:cow", ("pixel", 61, 7, "cow")),
    ],
)
def test_a_place_is_named_on_the_command_line(
    run: Run, folders: Path, tmp_path: Path, name: str, written: str, target: Any
) -> None:
    found = tmp_path / "found.json"
    result = run("explain", folders / "photo.png", "--model", folders / name, "--target", written, "--output", found)
    assert result.code == 0, result.err
    expected = attcat.Explainer(*hub.load(folders / name))(folders / "photo.png", target=target)
    assert expected.label in result.out
    torch.testing.assert_close(attcat.load(found).scores, expected.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("yolos", "box:5", "no box 5: the model predicts 5 boxes, 0 to 4"),
        ("yolos", "box:first", "--target box:first: expected --target box:3, or with a class, --target box:3:cat"),
        ("yolos", "box:", "expected --target box:3"),
        ("yolos", "box:1:bird", "no class 'bird'"),
        ("yolos", "pixel:3,4", "no class 'pixel:3,4'"),
        ("segformer", "pixel:61", "expected --target pixel:120,40"),
        ("segformer", "pixel:960,7", "no pixel (960, 7): the picture is 96 x 48"),
        ("segformer", None, "say which one by its column and row, --target pixel:120,40"),
    ],
)
def test_a_place_that_is_not_one_is_an_error_in_the_command_lines_words(
    run: Run, folders: Path, name: str, written: str | None, message: str
) -> None:
    given = () if written is None else ("--target", written)
    result = run("explain", folders / "photo.png", "--model", folders / name, *given)
    assert result.code == 2
    assert message in result.err


# -- where a detector's tokens lie, and what reaches its decoder ---------------------------------------------------------


@pytest.mark.parametrize("name", ["detr", "conditional detr", "table transformer"])
def test_the_encoder_is_found_though_the_convolutions_lean_to_one_side(name: str) -> None:
    # With these weights the token that changes most lies two rows from the patch that was painted.
    adapter = attcat.Explainer(MODELS[name]()).adapter
    assert len(adapter.blocks) == 2
    assert adapter.grid(224, 224) == (14, 14)


def test_what_is_reached_has_its_middle_at_the_patch_and_else_says_nothing() -> None:
    tried = [(row, column) for row in (0, 7, 13) for column in (0, 7, 13)]

    def reached(down: int = 0, step: int = 1) -> Tensor:
        found = torch.zeros(9, 14, 14, dtype=torch.bool)
        for index, (row, column) in enumerate(tried):
            rows = slice(max(0, row + down - 2), max(0, row + down + 3), step)
            found[index, rows, max(0, column - 2) : column + 3] = True
        return found

    assert _middle_of_reach(reached(), tried) == 0
    assert _middle_of_reach(reached(down=1), tried) == 1
    assert _middle_of_reach(reached(down=2), tried) == 2
    assert _middle_of_reach(reached(step=2), tried) is None  # rows in between are not reached
    assert _middle_of_reach(torch.ones(9, 14, 14, dtype=torch.bool), tried) is None


def test_several_grids_that_a_decoder_samples_are_one_block_before_they_part() -> None:
    adapter = explainer("rt-detr").adapter
    assert [type(block).__name__ for block in adapter.blocks] == ["RTDetrResNetStage"]
    assert past_the_blocks(adapter, adapter.trial) == 0
    exact = adapter.like(copy.deepcopy(adapter.model).double())
    trial = replace(adapter.trial, arguments=exact.place(adapter.trial.arguments))
    assert incompleteness(exact, trial) < 1e-4  # where places are constant
