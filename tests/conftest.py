"""The models are tiny: one thread each is fastest, and workers do not fight for the cores. And what several files start from.

What is ours is imported when it is used: this file is read before coverage is measured.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from running import Result, Run

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: garbage collection need not look through all of it, then or at any time later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, where importing torch costs nothing; C code's output is seen too."""
    from attcat import cli

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    from attcat.capture.rules import RULES
    from attcat.methods import METHODS
    from attcat.metrics import METRICS
    from attcat.model import registry
    from attcat.model.heads import HEADS

    before = [(there, dict(there)) for there in (METRICS, METHODS, RULES, HEADS, registry._registered)]
    yield
    for there, entries in before:
        there.clear()
        there.update(entries)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small classifier of texts."""
    import saved

    return saved.save_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of pictures."""
    import saved

    return saved.save_image(tmp_path_factory.mktemp("image"))
