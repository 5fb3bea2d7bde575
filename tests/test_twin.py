"""Which trees of modules have a twin; tests/test_threads.py says what a twin is for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attcat.capture.twin import NotCopied, Twin
from attcat.errors import CaptureError


class Closing(nn.Linear):
    def __del__(self) -> None:
        pass


class Slotted(nn.Linear):
    __slots__ = ("kept",)


class Uncopied:
    """Leads to a module, and refuses to be copied."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __copy__(self) -> Any:
        raise TypeError("one of a kind")


def compiled(hook: str) -> nn.Module:
    made = torch.compile(nn.Linear(2, 2))
    getattr(made, hook)(lambda *given: None)
    return made


def holding() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model.held = Uncopied(model[0])
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Closing(2, 2), "Closing is not made of attributes alone"),
        (lambda: Slotted(2, 2), "Slotted is not made of attributes alone"),
        (lambda: compiled("register_forward_hook"), "a compiled module has hooks of its own"),
        (lambda: compiled("register_forward_pre_hook"), "a compiled module has hooks of its own"),
        (holding, "Uncopied cannot be copied: one of a kind"),
    ],
)
def test_what_cannot_be_made_again_has_none(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(NotCopied, match=reason):
        Twin(nn.Sequential(make()))


def test_what_was_made_in_inference_mode_has_none() -> None:
    with torch.inference_mode():
        model = nn.Linear(2, 2, bias=False)
    with pytest.raises(CaptureError, match=r"made inside torch\.inference_mode"):
        Twin(nn.Sequential(nn.ReLU(), model))


def test_a_compiled_module_is_copied_by_the_one_inside() -> None:
    inside = nn.Linear(2, 2)
    twin = Twin(nn.Sequential(torch.compile(inside), inside)).model
    assert type(twin[0]) is nn.Linear
    assert twin[0] is twin[1] is not inside
    assert twin[0].weight is inside.weight


def test_a_function_that_closes_over_nothing_of_the_model_is_shared() -> None:
    """One that leads to a module is made again, with its defaults; each cell that leads nowhere stays the function's own."""
    model = nn.Sequential(nn.Linear(2, 2))
    calls: list[int] = []
    (inner,) = model

    def counted(x: Tensor, by: float = 2.0, *, sign: float = -1.0) -> Tensor:
        calls.append(1)
        return sign * by * inner(x)

    def nothing(x: Tensor) -> Tensor:
        return x

    model.counted, model.nothing = counted, nothing
    twin = Twin(model).model
    assert twin.nothing is nothing
    assert twin.counted is not counted
    assert (twin.counted.__name__, twin.counted.__qualname__) == (counted.__name__, counted.__qualname__)
    x = torch.ones(1, 2)
    torch.testing.assert_close(twin.counted(x), -2 * inner(x))
    assert calls == [1]
    assert twin.counted.__closure__[1].cell_contents is twin[0]


@pytest.mark.parametrize(
    ("wrap", "within"),
    [
        (lambda module: (module,), lambda value: value[0]),
        (lambda module: module.forward, lambda value: value.__self__),
        (lambda module: functools.partial(module), lambda value: value.func),
    ],
    ids=["tuple", "method", "partial"],
)
def test_what_is_held_twice_leads_to_the_twin_both_times(
    wrap: Callable[[nn.Module], Any], within: Callable[[Any], nn.Module]
) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.one = model.other = wrap(model[0])
    twin = Twin(model).model
    assert within(twin.one) is within(twin.other) is twin[0] is not model[0]


def test_what_leads_to_no_module_is_shared_however_often_it_is_met() -> None:
    """Settings that two modules hold, and a part of them that one holds beside."""
    settings = SimpleNamespace(widths=[2, 2])
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for layer in model:
        layer.settings = settings
    model[1].widths = settings.widths
    twin = Twin(model).model
    assert [layer.settings is settings for layer in twin] == [True, True]
    assert twin[1].widths is settings.widths
