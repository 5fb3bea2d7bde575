"""Whatever goes wrong, and whenever: the model is left as it was found."""

from __future__ import annotations

import copy
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from test_threads import DRAWS, Noisy, model_of, scripted
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zoo import FAMILIES

import attcat
from attcat.testing import changes, snapshot

INTERRUPTIONS = int(os.environ.get("ATTCAT_INTERRUPTIONS", "40"))
FAULTS = int(os.environ.get("ATTCAT_FAULTS", "8"))
"""Faults for each method; 0 for one at every torch call. `make stress` sets both."""

RULED = [name for name, method in attcat.METHODS.items() if method.rule is not None and not method.fixed]
CALLS = [
    *((name, None) for name in attcat.METHODS if name != "tam"),
    *((name, "libra") for name in RULED),
    ("attcat", "plain"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "contrast_cat": {"references": [FAMILIES["bert"].arguments(1, seed=4)]},
    "integrated_gradients": {"steps": 3},
}


def trained(model: nn.Module) -> nn.Module:
    """In training mode with checkpoints, with a part in evaluation mode and a gradient that is kept."""
    model.train().gradient_checkpointing_enable()
    model.bert.encoder.layer[1].eval()
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    return model


def training_step(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    model(**batch).logits.square().sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def state_of(model: nn.Module) -> dict[str, Any]:
    return {**snapshot(model), "modes": torch._C._len_torch_function_stack()}


class FaultError(Exception):
    pass


class FaultAt(TorchFunctionMode):
    """Lets so many torch calls pass, and fails the next one, once."""

    def __init__(self, call: float) -> None:
        super().__init__()
        self.left = call
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        self.left -= 1
        if self.left == -1:
            raise FaultError
        return func(*args, **(kwargs or {}))


pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize(("method", "rule"), CALLS, ids=lambda value: value or "")
def test_a_fault_at_any_step_leaves_nothing_behind(method: str, rule: str | None) -> None:
    batch = FAMILIES["bert"].arguments(1)
    model = trained(model_of())
    untouched = trained(copy.deepcopy(model))
    explain = attcat.Explainer(model, None, method=method, rule=rule, **OPTIONS.get(method, {}))
    for _ in range(3):  # after the first ones a twin is kept, which is made by torch calls as well
        explain(batch)
    before = state_of(model)
    with FaultAt(float("inf")) as counter:
        expected = explain(batch)
    every, raised = list(range(counter.seen)), 0
    for call in every if FAULTS == 0 else random.Random(method).sample(every, min(FAULTS, len(every))):
        try:
            with FaultAt(call):
                found = explain(batch)
        except FaultError:
            raised += 1
        else:  # it came while an old twin was compared with the model, which then gets a new one; or the twin is an older one
            assert torch.equal(found.layers, expected.layers), call
        assert changes(before, state_of(model)) == [], call
    assert raised
    assert torch.equal(explain(batch).layers, expected.layers)
    assert changes(before, state_of(model)) == []
    for gradient, wanted in zip(training_step(model, batch), training_step(untouched, batch), strict=True):
        assert torch.equal(gradient, wanted)


@contextmanager
def unmeasured() -> Iterator[None]:
    """Coverage pauses, if it is measured: an exception at any instant may come within it, and leave its lock locked."""
    module = sys.modules.get("coverage")
    coverage = module and module.Coverage.current()
    if coverage:
        coverage.stop()
    try:
        yield
    finally:
        if coverage:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that what it measures has been imported before
                coverage.start()


def interrupted(run: Callable[[], Any], after: float) -> bool:
    """Run something with Ctrl-C after so many seconds; whether it came in time."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    previous, came = signal.signal(signal.SIGALRM, stop), False
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, after)
            run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        came = True
    signal.signal(signal.SIGALRM, previous)
    return came


def without_twin(model: nn.Module) -> nn.Module:
    scripted(model)
    return model


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("change", [lambda model: model, without_twin], ids=["twin", "without twin"])
@pytest.mark.parametrize("method", ["attcat", "transatt"])
@unmeasured()
def test_an_interruption_at_any_instant_leaves_nothing_behind(change: Callable[[nn.Module], Any], method: str) -> None:
    batch = FAMILIES["bert"].arguments(1)
    model = trained(change(model_of()))
    explain = attcat.Explainer(model, None, method=method)
    expected = explain(batch).layers
    before = state_of(model)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        explain(batch)
        times.append(time.perf_counter() - start)
    generator, came = random.Random(0), 0
    for _ in range(INTERRUPTIONS):
        came += interrupted(lambda: explain(batch), generator.uniform(1e-5, min(times)))
        assert changes(before, state_of(model)) == []
    assert came > INTERRUPTIONS // 8
    assert torch.equal(explain(batch).layers, expected)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@unmeasured()
def test_an_interruption_while_a_model_is_looked_at() -> None:
    from zoo_unseen import UNSEEN

    model = UNSEEN["timm-eva02"].model()
    attcat.Explainer(model)
    before = state_of(model)
    start = time.perf_counter()
    attcat.Explainer(model)
    lasts = time.perf_counter() - start
    generator = random.Random(0)
    for _ in range(INTERRUPTIONS // 4):
        interrupted(lambda: attcat.Explainer(model), generator.uniform(1e-5, lasts))
        assert changes(before, state_of(model)) == []


def test_an_interruption_within_a_mode_that_is_being_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes after a mode is on, and before its `with` knows."""
    from attcat.capture.torch_calls import Interception

    batch = FAMILIES["bert"].arguments(1)
    explain = attcat.Explainer(model_of(), None)
    enter = Interception.__enter__

    def half(self: Interception) -> None:
        enter(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Interception, "__enter__", half)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            with pytest.raises(KeyboardInterrupt):
                explain(batch)
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)
        assert torch._C._len_torch_function_stack() == 0


def test_a_model_that_draws_and_fails_leaves_the_generator() -> None:
    model, batch = model_of(), FAMILIES["bert"].arguments(1)
    output = model.bert.encoder.layer[1].output
    output.dense = Noisy(output.dense, DRAWS["dropout"])
    explain = attcat.Explainer(model, None)
    state = torch.get_rng_state()
    for call in range(0, 200, 20):
        with suppress(FaultError), FaultAt(call):
            explain(batch)
    assert torch.equal(torch.get_rng_state(), state)
