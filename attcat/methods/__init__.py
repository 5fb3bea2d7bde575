"""Attribution methods: pure functions from a `Trace` to contributions `[L, B, T]`.

A method is a few lines under its formula. What it needs from the forward and backward pass it says in its `Method` entry,
so that nothing is computed that no one asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from .cat import attcat, cat


@dataclass(frozen=True)
class Method:
    """A method and what it needs.

    Args:
        name: what users type.
        function: from a Trace to contributions, float32 `[L, B, T]`.
        paper: where it is defined.
        received: whether it reads the attention that each token receives.
    """

    name: str
    function: Callable[[Trace], Tensor]
    paper: str
    received: bool = False


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("attcat", attcat, "Qiang et al., AttCAT, NeurIPS 2022, eq. 6", received=True),
        Method("cat", cat, "Qiang et al., AttCAT, NeurIPS 2022, eq. 5"),
    )
}


def find_method(name: str) -> Method:
    """A method by its name.

    Raises:
        OptionError: if there is no such method.
    """
    if name not in METHODS:
        raise OptionError(f"no method {name!r}: use one of {', '.join(METHODS)}")
    return METHODS[name]
