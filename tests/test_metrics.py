"""Every metric against values worked out by hand, a slow second version, and its direction."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import FAMILIES, TEXT, VISION

import attcat
from attcat.errors import InputError, OptionError, UnsupportedModelError
from attcat.metrics import METRICS, Ablation, Curve, Curves, evaluate, published_curve
from attcat.metrics.agreement import kendall_tau, kendall_tau_of_argsort, rank_correlation, shares_and_falls
from attcat.metrics.bounds import aopc_bounds, naopc, saco, saco_coefficient
from attcat.metrics.perturbation import STEPS, perturbation_curves, removal_count
from attcat.metrics.published import aopc_published, lodds_published

TOKENS = 12


class Reader(nn.Module):
    """A model that reads one token: class 1 if number 7 is among `input_ids`, by ten logits; otherwise class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])
        self.calls: list[tuple[int, int]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.calls.append(tuple(input_ids.shape))
        seen = ((input_ids == 7) & attention_mask.bool()).any(-1).float()
        return torch.stack([5 - 10 * seen, 10 * seen - 5], dim=-1)


@attcat.register("test_metrics.Reader")
class ReaderAdapter(attcat.TextAdapter):
    family = "Reader"
    block_paths = ("blocks",)
    pad_token = 0  # type: ignore[assignment]
    blank_token = 1  # type: ignore[assignment]


def reader(positions: list[int], length: int = TOKENS, how: str = "mask") -> Ablation:
    """Inputs in which the decisive token is at these places; every token is content."""
    rows = []
    for position in positions:
        ids = torch.arange(20, 20 + length)
        ids[position] = 7
        rows.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return Ablation(ReaderAdapter(Reader()), rows, how)


def pointing(positions: list[int], sign: float = 1.0, length: int = TOKENS) -> list[Tensor]:
    """Scores that rank the decisive token first (or, with sign -1, last)."""
    return [sign * (torch.arange(length) == position).double() for position in positions]


def chance(positions: list[int], length: int = TOKENS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(length, generator=generator) for _ in positions]


PLACES = [0, 3, 5, 8, 11]


@pytest.mark.parametrize(
    "name", [name for name, metric in METRICS.items() if metric.reads in ("curves", "passes", "published")]
)
def test_direction(name: str) -> None:
    """A perfect explanation is best, its reversal worst, chance in between."""
    ablation = reader(PLACES)
    labels = torch.ones(len(PLACES), dtype=torch.long)

    def value(scores: list[Tensor]) -> float:
        return float(evaluate(ablation, scores, [name], labels=labels)[name].mean())

    sign = 1 if METRICS[name].better == "higher" else -1
    best, middle, worst = (sign * value(scores) for scores in (pointing(PLACES), chance(PLACES), pointing(PLACES, -1)))
    assert best > middle + 0.02 > worst + 0.04


def curves_by_hand() -> Curves:
    """One example: MoRF falls from 0.8 to 0.4 at 30 %, LeRF from 0.8 to 0.6 at 90 %, both to 0.2 at 100 %."""
    shares = tuple(sorted({*STEPS, *METRICS["comprehensiveness"].fractions, *METRICS["sufficiency"].fractions}))
    morf = torch.tensor([[0.2 if s == 1 else 0.8 if s < 0.3 else 0.4 for s in shares]], dtype=torch.float64)
    lerf = torch.tensor([[0.2 if s == 1 else 0.8 if s < 0.9 else 0.6 for s in shares]], dtype=torch.float64)
    return Curves(shares, torch.tensor([0]), Curve(morf.log(), morf > 0.5), Curve(lerf.log(), lerf > 0.5), "mask")


BY_HAND = {
    "aopc": 7 * 0.4 / 9,
    "lodds": 7 * math.log(0.5) / 9,
    "comprehensiveness": 0.4 / 5,  # of 1, 5, 10, 20, 50 % only the last
    "sufficiency": (0.8 - 0.6) * 3 / 5,  # 99, 95 and 90 % removed
    "deletion": 0.1 * (0.8 / 2 + 0.8 * 2 + 0.4 * 7 + 0.2 / 2),
    "insertion": 0.1 * (0.8 / 2 + 0.8 * 8 + 0.6 + 0.2 / 2),
    "positive_perturbation": (0.1 + 0.05) / 0.8,
    "negative_perturbation": 1.0,
    "abpc": (6 * 0.4 + 0.2) / 9,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_curve_metrics_by_hand(name: str) -> None:
    (value,) = METRICS[name].function(curves_by_hand()).tolist()
    assert value == pytest.approx(BY_HAND[name], abs=1e-12)


def test_every_curve_metric_is_worked_out() -> None:
    assert set(BY_HAND) == {name for name, metric in METRICS.items() if metric.reads == "curves"}


def test_how_many_tokens_a_share_is() -> None:
    assert [removal_count(share, 20) for share in (0, 0.01, 0.1, 0.5, 0.99, 1)] == [0, 1, 2, 10, 19, 20]
    assert [removal_count(share, 5) for share in (0.1, 0.3, 0.5, 0.9)] == [1, 2, 3, 4]
    assert [removal_count(share, 1) for share in (0, 0.1, 0.9, 1)] == [0, 1, 1, 1]


@pytest.mark.parametrize("how", ["mask", "pad", "delete"])
def test_curves_are_what_single_runs_say(how: str) -> None:
    """Against one forward pass per copy, without batches, for texts of unlike length."""
    family = FAMILIES["bert"]
    model = family.model()
    explainer = attcat.Explainer(model, None)
    rows = [family.row(family.arguments(2), row) for row in range(2)]
    ablation = Ablation(explainer, rows, how)
    scores = [torch.randn(9, generator=torch.Generator().manual_seed(3)), torch.randn(7)]
    curves = perturbation_curves(ablation, scores, [2, 1])
    for row, (arguments, values) in enumerate(zip(rows, scores, strict=True)):
        order = sorted(range(len(values)), key=lambda i: -float(values[i]))
        for ranked, curve in ((order, curves.morf), (order[::-1], curves.lerf)):
            for column, share in enumerate(curves.fractions):
                gone = ranked[: removal_count(share, len(order))]
                ids = [int(i) for i in arguments["input_ids"][0]]
                if how == "delete":
                    ids = [i for place, i in enumerate(ids) if place not in gone] or [1]
                else:
                    ids = [{"mask": 1, "pad": 0}[how] if place in gone else i for place, i in enumerate(ids)]
                with torch.no_grad():
                    logits = model(torch.tensor([ids]), torch.ones(1, len(ids))).logits[0].double()
                expected = logits.log_softmax(-1)[[2, 1][row]]
                assert curve.log_probability[row, column] == pytest.approx(float(expected), abs=2e-5)
                assert bool(curve.kept[row, column]) == (int(logits.argmax()) == [2, 1][row])


def test_special_tokens_stay() -> None:
    from tokenizers_small import wordpiece

    explainer = attcat.Explainer(FAMILIES["bert"].model(), wordpiece())
    ablation = Ablation(explainer, ["a gripping film", "the film"])
    seen: list[Tensor] = []
    forward = explainer.adapter.model.forward
    explainer.adapter.model.forward = lambda **given: (seen.append(given["input_ids"]), forward(**given))[1]  # type: ignore[method-assign]
    perturbation_curves(ablation, [torch.ones(4), torch.ones(2)])  # content tokens only
    assert all(row[0] == 2 and 3 in row for ids in seen for row in ids.tolist())
    with pytest.raises(InputError, match="6 tokens, of which 4 are not special, but scores of shape \\(5,\\)"):
        perturbation_curves(ablation, [torch.ones(5), torch.ones(2)])
    with pytest.raises(InputError, match="1 lists of scores for 2 inputs"):
        perturbation_curves(ablation, [torch.ones(4)])
    with pytest.raises(InputError, match="not all finite"):
        perturbation_curves(ablation, [torch.full((4,), torch.nan), torch.ones(2)])
    with pytest.raises(InputError, match="expected one of 0 to 2"):
        perturbation_curves(ablation, [torch.ones(4), torch.ones(2)], [0, 3])
    with pytest.raises(OptionError, match=r"no removal 'blur'.*mask, pad, delete"):
        Ablation(explainer, ["a film"], "blur")


def test_scores_from_elsewhere_are_taken_in_any_form() -> None:
    ablation = reader([3, 5])
    forms: list[Any] = [np.arange(12.0), list(range(12)), torch.arange(12.0)]
    first = [perturbation_curves(ablation, [form, form]).morf.level for form in forms]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])


def test_equal_copies_are_run_once() -> None:
    ablation = reader([3])
    perturbation_curves(ablation, pointing([3]))
    passes = ablation.passes
    perturbation_curves(ablation, pointing([3]))
    assert ablation.passes == passes <= 2 * TOKENS


def test_copies_share_passes_within_the_budget() -> None:
    ablation = reader([3] * 6)
    ablation.budget = 60
    perturbation_curves(ablation, chance([3] * 6))
    calls = ablation.adapter.model.calls
    assert max(rows for rows, _ in calls) > 1 or not ablation.adapter.can_batch
    assert all(rows * length <= 60 for rows, length in calls)


# -- how tokens are removed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("how", ["mask", "pad", "delete"])
def test_texts_are_perturbed_alike_alone_and_in_a_batch(name: str, how: str) -> None:
    family = FAMILIES[name]
    adapter = attcat.Explainer(family.model(), None).adapter
    batch = adapter.encode_arguments(family.arguments(2))
    removed = torch.zeros_like(batch.mask)
    removed[0, 2:4], removed[1, 1] = True, True
    together = adapter.predict(adapter.remove(batch, removed, how))[1]
    for row in range(2):
        one = batch.rows([row])
        alone = adapter.predict(adapter.remove(one, removed[row : row + 1, : one.mask.shape[1]], how))[1]
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    found = adapter.remove(batch, removed, how)
    expected = [7, 6] if how == "delete" else [9, 7]
    assert found.mask.sum(-1).tolist() == [len(tokens) for tokens in found.tokens] == expected


def test_padding_that_would_move_the_head_is_refused() -> None:
    family = FAMILIES["gpt2"]
    adapter = attcat.Explainer(family.model(), None).adapter
    batch = adapter.encode_arguments(family.arguments(1))
    with pytest.raises(OptionError, match="reads the last token that is not padding"):
        adapter.remove(batch, batch.mask, "pad")


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("how", ["zero", "mean", "blur"])
def test_only_removed_patches_change(name: str, how: str) -> None:
    family = FAMILIES[name]
    adapter = attcat.Explainer(family.model(), None).adapter
    batch = adapter.encode_arguments(family.arguments(2))
    removed = torch.zeros_like(batch.mask)
    removed[0, family.prefix], removed[1, -1] = True, True  # the first patch, the last patch
    before = batch.arguments["pixel_values"]
    changed = (adapter.remove(batch, removed, how).arguments["pixel_values"] != before).any(1)
    height, width = adapter.patch_size
    assert changed[0, :height, :width].all()
    assert changed[0].sum() == changed[1].sum() == height * width
    assert changed[1, -height:, -width:].all()
    found = adapter.remove(batch, removed, how).arguments["pixel_values"][0, :, :height, :width]
    if how == "zero":
        assert not found.any()
    elif how == "mean":
        torch.testing.assert_close(found, before[0].mean((1, 2))[:, None, None].expand_as(found))
    else:
        assert 0 < found.std() < before[0].std()


@pytest.mark.parametrize(
    "name", ["vit", "deit-teacher", "dinov2-registers", "timm-vit", "timm-vit-avg", "timm-dinov2-reg4"]
)
def test_dropped_patches_are_not_seen(name: str) -> None:
    """What a dropped patch shows makes no difference, and the model has no hooks left."""
    family = FAMILIES[name]
    adapter = attcat.Explainer(family.model(), None).adapter
    pixels = family.arguments(1)["pixel_values"]
    other = pixels.clone()
    other[:, :, :8, :8] += 3  # the first patch
    removed = torch.zeros(len(adapter.encode_arguments({"pixel_values": pixels}).tokens[0]), dtype=torch.bool)
    seen = [Ablation(adapter, [{"pixel_values": p}], "drop") for p in (pixels, other)]
    assert not torch.allclose(seen[0].intact, seen[1].intact)
    removed[family.prefix] = True
    torch.testing.assert_close(seen[0].logits([(0, removed)]), seen[1].logits([(0, removed)]))
    assert not torch.allclose(seen[0].logits([(0, removed)]), seen[0].intact)
    assert not any(module._forward_pre_hooks for module in adapter.model.modules())
    removed[family.prefix :] = True  # all of them, over which some heads take the mean
    assert seen[0].logits([(0, removed)]).isfinite().all()


def test_a_model_that_cannot_drop_says_so() -> None:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4
    ).eval()
    adapter = attcat.Explainer(model).adapter
    ablation = Ablation(adapter, [{"pixel_values": torch.randn(3, 32, 32)}], "drop")
    model.blocks[1].register_forward_pre_hook(lambda module, args: args[0] + torch.zeros(1, 17, 1))  # positions
    removed = torch.tensor([False] * 16 + [True])
    with pytest.raises(UnsupportedModelError, match=r"cannot run without some of its tokens.*zero, mean, blur"):
        ablation.logits([(0, removed)])


def test_the_model_is_left_as_it_was() -> None:
    family = FAMILIES["bert"]
    model = family.model().train()
    ablation = Ablation(attcat.Explainer(model, None), [family.row(family.arguments(1), 0)])
    state = torch.get_rng_state()
    first = ablation.intact
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    again = Ablation(attcat.Explainer(model, None), [family.row(family.arguments(1), 0)]).intact
    assert torch.equal(first, again)  # dropout is off


# -- published forms ---------------------------------------------------------------------------------------------------


def test_published_forms_by_hand() -> None:
    """Eighteen tokens, two of them special: ninths of eighteen are 2, 4, ... 18 content tokens, and never the last ranked."""
    tokens = attcat.Tokens(tuple("tokens" * 3), (True, *[False] * 16, True))
    asked: list[int] = []

    class Fake(Ablation):
        def __init__(self) -> None:
            self.tokens, self.content = (tokens,), (~torch.tensor(tokens.special),)

        def logits(self, jobs: Any) -> Tensor:
            asked[:] = [int(removed.sum()) for _, removed in jobs]
            p = torch.tensor([0.75 if count < 6 else 0.25 if count < 12 else 0.9 for count in asked])
            return torch.stack([(1 - p).log(), p.log()], -1)

        intact = property(lambda self: torch.zeros(1, 2))  # type: ignore[assignment]
        activation = property(lambda self: "softmax")  # type: ignore[assignment]

    ablation = Fake()
    scores = torch.arange(18.0).flip(0)  # the last special token ranks last, so that all content goes
    curve = published_curve(ablation, [scores], [1])
    assert asked == [0, 2, 4, 6, 8, 10, 12, 14, 16, 16]
    assert float(aopc_published(curve)) == pytest.approx((0 + 0 + 3 * 0.5 + 4 * 0.15) / 9, abs=1e-6)
    assert float(lodds_published(curve)) == pytest.approx((3 * math.log(1 / 3) + 4 * math.log(1.2)) / 9, abs=1e-6)
    published_curve(ablation, [-scores], [1])  # the last content token ranks before the first special one
    assert asked[-1] == 16
    last = scores.clone()
    last[5] = -1.0
    published_curve(ablation, [last], [1])
    assert asked[-1] == 15


def test_published_forms_leave_out_short_texts_and_watch_the_label() -> None:
    ablation = reader([3], length=9)
    assert torch.isnan(aopc_published(published_curve(ablation, pointing([3], length=9), [1]))).all()
    ablation = reader([3])
    right, wrong = (aopc_published(published_curve(ablation, pointing([3]), [label])) for label in (1, 0))
    torch.testing.assert_close(right, wrong)  # absolute: a probability that rises counts as well
    with pytest.raises(InputError, match="gold label: give labels="):
        evaluate(ablation, pointing([3]), ["aopc_published"])


# -- bounds and coefficients ---------------------------------------------------------------------------------------------


def test_bounds_are_those_of_all_orders() -> None:
    family = FAMILIES["bert"]
    arguments = {name: value[:, :5] for name, value in family.row(family.arguments(1), 0).items()}
    ablation = Ablation(attcat.Explainer(family.model(), None), [arguments])
    classes = ablation.predicted

    def one(order: tuple[int, ...]) -> float:
        jobs = []
        for count in range(6):
            removed = torch.zeros(5, dtype=torch.bool)
            removed[list(order[:count])] = True
            jobs.append((0, removed))
        p = ablation.log_probabilities(jobs, classes.repeat(6)).exp()
        return float((p[0] - p[1:]).mean())

    every = {order: one(order) for order in permutations(range(5))}
    lower, upper = aopc_bounds(ablation, classes, width=120)
    assert float(lower) == pytest.approx(min(every.values()), abs=1e-9)
    assert float(upper) == pytest.approx(max(every.values()), abs=1e-9)
    best = max(every, key=lambda order: every[order])
    scores = torch.zeros(5)
    scores[list(best)] = torch.arange(5.0, 0, -1)
    assert float(naopc(ablation, [scores], width=120)) == pytest.approx(1.0)
    assert float(naopc(ablation, [scores.argsort().double()], width=120)) <= 1.0
    with pytest.raises(InputError, match="100 content tokens"):
        aopc_bounds(reader([3], length=100), torch.tensor([1]))


def test_saco_by_hand() -> None:
    """Salience 3, 2, 0: pairs 3-2 (gap 1), 3-0 (gap 3), 2-0 (gap 2); the second falls furthest, so 3-2 counts against."""
    value = saco_coefficient(torch.tensor([3.0, 2.0, 0.0]), torch.tensor([0.3, 0.4, 0.1]))
    assert float(value) == pytest.approx((-1 + 3 + 2) / 6)
    assert torch.isnan(saco_coefficient(torch.ones(3), torch.rand(3)))
    assert float(saco(reader([3]), pointing([3]), groups=12)) == 1.0


# -- agreement -----------------------------------------------------------------------------------------------------------


def test_argsort_indices_cannot_see_a_reversal() -> None:
    """The reversed explanation is in perfect disagreement; the published statistic calls it agreement."""
    scores = np.array([0.0, 4.0, 1.0, 3.0, 2.0])
    assert float(kendall_tau([scores], [scores])) == pytest.approx(1.0)
    assert float(kendall_tau_of_argsort([scores], [scores])) == pytest.approx(1.0)
    assert float(kendall_tau([scores], [-scores])) == pytest.approx(-1.0)
    # Indices 1 3 4 2 0 against 0 2 4 3 1: of ten pairs eight are in the same order.
    assert float(kendall_tau_of_argsort([scores], [-scores])) == pytest.approx((8 - 2) / 10)
    with pytest.raises(InputError, match="same number"):
        kendall_tau([scores], [scores[:3]])


def test_tau_by_hand() -> None:
    """Of six pairs one is in the other order: (5 - 1) / 6."""
    assert float(kendall_tau([[1, 2, 3, 4]], [[1, 2, 4, 3]])) == pytest.approx(4 / 6)


def test_rank_correlation_by_hand() -> None:
    """Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15); a scaled map is the same, a constant one has no order."""
    found = rank_correlation(
        [[1, 2, 3, 4], [0, 1, 5], [1, 2, 3], [1, 1, 1]], [[1, 2, 9, 3], [0, 2, 10], [3, 2, 1], [1, 2, 3]]
    )
    assert found[:3].tolist() == pytest.approx([1 - 12 / 60, 1, -1])
    assert found[3].isnan()
    with pytest.raises(InputError, match="same number"):
        rank_correlation([[1, 2]], [[1, 2, 3]])


def test_shares_and_falls_by_hand() -> None:
    assert shares_and_falls([0.1, 0.5, 0.9], [0.0, 2.0, 3.0]) == pytest.approx(1)
    assert shares_and_falls([0.1, 0.5, 0.9, 0.95], [0.0, 2.0, 4.0, 3.0]) == pytest.approx(1 - 12 / 60)
    assert math.isnan(shares_and_falls([0.5, 0.5, 0.5], [0.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="at least two"):
        shares_and_falls([0.5], [1.0])


def test_unknown_metrics_and_those_of_another_kind() -> None:
    with pytest.raises(OptionError, match="no metric 'aop': use one of aopc"):
        evaluate(reader([3]), pointing([3]), ["aop"])
    with pytest.raises(OptionError, match="kendall_tau: call the function itself"):
        evaluate(reader([3]), pointing([3]), ["kendall_tau"])


def test_every_metric_is_in_the_docs() -> None:
    told = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for metric in METRICS.values():
        row = next(line for line in told.splitlines() if line.startswith("|") and f"`{metric.name}`" in line)
        assert f"| {metric.better} |" in row or metric.name == "grid_3x3"
