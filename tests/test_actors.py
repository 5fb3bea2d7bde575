"""How parts are given to workers: each part once, whoever is free; an error of the work is the error that is raised.

Ray itself is replaced by a cluster that answers in an order of its own; tests/test_batch.py has the real one (`make engines`).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attcat.cli import scale
from attcat.cli.scale import Part, Worker
from attcat.errors import InputError


class TaskError(Exception):
    def __init__(self, cause: Exception | None) -> None:
        super().__init__("a task failed")
        self.cause = cause


class Cluster:
    """Runs a task when it is waited for, in a drawn order; each actor has one task at a time."""

    exceptions = SimpleNamespace(RayTaskError=TaskError)

    def __init__(self, seed: int, running: bool = False) -> None:
        self.random = random.Random(seed)
        self.is_on, self.log = running, list[str]()
        self.tasks: dict[int, tuple[Any, Part]] = {}
        self.actors: list[Any] = []
        self.most = 0

    def is_initialized(self) -> bool:
        return self.is_on

    def init(self, **_: Any) -> None:
        self.log.append("init")

    def shutdown(self) -> None:
        self.log.append("shutdown")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def remote(self, **options: Any) -> Callable[[type], Any]:
        assert options == {
            "num_cpus": 1,
            "max_restarts": -1,
            "max_task_retries": -1,
        }  # a worker that dies is started again

        def wrapped(kind: type) -> Any:
            def made(*arguments: Any) -> Any:
                actor = SimpleNamespace(worker=kind(*arguments))
                actor.write = SimpleNamespace(remote=lambda part: self._begin(actor, part))
                self.actors.append(actor)
                return actor

            return SimpleNamespace(remote=made)

        return wrapped

    def _begin(self, actor: Any, part: Part) -> int:
        assert all(busy is not actor for busy, _ in self.tasks.values())
        number = len(self.tasks) + 1000 * part.first
        self.tasks[number] = actor, part
        self.most = max(self.most, len(self.tasks))
        return number

    def wait(self, tasks: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        assert num_returns == 1
        done = self.random.choice(tasks)
        return [done], [task for task in tasks if task != done]

    def get(self, task: int) -> int:
        actor, part = self.tasks.pop(task)
        try:
            return actor.worker.write(part)
        except AssertionError:
            raise
        except Exception as error:
            raise TaskError(error if part.first != 6 else None) from error


def parts(folder: Path, count: int = 9) -> list[Part]:
    return [Part("data.parquet", first, 1, str(folder / f"part-{first}")) for first in range(count)]


def written(monkeypatch: pytest.MonkeyPatch, fails: int | None = None) -> list[int]:
    found: list[int] = []

    def write(explain: Any, part: Part) -> int:
        if part.first == fails:
            raise InputError("nothing to read")
        found.append(part.first)
        return 1

    monkeypatch.setattr(scale, "write_part", write)
    return found


@pytest.mark.parametrize(("workers", "used"), [(2, 2), (None, 3), (20, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_each_part_is_written_once(
    seed: int, workers: int | None, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, done = Cluster(seed), written(monkeypatch)
    monkeypatch.setitem(sys.modules, "ray", cluster)  # type: ignore[arg-type]
    yielded = list(scale._ray(None, parts(tmp_path), workers))  # type: ignore[arg-type]
    assert sorted(part.first for part in yielded) == sorted(done) == list(range(9))
    assert [part.first for part in yielded] == done
    assert cluster.most == len(cluster.actors) == used
    assert cluster.log == ["init", "shutdown"]


def test_a_cluster_that_runs_already_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(0, running=True)
    written(monkeypatch)
    monkeypatch.setitem(sys.modules, "ray", cluster)  # type: ignore[arg-type]
    assert len(list(scale._ray(None, parts(tmp_path), 2))) == 9  # type: ignore[arg-type]
    assert list(scale._ray(None, [], 2)) == []  # type: ignore[arg-type]
    assert cluster.log == []


@pytest.mark.parametrize(("fails", "error"), [(4, InputError), (6, TaskError)])
def test_what_the_work_raises_is_raised(
    fails: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own error, where Ray knows it; and the cluster that was started here ends."""
    cluster = Cluster(1)
    written(monkeypatch, fails)
    monkeypatch.setitem(sys.modules, "ray", cluster)  # type: ignore[arg-type]
    with pytest.raises(error):
        list(scale._ray(None, parts(tmp_path), 2))  # type: ignore[arg-type]
    assert cluster.log == ["init", "shutdown"]


def test_a_part_that_another_worker_has_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was thought dead may have finished it."""
    done = written(monkeypatch)
    first, second = parts(tmp_path, 2)
    Path(first.target).touch()
    worker = Worker(None)  # type: ignore[arg-type]
    assert worker.write(first) == 0
    assert worker.write(second) == 1
    assert done == [1]
