"""How an Explainer explains: method, rule and options, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any, get_args

from ..attribution import recorded
from ..capture.rules import RULES, Rule, make_rule
from ..errors import Option, OptionError
from ..methods import Method, Quantity, read_name
from ..model.heads import Head
from ..targets import count, integer
from ..trace import Hidden, Needs, Queries


@dataclass(frozen=True)
class Settings:
    """What `Explainer` was made with.

    Args:
        method: the attribution method.
        rule: name of the gradient rule; None if gradients play no part.
        hidden: which hidden state of a block is read.
        queries: which queries count in the received attention.
        batch_size: inputs per forward pass; None for as many as make a few thousand tokens.
        completeness: whether the contribution of the bias terms is measured.
        quantity: what is explained of a class; by default what the method explains, or of words of a vocabulary the logit.
        own: the method's own options.
        of_rule: the rule's options, as far as they were given.

    Raises:
        OptionError: if an option does not exist, or contradicts another.
    """

    method: Method
    rule: str | None = None
    hidden: Hidden = "input"
    queries: Queries = "mean"
    batch_size: int | None = None
    completeness: bool = False
    quantity: Quantity = None  # type: ignore[assignment]  # the method's, as soon as it is made
    own: Mapping[str, Any] = field(default_factory=dict)
    of_rule: Mapping[str, float] = field(default_factory=dict)
    usual: bool | None = None
    """Whether nobody asked for the quantity; found when it is made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", _rule(self.method, self.rule))
        object.__setattr__(self, "usual", self.quantity is None if self.usual is None else self.usual)
        object.__setattr__(self, "quantity", self.quantity or self.method.quantity)
        object.__setattr__(self, "own", _own(self.method, self.own))
        self.make_rule()
        for name, allowed in (("hidden", Hidden), ("queries", Queries), ("quantity", Quantity)):
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise OptionError(Option(name, value), f" is not one of {', '.join(get_args(allowed))}")
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", count("batch_size", self.batch_size))

    @classmethod
    def of(cls, method: str, rule: str | None, own: Mapping[str, Any], **others: Any) -> Settings:
        """The same, with the method by its name, as `attcat.methods.read_name` reads it.

        Args:
            method: name of the method, which may name the rule and options as well.
            rule: name of the rule.
            own: options of the method and of the rule.
            **others: the other fields; one that is as usual does not contradict the name.

        Raises:
            OptionError: if there is no such method, or the name and an option contradict each other.
        """
        found, named, options = read_name(method)
        if named is not None and rule not in (None, named):
            raise OptionError(
                Option("method", method),
                " and ",
                Option("rule", rule),
                " name two different rules: leave out one of them",
            )
        usual = {one.name: one.default for one in dataclass_fields(cls)}
        given = {**own, **{name: value for name, value in others.items() if value != usual[name]}}
        twice = [name for name, value in options.items() if given.get(name, value) != value]
        if twice:
            raise OptionError(
                Option("method", method),
                " and ",
                Option(twice[0], given[twice[0]]),
                " differ: leave one of them out",
            )
        given |= options
        fields = {name: given.pop(name) for name in FIELDS if name in given}
        rule = rule or named
        known = RULES[_rule(found, rule) or "plain"].options
        of_rule = {name: given.pop(name) for name in known if name in given}
        return cls(found, rule, own=given, of_rule=of_rule, **fields)

    def of_name(self, method: str, rule: str | None = None, **changes: Any) -> Settings:
        """Another method by its name, with its own rule, quantity and options; what is no method's own stays.

        Args:
            method: its name, as `of` takes it.
            rule: name of the rule.
            **changes: other fields, or options of the method or rule.
        """
        kept = {name: getattr(self, name) for name in FIELDS} | ({"quantity": None} if self.usual else {})
        fields = {name: changes.get(name, value) for name, value in kept.items()}
        own = {name: value for name, value in changes.items() if name not in fields}
        return Settings.of(method, rule, own, **fields)

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """With other fields, or other options of the method.

        Raises:
            OptionError: if there is no such option.
        """
        fields = {one.name for one in dataclass_fields(self)}
        own = {name: value for name, value in changes.items() if name not in fields}
        asked = {"usual": None} if changes.get("quantity") else {}
        known = {"own": self.own, **asked, **{name: value for name, value in changes.items() if name in fields}}
        return replace(self, **{**known, "own": {**known["own"], **own}})

    def of_head(self, head: Head) -> Settings:
        """With the quantity that suits a head, if nobody asked for another: of words of a vocabulary it is the logit.

        What makes a word likely makes its rivals likely, too: after `Germany:` all cities of Germany. Their odds against each
        other do not say why it is a city of Germany.
        """
        if self.usual and head.of_words and self.quantity != "logit":
            return replace(self, quantity="logit")
        return self

    def of_order(self, causal: bool | None) -> Settings:
        """With the options of the rule for models whose tokens see only those before them, as far as nobody gave others."""
        if causal and self.rule == self.method.rule and self.method.backwards:
            return replace(self, of_rule={**self.method.backwards, **self.of_rule})
        return self

    def make_rule(self) -> Rule:
        """The gradient rule, for one pass."""
        return make_rule(self.rule or "plain", **self.of_rule)

    @property
    def several(self) -> bool:
        """Whether the model is run again, with these options."""
        return self.method.several and (self.method.further is None or self.own[self.method.further] != 0)

    @property
    def needs(self) -> Needs:
        """What the trace has to hold."""
        return replace(self.method.needs, gradient=True, biases=True) if self.completeness else self.method.needs

    @property
    def options(self) -> dict[str, Any]:
        """The options that matter to the method, in plain values; what an Explanation records."""
        options: dict[str, Any] = {}
        if self.rule is not None:
            options |= {
                "rule": self.rule,
                **RULES[self.rule].options,
                **{n: recorded(v) for n, v in self.of_rule.items()},
            }
        if self.quantity != "logit":
            options["quantity"] = self.quantity
        if self.method.states:
            options["hidden"] = self.hidden
        if self.method.needs.received:
            options["queries"] = self.queries
        usual = {name: self.method.defaults[name] for name in self.method.silent}
        told = {name: value for name, value in self.own.items() if name not in usual or value != usual[name]}
        own = {n: f"{len(v)} given" if isinstance(v, (list, tuple)) else recorded(v) for n, v in told.items()}
        return {**options, **own}


FIELDS = ("hidden", "queries", "batch_size", "completeness", "quantity")
"""Of a method's name, the options that are the Explainer's own."""


def _own(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own options; an option whose default is an integer takes integers.

    Raises:
        OptionError: if an option does not exist, or is not an integer where one is expected.
    """
    own = method.with_options(given)
    for name, default in method.defaults.items():
        if integer(default) is None:
            continue
        number = integer(own[name])
        if number is None:
            raise OptionError(
                Option(name, own[name]), f": {method.name} expects an integer, e.g. ", Option(name, default)
            )
        own[name] = number
    return own


def _rule(method: Method, asked: str | None) -> str | None:
    """The gradient rule to use: what was asked for, or the method's own.

    Raises:
        OptionError: if there is no such rule, or the method's cannot be chosen.
    """
    if asked is None or asked == method.rule:
        return method.rule
    make_rule(asked)
    if method.rule is None:
        raise OptionError(f"{method.name} uses no gradient rule: leave out ", Option("rule", asked))
    if method.fixed:
        raise OptionError(f"{method.name} is defined by its rule {method.rule!r}: it cannot run under {asked!r}")
    return asked
