"""How an Explainer explains: method, rule and options, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from ..attribution import recorded
from ..capture.rules import make_rule
from ..errors import Option, OptionError
from ..methods import Method, method_and_rule
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
        batch_size: inputs in a forward pass; None for as many as make a few thousand tokens.
        completeness: whether the contribution of the bias terms is measured.
        own: the method's own options.

    Raises:
        OptionError: if an option does not exist, or contradicts another.
    """

    method: Method
    rule: str | None = None
    hidden: Hidden = "input"
    queries: Queries = "mean"
    batch_size: int | None = None
    completeness: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", _rule(self.method, self.rule))
        object.__setattr__(self, "own", _own(self.method, self.own))
        for name, allowed in (("hidden", Hidden), ("queries", Queries)):
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise OptionError(Option(name, value), f" is not one of {', '.join(get_args(allowed))}")
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", count("batch_size", self.batch_size))

    @classmethod
    def of(cls, method: str, rule: str | None, **others: Any) -> Settings:
        """The same, with the method by its name, or by `name+rule`.

        Raises:
            OptionError: if there is no such method, or two different rules are named.
        """
        found, named = method_and_rule(method)
        if named is not None and rule not in (None, named):
            raise OptionError(
                Option("method", method),
                " and ",
                Option("rule", rule),
                " name two different rules: leave one of them out",
            )
        return cls(found, rule or named, **others)

    @property
    def needs(self) -> Needs:
        """What the trace has to hold."""
        return replace(self.method.needs, gradient=True) if self.completeness else self.method.needs

    @property
    def options(self) -> dict[str, Any]:
        """What the method runs with, as far as it matters to it, in plain values; what an Explanation records."""
        options: dict[str, Any] = {} if self.rule is None else {"rule": self.rule}
        if self.method.states:
            options["hidden"] = self.hidden
        if self.method.needs.received:
            options["queries"] = self.queries
        own = {n: f"{len(v)} given" if isinstance(v, (list, tuple)) else recorded(v) for n, v in self.own.items()}
        return {**options, **own}


def _own(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own options; what is an integer by default stays one.

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
