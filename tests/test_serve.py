"""The local page: what it answers, what it refuses, many at once, and in a browser."""

from __future__ import annotations

import html
import io
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib import error, request

import numpy as np
import pytest
import saved
import test_image_text
import torch
from PIL import Image
from test_browser import CHROMIUM

import attcat
from attcat.adapters import hub
from attcat.demos import embedded

uvicorn = pytest.importorskip("uvicorn", reason="the local page needs uvicorn: pip install 'attcat[serve]'")
serving = pytest.importorskip(
    "attcat.cli.serving", reason="the local page needs starlette: pip install 'attcat[serve]'"
)


class Site:
    """A page that runs in a thread."""

    def __init__(self, service: Any) -> None:
        config = uvicorn.Config(serving.application(service, "127.0.0.1"), log_level="critical")
        self.server, self.socket = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def post(self, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, str]:
        """The status and the page; bytes are sent as a file."""
        edge, body = "edge0123456789", b""
        for name, value in fields.items():
            head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"'
            head += '; filename="a.png"' if isinstance(value, bytes) else ""
            body += head.encode() + b"\r\n\r\n" + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
        body += f"--{edge}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        return self.ask(request.Request(self.address, body, {**kind, **(headers or {})}))

    def ask(self, asked: Any) -> tuple[int, str]:
        try:
            with request.urlopen(asked, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except error.HTTPError as answer:
            return answer.code, answer.read().decode()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved.save_text(tmp_path_factory.mktemp("text") / "model", labels=("bad", "<good>"))


@pytest.fixture(scope="module")
def service(folder: Path) -> Any:
    return serving.Service(str(folder), "attcat", torch.device("cpu"))


@pytest.fixture(scope="module")
def site(service: Any) -> Iterator[Site]:
    made = Site(service)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(serving.Service(str(saved.save_timm(tmp_path_factory.mktemp("timm"))), "cat", torch.device("cpu")))
    yield made
    made.close()


def report(page: str) -> str:
    """The report in the page's frame."""
    return html.unescape(re.findall(r'srcdoc="([^"]*)"', page)[0])


def png(width: int = 48, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_text_is_explained_as_it_is_alone(site: Site, folder: Path) -> None:
    status, page = site.post(text="a gripping film", target="1", method="cat")
    alone = attcat.Explainer(*hub.load(str(folder)), method="cat")("a gripping film", 1)
    assert status == 200
    assert "gripping" in report(page)
    for word in alone.words():
        assert f'title="{word.score + 0.0:+.4g}"' in report(page)


def test_one_block_is_chosen(site: Site, folder: Path) -> None:
    """And the report is what that block gave, as the table of the whole has it."""
    status, page = site.post(text="a gripping film", target="1", method="cat", block="2")
    alone = attcat.Explainer(*hub.load(str(folder)), method="cat")("a gripping film", 1)
    assert status == 200
    assert 'name="block" type="number" min="1" value="2"' in page
    for word in alone.of_block(2).words():
        assert f'title="{word.score + 0.0:+.4g}"' in report(page)
    assert "block=2" in report(page)


def test_a_picture_is_explained(pictures: Site) -> None:
    status, page = pictures.post(picture=png())
    assert status == 200, re.findall(r'role="alert">(.*?)</p>', page)
    assert "data:image/jpeg" in report(page)


def test_a_question_about_a_picture_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a model that reads both; the report has the map and the words, as of the call."""
    model, processor = embedded.shapes()
    monkeypatch.setattr(serving, "load_model", lambda *named: (model, processor))
    service = serving.Service("shapes", "oddscat", torch.device("cpu"))
    picture, question = png(64, 64), "what colour is the circle ?"
    site = Site(service)
    try:
        status, page = site.post(picture=picture, text=question)
        assert status == 200
        told = report(page)
        assert "A question about it" in page
        assert "A second text" not in page
        assert f"{html.escape(question)}</textarea>" in page  # to be asked again
        alone = attcat.Explainer(model, processor)((Image.open(io.BytesIO(picture)), question))
        assert str(alone.shares()) in html.unescape(told).replace("\N{NO-BREAK SPACE}", " ")
        assert 'class="overlay"' in told
        status, page = site.post(picture=picture)
        assert status == 400
        assert "ask something about the picture" in page
        status, page = site.post(text=" ")
        assert status == 400
    finally:
        site.close()


def test_a_picture_and_a_text_that_are_compared_are_both_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = test_image_text.make("clip"), test_image_text.processor("clip")
    monkeypatch.setattr(serving, "load_model", lambda *named: (model, processor))
    service = serving.Service("clip", "attcat", torch.device("cpu"))
    found = service.explain(serving.blank(service) | {"picture": png(), "text": "a ship"})
    assert [one.is_image for one in found] == [True, False]


def test_the_form_shows_only_what_the_model_reads(site: Site, pictures: Site) -> None:
    text, picture = site.ask(site.address)[1], pictures.ask(pictures.address)[1]
    assert ("textarea" in text, 'type="file"' in text) == (True, False)
    assert ("<textarea" in picture, 'type="file"' in picture) == (False, True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": " "}, "give a text or a picture"),
        ({"text": "a", "picture": b"x"}, "give a text or a picture, and not both"),
        ({"text": "a film", "target": "great"}, "great"),
        ({"text": "a film", "method": "magic"}, "magic"),
        ({"text": "a film", "block": "99"}, "no block 99"),
        ({"text": "a film", "block": "all"}, "the block is a number"),
        ({"text": "a film", "block": "1", "method": "rollout"}, "one score for each token"),
        ({"text": "a film", "method": "contrast_cat"}, "references"),
        ({"text": "a" * 100_001}, "at most 100,000 characters"),
        ({"picture": png()}, "reads text"),
    ],
)
def test_a_mistake_is_a_message_on_the_page(site: Site, fields: dict[str, Any], message: str) -> None:
    status, page = site.post(**fields)
    assert status == 400
    assert message in page
    assert "srcdoc" not in page
    assert site.post(text="a film")[0] == 200  # and the page goes on


@pytest.mark.parametrize(("name", "data"), [("nothing", b"x"), ("half", png()[:200]), ("a long strip", png(60_000, 1))])
def test_a_bad_picture_is_refused(pictures: Site, name: str, data: bytes) -> None:
    status, page = pictures.post(picture=data)
    assert (status, 'role="alert"' in page) == (400, True)


def test_a_picture_that_unpacks_to_too_much_is_refused(pictures: Site) -> None:
    buffer = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(buffer, "PNG")
    status, page = pictures.post(picture=buffer.getvalue())
    assert (status, "too large" in page or "at most" in page) == (400, True)


def test_an_upload_is_limited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LARGEST", 10_000)
    status, page = site.post(picture=bytes(200_000))
    assert (status, "upload is larger" in page) == (413, True)


def test_other_sites_and_other_names_are_refused(site: Site) -> None:
    assert site.post({"Sec-Fetch-Site": "cross-site"}, text="a film")[0] == 403
    assert site.post({"Host": "evil.invalid"}, text="a film")[0] == 400
    assert site.ask(request.Request(site.address, b"text=a", {"Content-Type": "text/plain"}))[0] == 400
    assert site.ask(site.address + "other")[0] == 404


def test_what_a_model_raises_is_the_request_s_own(site: Site, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: Any) -> None:
        raise RuntimeError("<b>the model broke</b>")

    monkeypatch.setattr(service, "explain", broken)
    status, page = site.post(text="a film")
    assert (status, "&lt;b&gt;the model broke" in page, "<b>the" in page) == (500, True, False)
    monkeypatch.undo()
    assert site.post(text="a film")[0] == 200


def test_eight_at_once_give_the_answers_they_would_give_alone(site: Site) -> None:
    texts = [" ".join(["a gripping film"] * (1 + at % 4)) for at in range(16)]
    methods = ["attcat", "cat", "rollout", "oddscat"] * 4
    alone = [report(site.post(text=text, method=method)[1]) for text, method in zip(texts, methods, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text, method: report(site.post(text=text, method=method)[1]), texts, methods))
    timeless = [re.sub(r"\d{4}-\d\d-\d\d[^<]*", "", one) for one in alone]
    assert [re.sub(r"\d{4}-\d\d-\d\d[^<]*", "", one) for one in together] == timeless


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to look at the page with: apt-get install chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_in_a_browser(site: Site) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    evil = "\"></iframe><script>document.title='stolen'</script> a gripping film"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(15_000)
        complaints: list[str] = []
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on("request", lambda asked: asked.url.startswith((site.address, "data:")) or complaints.append(asked.url))
        page.goto(site.address)
        page.get_by_label("A text").fill(evil)
        page.get_by_label("Class").fill("<good>")
        page.get_by_role("button", name="Explain").click()
        frame = page.frame_locator("iframe")
        frame.locator("h2.label").wait_for()
        assert "<good>" in frame.locator("h2.label").inner_text()
        frame.get_by_role("button", name="tokens").click()  # the report's own script runs in its frame
        assert page.title() == "AttCAT: why?"
        assert page.get_by_label("A text").input_value() == evil  # what was asked stays in the form
        assert not [line for line in complaints if "favicon" not in line]
        browser.close()
