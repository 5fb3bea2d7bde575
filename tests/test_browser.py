"""The report in a browser: what moves, what the keyboard reaches, what hostile input does not do.

Skipped where there is no chromium (Debian: `apt-get install chromium`). With ATTCAT_SCREENSHOTS=folder, both themes are
kept as pictures.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import mixed, picture, text
from test_mixed import written

import attcat
from attcat import render
from attcat.explanation import Explanation

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the report is tested in a browser with playwright")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to test the report in: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
EVIL = "\"><script>document.title='stolen'</script><img src=http://x.invalid/ onerror=\"document.title='stolen'\"></script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Opened:
    """A page that was loaded, and what it complained about or asked the network for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        start = time.perf_counter()
        self.page.goto(path.as_uri())
        self.seconds = time.perf_counter() - start

    def _asked(self, address: str) -> None:
        if not address.startswith(("file:", "data:")):
            self.complaints.append(f"asked for {address}")


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Write a page, open it, and give it back; afterwards nothing may have been complained about."""
    every: list[Opened] = []

    def open_page(explanations: Sequence[Explanation], names: Sequence[str] | None = None, **options: Any) -> Any:
        path = tmp_path / f"page-{len(every)}.html"
        path.write_text(render.page(explanations, names=names), encoding="utf-8")
        every.append(Opened(browser, path, **options))
        return every[-1].page

    open_page.every = every  # type: ignore[attr-defined]
    yield open_page
    for opened in every:
        opened.context.close()
        assert opened.complaints == []


def test_a_text_is_read_by_pointer_and_keyboard(show: Any) -> None:
    page = show([text()])
    assert page.locator(".text").inner_text() == "a gripping, dull film. It ends."
    page.locator(".text mark", has_text="gripping").hover()
    assert page.locator(".readout").inner_text() == "gripping: +1, 28.6% of the magnitude, rank 1 of 9"
    page.locator(".text [tabindex='0']").focus()
    assert page.locator(".readout").inner_text().startswith("a: 0, ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".readout").inner_text().startswith(",: -0.5, 14.3% of the magnitude, rank ")
    page.keyboard.press("End")
    assert page.locator(".readout").inner_text().startswith(".: 0, 0.0%")
    assert page.locator(".text [tabindex='0']").count() == 1  # one stop for the Tab key
    strongest = page.locator(".strongest li").all_inner_texts()
    assert strongest[0].split() == ["gripping", "+1", "28.6%"]
    assert 3 < len(strongest) < 9
    assert not any(" 0.0%" in row for row in strongest)  # "strongest" lists nothing without a score


def test_a_words_share_is_of_words_and_patches(show: Any) -> None:
    """What stands first says that most of the magnitude is the picture's: a word's share is of the same whole."""
    page = show([mixed()])
    assert page.locator(".strongest li").first.inner_text().split() == ["is", "+0.5", "12.2%"]


def test_a_text_is_shown_by_words_tokens_and_sentences(show: Any) -> None:
    source = "a film 🎬 gripping\r\nfilms. It ends."
    tokens = text(source).tokens
    assert tokens.spans is not None
    page = show([replace(text(source), tokens=replace(tokens, words=(None, 0, 1, 2, 3, 3, 4, 5, 6, 7, None)))])
    whole = page.locator(".text").text_content()
    for name, count in (("tokens", 9), ("sentences", 3), ("words", 9)):
        page.get_by_role("button", name=name, exact=True).click()
        assert page.locator(".text").text_content() == whole
        assert page.locator(".text [data-score]").count() == count
        assert page.locator(".tools [aria-pressed=true]").inner_text() == name
    assert page.get_by_role("button", name="words").is_visible()


def test_the_layers_of_a_text_are_a_heat_table(show: Any) -> None:
    page = show([text()])
    page.get_by_text("Layer by layer").click()
    page.locator(".layers tbody tr").first.wait_for()
    rows = page.locator(".layers tbody tr").all_inner_texts()
    assert rows[0].split() == ["[CLS]", "+0.15", "+0.05"]
    assert rows[2].split() == ["gripping", "+0.75", "+0.25"]
    assert page.locator(".layers td.against").count() == 2 * 2
    assert len(rows) == 11


def test_a_picture_has_a_slider_switches_and_values(show: Any) -> None:
    page = show([picture()])
    canvas = page.locator(".overlay canvas")
    canvas.wait_for()
    width, height = (int(canvas.get_attribute(name)) for name in ("width", "height"))

    def pixel(x: float, y: float) -> list[int]:
        call = "(c, [x, y]) => [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data].slice(0, 3)"
        found: list[int] = canvas.evaluate(call, [x, y])
        return found

    first, last, middle = (20 / 120 + 0.03, 0.05), (100 / 120 - 0.03, 0.95), (0.5, 0.5)
    assert pixel(*first)[0] > pixel(*first)[2] + 60  # orange
    assert pixel(*last)[2] > pixel(*last)[0] + 40  # blue
    grey = pixel(*middle)
    assert len(set(grey)) == 1  # the red picture is grey beneath
    page.get_by_role("button", name="for only").click()
    assert len(set(pixel(*last))) == 1
    page.get_by_role("button", name="for and against").click()
    page.get_by_role("button", name="patches").click()
    assert pixel(0.2, 0.2)[0] > pixel(0.2, 0.2)[2] + 60
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    assert len(set(pixel(*first))) == 1
    page.keyboard.press("End")
    assert pixel(*first) == [255, 146, 30]
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + first[0] * box["width"], box["y"] + first[1] * box["height"])
    assert page.locator(".readout").inner_text() == "row 1, column 1: +1, 50.0% of the magnitude, rank 1 of 16"
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    assert page.locator(".readout").inner_text() == "not seen by the model"
    canvas.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    assert page.locator(".readout").inner_text().startswith("row 4, column 4: -1,")
    page.get_by_text("Layer by layer").click()
    page.locator(".multiples canvas").first.wait_for()  # a section tells a moment later that it was opened
    assert page.locator(".multiples canvas").count() == 2
    assert page.locator(".multiples figcaption").all_inner_texts() == ["block 1: 0%", "block 2: 0%"]
    assert width > height


def test_the_canvas_is_what_the_library_draws(show: Any) -> None:
    made = picture()
    page = show([made])
    canvas = page.locator(".overlay canvas")
    canvas.wait_for()
    expected = render.image.overlay(render.image.sized(made, 640))
    assert canvas.evaluate("c => [c.height, c.width, 3]") == list(expected.shape)
    call = "(c, row) => [...c.getContext('2d').getImageData(0, row, c.width, 1).data]"
    rows = range(3, len(expected), 9)
    drawn = np.array([canvas.evaluate(call, row) for row in rows]).reshape(len(rows), -1, 4)[..., :3]
    expected = expected[rows]
    assert np.abs(drawn - expected).mean() < 1
    assert np.abs(drawn - expected).max() < 8


def test_the_class_can_be_switched(show: Any) -> None:
    page = show([text(), text(target=0), text("another film")])
    assert page.locator("select").count() == 1
    assert page.locator("article:visible h2").all_inner_texts() == ["positive 73.1%", "positive 73.1%"]
    page.locator("select").select_option(label="negative 26.9%")
    assert page.locator("article:visible h2").all_inner_texts() == ["negative 26.9%", "positive 73.1%"]
    assert page.locator("article:visible .tools").first.is_visible()


def test_an_index_is_searched_and_sorted(show: Any) -> None:
    chances = (0.3, 2.0, -1.0)
    made = [text(f"film {name}", logits=torch.tensor([0.0, x])) for name, x in zip("cab", chances, strict=True)]
    page = show([*made, picture()], names=["c", "a", "b", "ship.jpg"])

    def names() -> list[str]:
        found: list[str] = page.locator(".index tbody tr:visible a").all_inner_texts()
        return found

    assert names() == ["c", "a", "b", "ship.jpg"]
    page.get_by_role("button", name="input").click()
    assert names() == ["a", "b", "c", "ship.jpg"]
    page.get_by_role("button", name="probability").click()
    page.get_by_role("button", name="probability").click()
    assert names() == ["a", "ship.jpg", "c", "b"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.get_by_role("searchbox").fill("SHIP")
    assert names() == ["ship.jpg"]
    assert page.locator("section.place:visible").count() == 1
    assert "1 of 4 inputs" in page.locator(".tools").first.inner_text()
    assert page.locator(".name").inner_text() == "ship.jpg"


def test_hostile_input_stays_text(show: Any) -> None:
    made = text(EVIL, labels=(EVIL, EVIL), model=EVIL, method=EVIL)
    page = show([made, replace(made, target=0), picture(labels=(EVIL, EVIL)), text()], names=[EVIL] * 4)
    page.get_by_text("Layer by layer").first.click()
    page.get_by_role("button", name="sentences").first.click()
    page.locator("select").first.select_option(index=1)
    page.get_by_role("searchbox").fill("script")
    assert "stolen" not in page.title().replace(EVIL, "")
    assert page.locator("script").count() == 2
    assert page.locator("img[src^=http]").count() == 0
    assert page.locator(".text").first.text_content() == EVIL


def test_without_a_script_words_and_overlays_are_there(show: Any) -> None:
    page = show([text(), picture()], java_script_enabled=False)
    assert page.locator(".text mark").count() > 3
    assert page.locator(".overlay img").is_visible()
    assert page.locator(".chances li").count() == 4
    assert page.get_by_text("“gripping”").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_and_can_be_read(show: Any, scheme: str, width: int) -> None:
    long = text("word " * 60 + "extraordinarily" * 12)
    page = show([long, picture()], color_scheme=scheme, viewport={"width": width, "height": 900})
    page.locator(".overlay canvas").wait_for()
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.documentElement).color, getComputedStyle(document.documentElement).backgroundColor]"
    )
    inks = [tuple(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert render.colour.contrast(inks[0], inks[1]) > 15
    soft = page.locator(".note").first.evaluate("e => getComputedStyle(e).color")
    assert render.colour.contrast(tuple(map(int, re.findall(r"\d+", soft)[:3])), inks[1]) >= 4.5
    if folder := os.environ.get("ATTCAT_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/report-{scheme}-{width}.png", full_page=True)


@pytest.mark.parametrize("width", [400, 1400])
def test_tables_of_words_and_methods_keep_whole_words_under_their_heads(
    browser: Any, tmp_path: Path, width: int
) -> None:
    examples = [
        text(scores, top=top) for scores, top in (("a entertaining, dull film. It ends.", 1.0 + at) for at in range(4))
    ]
    one = examples[0]
    timed = [(one, 0.2), (replace(one, method="input_x_gradient", options={"rule": "libra"}), 0.3)]
    for name, content in (
        ("summary", attcat.aggregate(examples, minimum=2).to_html()),
        ("methods", render.comparison.page(timed)),
    ):
        path = tmp_path / f"{name}.html"
        path.write_text(content, encoding="utf-8")
        opened = Opened(browser, path, viewport={"width": width, "height": 900})
        shown = opened.page
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        if name == "summary":
            columns = """selector => [...document.querySelector('.words').querySelectorAll(selector)]
                .map(cell => cell.offsetWidth ? cell.offsetLeft : null)"""
            heads, cells = (
                shown.evaluate(columns, f"tr:nth-child({row}) {cell}") for row, cell in ((1, "th"), (2, "td"))
            )
            assert heads == cells
            lines = "[...document.querySelectorAll('.words td:first-child mark')].map(e => e.getClientRects().length)"
            assert set(shown.evaluate(lines)) == {1}
            assert heads.count(None) == (width < 640)  # the drawing of the interval
            tall = "[...document.querySelectorAll('.words th')].map(e => e.offsetHeight)"
        else:
            tall = "[...document.querySelectorAll('.methods b')].map(e => e.getClientRects().length * 20)"
        assert max(shown.evaluate(tall)) < 32  # one line
        assert opened.complaints == []
        opened.context.close()


def test_five_hundred_texts_open_in_proportion_to_fifty(show: Any) -> None:
    """What is not near is not built; a page whose time grew with the square of its texts would take a hundred times as long."""
    for count in (50, 500):
        show([text(f"review number {number}, " + "a gripping, dull film " * 4) for number in range(count)])
    few, many = show.every
    assert many.page.locator(".index tbody tr").count() == 500
    assert many.page.locator(".readout").count() < 30
    assert many.seconds < 25 * few.seconds


def test_the_printed_page_is_light_and_has_no_switches(show: Any) -> None:
    """Also from a dark theme: ink on paper, colours kept, an input on one sheet where it fits."""
    page = show([text(), picture()], color_scheme="dark")
    assert page.locator(".tools").first.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    for selector in (".tools", ".readout", ".index input"):
        assert not any(one.is_visible() for one in page.locator(selector).all())
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.text mark')).printColorAdjust") == "exact"
    assert page.locator("footer").is_visible()


def test_a_written_word_shows_its_own_map_and_leaving_it_the_whole_answers(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "written.html"
    path.write_text(written(mixed()).to_html(), encoding="utf-8")
    opened = Opened(browser, path)
    shown = opened.page
    veil = shown.locator(".veil")
    whole = veil.get_attribute("src")
    maps = []
    for word in shown.locator(".written").all():
        word.focus()
        maps.append(veil.get_attribute("src"))
        assert shown.locator(".what").inner_text() == word.get_attribute("title")
    assert len({whole, *maps}) == 3
    shown.evaluate("document.activeElement.blur()")
    assert veil.get_attribute("src") == whole
    centre = """source => { const image = new Image(); image.src = source; return image.decode().then(() => {
        const canvas = document.createElement("canvas"); canvas.width = 3; canvas.height = 2;
        const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
        return [...context.getImageData(1, 0, 1, 1).data]; }); }"""
    assert [round(part) for part in shown.evaluate(centre, maps[0])] == pytest.approx([16, 62, 168, 204], abs=2)
    assert [round(part) for part in shown.evaluate(centre, maps[1])] == pytest.approx([255, 146, 30, 204], abs=2)
    assert opened.complaints == []
    opened.context.close()
