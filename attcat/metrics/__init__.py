"""Is an explanation faithful? Metrics that take scores from anywhere: our own, another library's, a file.

    ablation = Ablation(explainer, texts, how="pad")
    scores = explainer(texts)                     # or one array per text, from elsewhere
    evaluate(ablation, scores, ["aopc", "abpc"])  # {"aopc": one value per text, ...}

`METRICS` lists the metrics of the command `attcat evaluate`, and what each needs; `register_metric` adds one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..errors import InputError, OptionError
from .ablation import Ablation, Scores, content_scores
from .agreement import kendall_tau, kendall_tau_of_argsort, larger_share_falls_more, other_picture
from .bounds import aopc_bounds, naopc, saco
from .localisation import grid_pointing, points_at, relevance_in_boxes
from .perturbation import (
    BINS,
    KEPT,
    STEPS,
    TENTHS,
    Curve,
    Curves,
    abpc,
    aopc,
    comprehensiveness,
    deletion,
    insertion,
    lodds,
    negative_perturbation,
    perturbation_curves,
    positive_perturbation,
    sufficiency,
)
from .plausibility import auprc, gold_tokens, iou_f1, precision_at_k, recall_at_k, token_f1
from .published import aopc_published, lodds_published, published_curve

__all__ = [
    "METRICS",
    "Ablation",
    "Curve",
    "Curves",
    "Metric",
    "aopc_bounds",
    "content_scores",
    "evaluate",
    "find_metric",
    "gold_tokens",
    "perturbation_curves",
    "published_curve",
    "register_metric",
]

Reads = Literal["curves", "published", "passes", "two classes", "spans", "mosaics", "boxes", "other picture", "shares"]


@dataclass(frozen=True)
class Metric:
    """A metric, and what is needed to compute it and to read it.

    Args:
        name: what users type.
        function: from what it reads to one value per example.
        reads: `curves` (MoRF and LeRF), `published` (the authors' curve, with gold labels), `passes` (the model again, with
            the scores), `two classes` (the explanations of two classes), `spans` (scores and gold tokens), `mosaics`,
            `boxes` (the explanation of a picture, and where its evidence lies), `other picture` (the scores of a picture's
            patches and those of another one's, under the same question), `shares` (of the picture and of the question: their
            shares, and how far the log-odds fall without them).
        paper: where it is defined.
        better: `higher` or `lower`.
        fractions: the shares at which it reads the curves.
        side: pictures in a row of its mosaics.
        classes_only: whether it is defined only for classes, not for a measured value (regression): log-odds, accuracy,
            gold labels.
    """

    name: str
    function: Callable[..., object]
    reads: Reads
    paper: str
    better: Literal["higher", "lower"] = "higher"
    fractions: tuple[float, ...] = ()
    side: int = 0
    classes_only: bool = False

    def __post_init__(self) -> None:
        if not self.name or self.reads not in get_args(Reads) or self.better not in ("higher", "lower"):
            raise OptionError(
                f"metric {self.name!r} reads {self.reads!r}, {self.better!r} is better: expected a name, one of "
                f"{', '.join(get_args(Reads))}, and higher or lower"
            )
        if self.reads == "curves" and not self.fractions:
            raise OptionError(f"metric {self.name!r} reads curves: say at which shares, as fractions=(0.1, 0.5)")


_ERASER = "DeYoung et al., ERASER, ACL 2020"
_RISE = "Petsiuk et al., RISE, BMVC 2018"
_CHEFER = "Chefer et al., CVPR 2021"
_QIANG = "Qiang et al., AttCAT, NeurIPS 2022"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("aopc", aopc, "curves", "Samek et al. 2017", fractions=TENTHS),
        Metric("lodds", lodds, "curves", "Shrikumar et al. 2017", "lower", TENTHS, classes_only=True),
        Metric("aopc_published", aopc_published, "published", _QIANG, classes_only=True),
        Metric("lodds_published", lodds_published, "published", _QIANG, "lower", classes_only=True),
        Metric("comprehensiveness", comprehensiveness, "curves", _ERASER, fractions=BINS),
        Metric("sufficiency", sufficiency, "curves", _ERASER, "lower", KEPT),
        Metric("deletion", deletion, "curves", _RISE, "lower", STEPS),
        Metric("insertion", insertion, "curves", _RISE, fractions=STEPS),
        Metric("positive_perturbation", positive_perturbation, "curves", _CHEFER, "lower", TENTHS, classes_only=True),
        Metric("negative_perturbation", negative_perturbation, "curves", _CHEFER, fractions=TENTHS, classes_only=True),
        Metric("abpc", abpc, "curves", "Schulz et al., ICLR 2020", fractions=TENTHS),
        Metric("naopc", naopc, "passes", "Edin et al., arXiv 2408.08137"),
        Metric("saco", saco, "passes", "Wu et al., CVPR 2024"),
        Metric("kendall_tau", kendall_tau, "two classes", "Adebayo et al., NeurIPS 2018", "lower", classes_only=True),
        Metric("kendall_tau_of_argsort", kendall_tau_of_argsort, "two classes", _QIANG, "lower", classes_only=True),
        Metric("precision_at_k", precision_at_k, "spans", _QIANG),
        Metric("recall_at_k", recall_at_k, "spans", _QIANG),
        Metric("token_f1", token_f1, "spans", _ERASER),
        Metric("iou_f1", iou_f1, "spans", _ERASER),
        Metric("auprc", auprc, "spans", _ERASER),
        Metric("relevance_in_boxes", relevance_in_boxes, "boxes", "Boehle et al., CVPR 2021"),
        Metric("points_at", points_at, "boxes", "Zhang et al., ECCV 2016"),
        Metric("other_picture", other_picture, "other picture", "after Adebayo et al., NeurIPS 2018", "lower"),
        Metric("larger_share_falls_more", larger_share_falls_more, "shares", "docs/metrics.md", classes_only=True),
        Metric("grid_2x2", grid_pointing, "mosaics", "Boehle et al., CVPR 2021", side=2, classes_only=True),
        Metric("grid_3x3", grid_pointing, "mosaics", "Boehle et al., CVPR 2021", side=3, classes_only=True),
    )
}


def find_metric(name: str) -> Metric:
    """A metric by its name.

    Raises:
        OptionError: if there is no such metric.
    """
    if name not in METRICS:
        raise OptionError(f"no metric {name!r}: use one of {', '.join(METRICS)}")
    return METRICS[name]


def register_metric(metric: Metric) -> Metric:
    """Add your own metric, to be used by name like the built-in ones, also by `attcat evaluate`.

    Raises:
        OptionError: if a built-in or registered metric has this name.
    """
    if METRICS.get(metric.name, metric) != metric:
        raise OptionError(
            f"there is already a metric {metric.name!r}: choose another name; taken are {', '.join(METRICS)}"
        )
    METRICS[metric.name] = metric
    return metric


def for_values(metrics: Sequence[Metric]) -> None:
    """Refuse metrics that are defined only for classes, when the model measures a value.

    Raises:
        OptionError: if there is such a metric.
    """
    refused = [metric.name for metric in metrics if metric.classes_only]
    if refused:
        others = [m.name for m in METRICS.values() if m.reads in ("curves", "passes") and not m.classes_only]
        raise OptionError(
            f"{', '.join(refused)}: not defined for a measured value (regression), which is not a class and has no "
            f"probability; use {', '.join(others)}"
        )


def evaluate(
    ablation: Ablation,
    scores: Sequence[Scores],
    metrics: Sequence[str] = ("aopc", "lodds", "comprehensiveness", "abpc"),
    *,
    classes: Tensor | Sequence[int] | None = None,
    labels: Tensor | Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """The metrics that need the model and the scores: those that read `curves`, `passes` or `published`.

    Args:
        ablation: the inputs, and how tokens are removed.
        scores: one entry per input, from here or elsewhere, see `content_scores`.
        metrics: names.
        classes: the class that the scores explain, `[N]`; by default the predicted one.
        labels: gold labels, which the published metrics watch.

    Returns:
        float64 `[N]` per metric.

    Raises:
        OptionError: if there is no such metric, it needs something else, or is not defined for a measured value.
        InputError: if scores, classes or labels do not fit, or labels are missing.
    """
    wanted = [find_metric(name) for name in metrics]
    others = [metric.name for metric in wanted if metric.reads not in ("curves", "passes", "published")]
    if others:
        raise OptionError(
            f"{', '.join(others)}: call the function itself, it needs more than one explanation per input"
        )
    if ablation.activation == "none":
        for_values(wanted)
    found: dict[str, Tensor] = {}
    shares = {share for metric in wanted for share in metric.fractions}
    curves = perturbation_curves(ablation, scores, classes, shares) if shares else None
    published = None
    if any(metric.reads == "published" for metric in wanted):
        if labels is None:
            raise InputError("the published metrics watch the gold label: give labels=")
        published = published_curve(ablation, scores, labels)
    given = {"curves": (curves,), "published": (published,), "passes": (ablation, scores, classes)}
    for metric in wanted:
        found[metric.name] = metric.function(*given[metric.reads])  # type: ignore[assignment]
    return found
