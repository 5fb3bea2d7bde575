"""`attcat adapters` and `attcat methods`: what is available."""

from __future__ import annotations

from importlib import import_module
from itertools import groupby

from .output import print_table

METHODS = (
    ("attcat", "libra", "1 forward, 1 backward", "Qiang et al., AttCAT, NeurIPS 2022"),
    ("cat", "libra", "1 forward, 1 backward", "Qiang et al., AttCAT, NeurIPS 2022"),
    ("oddscat", "graded", "1 forward, 1 backward", "docs/method.md"),
    ("attention", "-", "1 forward", "Bahdanau et al., ICLR 2015"),
    ("rollout", "-", "1 forward", "Abnar & Zuidema, ACL 2020"),
    ("gradients", "plain", "1 forward, 1 backward", "Qiang et al., AttCAT, NeurIPS 2022"),
    ("attention_gradients", "plain", "1 forward, 1 backward", "Qiang et al., AttCAT, NeurIPS 2022"),
    ("attention_gradcam", "plain", "1 forward, 1 backward", "Chefer et al., CVPR 2021"),
    ("partial_lrp", "-", "2 forward, 1 backward", "Voita et al., ACL 2019"),
    ("lrp", "-", "2 forward, 1 backward", "Chefer et al., CVPR 2021"),
    ("transatt", "plain", "2 forward, 2 backward", "Chefer et al., CVPR 2021"),
    ("genatt", "plain", "1 forward, 1 backward", "Chefer et al., ICCV 2021"),
    ("legrad", "-", "L + 1 forward, L backward", "Bousselham et al., ICCV 2025"),
    ("tokentm", "plain", "1 forward, 1 backward", "Wu et al., CVPR 2024"),
    ("contrast_cat", "libra", "1 forward, 1 backward, 1 forward per reference", "Han et al., UAI 2025"),
    ("fullgrad_plus", "libra", "1 forward, 1 backward", "Mehri et al., LibraGrad, CVPR 2025"),
    ("input_x_gradient", "plain", "1 forward, 1 backward", "Shrikumar et al. 2016"),
    ("attnlrp", "attnlrp", "1 forward, 1 backward", "Achtibat et al., ICML 2024"),
    ("gim", "gim", "1 forward, 1 backward", "Edin et al., GIM, 2025"),
    ("reslrp", "reslrp", "1 forward, 1 backward", "AttnLRP with a gamma rule at residuals"),
    ("integrated_gradients", "-", "steps forward and backward", "Sundararajan et al., ICML 2017"),
    ("smoothgrad", "-", "samples forward and backward", "Smilkov et al., SmoothGrad, 2017"),
    ("occlusion", "-", "T forward", "Zeiler & Fergus, ECCV 2014"),
    ("rise", "-", "samples forward", "Petsiuk et al., RISE, BMVC 2018"),
    ("kernel_shap", "-", "samples forward", "Lundberg & Lee, NeurIPS 2017"),
    ("tam", "-", "2 forward", "Li et al., Token Activation Map, ICCV 2025"),
    ("random", "-", "1 forward", ""),
)
"""`attcat.METHODS` as a table, so that the list needs no torch; a test compares the two."""


def adapters() -> None:
    """List the supported families: name, model classes, adapter."""
    from ..model import supported_models

    rows = [
        (_family(source), "\n".join(name for name, _ in group), source.partition(":")[0])
        for source, group in groupby(
            sorted(supported_models().items(), key=lambda item: item[1]), key=lambda item: item[1]
        )
    ]
    print_table(("family", "model classes", "adapter"), rows)


def methods() -> None:
    """List the attribution methods: name, gradient rule, cost, paper."""
    print_table(("method", "rule", "passes", "paper"), METHODS)


def _family(source: str) -> str:
    """The name of an adapter's family; an adapter from elsewhere may fail in any way when it is imported."""
    module, _, name = source.partition(":")
    try:
        return str(getattr(import_module(module), name).family)
    except Exception as error:
        return f"(cannot be imported: {' '.join(str(error).split())})"
