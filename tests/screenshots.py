"""Screenshots of the real report for the docs: `python tests/screenshots.py docs`. Needs chromium and the embedded models."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from test_browser import CHROMIUM

import attcat
from attcat import render
from attcat.demos import embedded
from attcat.files import encode_palette_png

SENTENCE = "A gripping, beautifully acted film, though the ending is a mess."
REVIEWS = [
    SENTENCE,
    "A dull film with one great scene.",
    "It never finds its rhythm, and the jokes fall flat.",
    "Tender, funny and quietly devastating.",
    "The cast does what it can with a lazy script.",
]


def keep(page: Any, path: Path) -> None:
    """The page as a PNG file with a palette."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    kept = render.image.palette()
    path.write_bytes(encode_palette_png(shot, kept, 256 - len(kept)))
    print(f"wrote {path}: {path.stat().st_size // 1000} kB")


def main(folder: Path) -> None:
    """Write `report_*.png`, and `sentence.png` for the README."""
    words, pictures = attcat.Explainer(*embedded.sentiment()), attcat.Explainer(*embedded.objects())
    photos = sorted((embedded.HERE / "images").glob("*.jpg"))
    both = words("A dull film with one great scene.", target="all")
    pages = {
        "text": render.page([words(SENTENCE)]),
        "classes": render.page(both),
        "picture": render.page([pictures(photos[-1])]),
        "many": render.page([*words(REVIEWS), *pictures(photos)], names=[*REVIEWS, *(path.name for path in photos)]),
    }
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])

        def opened(name: str, width: int, height: int, scheme: str = "light") -> Any:
            path = Path(place, f"{name}.html")
            path.write_text(pages[name], encoding="utf-8")
            view = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = view.new_page()
            page.goto(path.as_uri())
            page.wait_for_timeout(500)
            return page

        text = opened("text", 640, 212)
        text.evaluate("document.querySelector('h2').scrollIntoView()")
        keep(text, folder / "sentence.png")
        keep(opened("text", 900, 620), folder / "report_text.png")
        layers = opened("text", 900, 620, "dark")
        layers.get_by_text("Layer by layer").click()
        layers.evaluate("document.querySelector('.layers').scrollIntoView()")
        keep(layers, folder / "report_layers.png")
        picture = opened("picture", 900, 760)
        picture.locator("canvas").first.hover()
        keep(picture, folder / "report_picture.png")
        blocks = opened("picture", 900, 560, "dark")
        blocks.get_by_text("Layer by layer").click()
        blocks.evaluate("document.querySelector('.layers').scrollIntoView()")
        keep(blocks, folder / "report_blocks.png")
        keep(opened("many", 900, 700), folder / "report_many.png")
        keep(opened("classes", 400, 620, "dark"), folder / "report_narrow.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
