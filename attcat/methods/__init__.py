"""Attribution methods: pure functions from a `Trace` to contributions `[L, B, T]`.

A method is a few lines under its formula. Its `Method` entry says what it needs from the forward and backward pass; nothing
else is computed. Methods without contributions per block return one layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import OptionError
from ..probabilities import Quantity as Quantity
from ..trace import Needs
from .attention import (
    attention,
    attention_gradcam,
    attention_gradients,
    genatt,
    gradients,
    legrad,
    partial_lrp,
    rolled_relevance,
    rollout,
    tokentm,
)
from .cat import attcat, cat, fullgrad_plus
from .contrast import contrast_cat
from .odds import oddscat
from .propagation import input_x_gradient, integrated_gradients, lrp, random, smoothgrad
from .removal import kernel_shap, occlusion, rise
from .tam import tam

Function = Callable[..., Tensor]
"""`(trace, **options)`, or `(trace, passes, **options)` if it runs the model again, to float32 `[L, B, T]`."""


@dataclass(frozen=True)
class Method:
    """A method, and what is needed to run it and compare it.

    Args:
        name: what users type.
        function: from a Trace to contributions, float32 `[L, B, T]`.
        paper: where it is defined.
        needs: what it reads from the Trace.
        rule: the gradient rule that is used when the user names none; None if gradients play no part.
        backwards: options of that rule where tokens see only those before them, if the user names none.
        quantity: what is explained of a class when the user does not say: the logit in everything that was published.
        fixed: whether the rule belongs to the method and cannot be chosen.
        states: whether it reads hidden states of every block, so that the option `hidden` applies.
        signed: whether scores can be negative.
        class_specific: whether the scores depend on the target.
        passes: how many forward (and backward) passes it takes, in words.
        required: its own options that have to be given.
        silent: options of its own that an Explanation records only where they are not the default.
        further: its option that says how many further passes it makes, if there can be none; without them it explains what
            any method of one pass does.
    """

    name: str
    function: Function
    paper: str
    needs: Needs = field(default_factory=Needs)
    rule: str | None = "plain"
    backwards: Mapping[str, float] = field(default_factory=dict)
    quantity: Quantity = "logit"
    fixed: bool = False
    states: bool = False
    signed: bool = True
    class_specific: bool = True
    passes: str = "1 forward, 1 backward"
    required: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    further: str | None = None

    @property
    def demands(self) -> str:
        """What it requires, in words: gradient, attention, relevance, several passes, options."""
        wanted = {
            "gradient": self.needs.gradient or ("backward" in self.passes and not self.needs.relevance),
            "received attention": self.needs.received,
            "full attention": self.needs.attention,
            "biases": self.needs.biases,
            "relevance": self.needs.relevance,
            "several passes": self.passes not in ("1 forward", "1 forward, 1 backward"),
            **dict.fromkeys(self.required, True),
        }
        return ", ".join(name for name, needed in wanted.items() if needed) or "nothing"

    @cached_property
    def several(self) -> bool:
        """Whether the function runs the model again (its second parameter is `passes`)."""
        return "passes" in inspect.signature(self.function).parameters

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The method's own options and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def with_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The method's own options, updated with what the user gave.

        Raises:
            OptionError: if there is no such option.
        """
        unknown = set(given) - set(self.defaults)
        if unknown:
            known = f"it has {', '.join(self.defaults)}" if self.defaults else "it has no options of its own"
            raise OptionError(f"{self.name} has no option {', '.join(sorted(unknown))}; {known}")
        return {**self.defaults, **given}


_QIANG = "Qiang et al., AttCAT, NeurIPS 2022"
_MATRIX = Needs(attention=True)
_PASSIVE = Needs(gradient=False, attention=True)
_NOTHING = Needs(gradient=False)
_TWICE = "2 forward, 1 backward"
_NO_GRADIENT: dict[str, Any] = {"rule": None, "class_specific": False, "passes": "1 forward"}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("attcat", attcat, _QIANG, Needs(received=True), rule="libra", states=True),
        Method("cat", cat, _QIANG, rule="libra", states=True),
        Method(
            "oddscat",
            oddscat,
            "docs/method.md",
            Needs(order=True),
            rule="graded",
            backwards={"beta": 0.25},
            quantity="log-odds",
            states=True,
            silent=("samples", "copies", "removal", "seed", "blocks"),
            further="samples",
        ),
        Method("attention", attention, "Bahdanau et al., ICLR 2015", _PASSIVE, signed=False, **_NO_GRADIENT),
        Method("rollout", rollout, "Abnar & Zuidema, ACL 2020", _PASSIVE, signed=False, **_NO_GRADIENT),
        Method("gradients", gradients, _QIANG, _MATRIX),
        Method("attention_gradients", attention_gradients, _QIANG, _MATRIX),
        Method("attention_gradcam", attention_gradcam, "Chefer et al., CVPR 2021", _MATRIX, signed=False),
        Method(
            "partial_lrp",
            partial_lrp,
            "Voita et al., ACL 2019",
            Needs(gradient=False, relevance=True),
            rule=None,
            signed=False,
            passes=_TWICE,
        ),
        Method("lrp", lrp, "Chefer et al., CVPR 2021", Needs(gradient=False, relevance=True), rule=None, passes=_TWICE),
        Method(
            "transatt",
            rolled_relevance,
            "Chefer et al., CVPR 2021",
            Needs(attention=True, relevance=True),
            signed=False,
            passes="2 forward, 2 backward",
        ),
        Method("genatt", genatt, "Chefer et al., ICCV 2021", _MATRIX, signed=False),
        Method(
            "legrad",
            legrad,
            "Bousselham et al., ICCV 2025",
            _NOTHING,
            signed=False,
            rule=None,
            passes="L + 1 forward, L backward",
        ),
        Method("tokentm", tokentm, "Wu et al., CVPR 2024", _MATRIX, signed=False),
        Method(
            "contrast_cat",
            contrast_cat,
            "Han et al., UAI 2025",
            Needs(received=True),
            rule="libra",
            passes="1 forward, 1 backward, 1 forward per reference",
            required=("references",),
        ),
        Method(
            "fullgrad_plus",
            fullgrad_plus,
            "Mehri et al., LibraGrad, CVPR 2025",
            Needs(biases=True),
            rule="libra",
            states=True,
        ),
        Method("input_x_gradient", input_x_gradient, "Shrikumar et al. 2016"),
        Method("attnlrp", input_x_gradient, "Achtibat et al., ICML 2024", rule="attnlrp", fixed=True),
        Method("gim", input_x_gradient, "Edin et al., GIM, 2025", rule="gim", fixed=True),
        Method("reslrp", input_x_gradient, "AttnLRP with a gamma rule at residuals", rule="reslrp", fixed=True),
        Method(
            "integrated_gradients",
            integrated_gradients,
            "Sundararajan et al., ICML 2017",
            _NOTHING,
            rule=None,
            passes="steps forward and backward",
        ),
        Method(
            "smoothgrad",
            smoothgrad,
            "Smilkov et al., SmoothGrad, 2017",
            _NOTHING,
            rule=None,
            passes="samples forward and backward",
        ),
        Method("occlusion", occlusion, "Zeiler & Fergus, ECCV 2014", _NOTHING, rule=None, passes="T forward"),
        Method(
            "rise",
            rise,
            "Petsiuk et al., RISE, BMVC 2018",
            _NOTHING,
            rule=None,
            passes="samples forward",
        ),
        Method(
            "kernel_shap",
            kernel_shap,
            "Lundberg & Lee, NeurIPS 2017",
            _NOTHING,
            rule=None,
            passes="samples forward",
        ),
        Method(
            "tam",
            tam,
            "Li et al., Token Activation Map, ICCV 2025",
            _NOTHING,
            signed=False,
            rule=None,
            passes="2 forward",
        ),
        Method("random", random, "", _NOTHING, signed=False, **_NO_GRADIENT),
    )
}


DEFAULT = "oddscat"
"""What explains when no method is named."""


class Named(NamedTuple):
    """What a name says: `method`, `method+rule`, with options behind colons, as `oddscat:samples=8` or `cat+graded:beta=0.5`.

    Args:
        method: the method.
        rule: the gradient rule; whether there is such a rule is not looked at.
        options: of the method, the rule or the Explainer, likewise.
    """

    method: Method
    rule: str | None
    options: Mapping[str, Any]


def read_name(name: str) -> Named:
    """Take a method's name apart.

    Raises:
        OptionError: if there is no such method, or an option has no value.
    """
    if not isinstance(name, str):
        raise OptionError(f"{name!r} is not the name of a method: use one of {', '.join(METHODS)}")
    head, *given = name.split(":")
    method, plus, rule = head.partition("+")
    if method not in METHODS:
        raise OptionError(f"no method {method!r}: use one of {', '.join(METHODS)}")
    if plus and not rule:
        raise OptionError(f"{name!r} names no rule after the +: give {method!r}, or e.g. '{method}+plain'")
    options = {}
    for text in given:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise OptionError(f"{text!r} in {name!r} is no option: write it as name=value, as in oddscat:samples=8")
        options[key] = _value(value)
    return Named(METHODS[method], rule or None, options)


def _value(text: str) -> Any:
    """A number, yes or no, nothing, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def register_method(method: Method) -> Method:
    """Add your own method, to be used by name like the built-in ones.

    Raises:
        OptionError: if a built-in or registered method has this name.
    """
    if METHODS.get(method.name, method) != method:
        raise OptionError(
            f"there is already a method {method.name!r}: choose another name; taken are {', '.join(METHODS)}"
        )
    METHODS[method.name] = method
    return method
