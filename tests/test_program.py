"""The program's own entry points: how Ctrl-C is taken before a command runs, and where `attcat serve` listens."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib import request

import pytest
from running import Run

from attcat import __main__, cli
from attcat.errors import LoadError

uvicorn = pytest.importorskip("uvicorn", reason="the local page needs uvicorn: pip install 'attcat[serve]'")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """How Ctrl-C is taken when the command begins."""
    before, found = signal.getsignal(signal.SIGINT), list[Any]()
    monkeypatch.setattr(cli, "main", lambda: found.append(signal.getsignal(signal.SIGINT)))
    yield found
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_program_while_it_starts(seen: list[Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    __main__.main()
    assert seen == [signal.SIG_DFL]


def test_a_shell_that_lets_ctrl_c_be_ignored_stands(seen: list[Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    __main__.main()
    assert seen == [signal.SIG_IGN]


def test_in_another_thread_nothing_is_set(seen: list[Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=__main__.main)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


@pytest.mark.parametrize("error", [ImportError("cannot load module more than once per process"), LoadError("no model")])
def test_ctrl_c_that_a_library_makes_an_error_of_is_silent(
    seen: list[Any], text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """torch clears an interruption of its import of numpy, and numpy then refuses to be imported again."""

    def load(*_: Any, **__: Any) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise error

    monkeypatch.setattr("attcat.cli.models.load_model", load)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = ["explain", "a film", "--model", str(text)]
    assert cli.run(arguments) == 130
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_page_listens_where_it_says(
    run: Run, text: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server answers one request at the address that was printed, and ends."""
    answers: list[str] = []
    serve = uvicorn.Server.run

    def once(server: Any, sockets: list[socket.socket]) -> None:
        def ask() -> None:
            while not server.started:
                threading.Event().wait(0.01)
            address = capfd.readouterr().out.strip()
            with request.urlopen(address, timeout=60) as answer:
                answers.append(answer.read().decode())
            server.should_exit = True

        thread = threading.Thread(target=ask)
        thread.start()
        serve(server, sockets=sockets)
        thread.join()

    monkeypatch.setattr(uvicorn.Server, "run", once)
    result = run("serve", "--model", text, "--port", "0", "--method", "cat")
    assert result.code == 0
    (page,) = answers
    assert "<form" in page
    assert "cat" in page


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # uvicorn forgets the socket that it could not bind
def test_a_port_that_is_taken_is_said(run: Run, text: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--model", text, "--port", port)
    assert result.code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: choose another --port" in result.err


def test_a_page_that_cannot_work_is_refused_at_once(run: Run, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no method 'x'" in run("serve", "--model", text, "--method", "x").err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve", "--model", text)
    assert result.code == 2
    assert "pip install 'attcat[serve]'" in result.err
