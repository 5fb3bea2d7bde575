"""The local page behind `attcat serve`: a form, and under it the report.

Nothing is kept between requests. An upload is read up to `LARGEST` bytes, a picture is refused by what it would unpack to,
and whatever goes wrong with one request is a message on its page. Explanations run in threads: an `Explainer` may be called
from many at once.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from typing import Any

import anyio
import torch
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ..errors import AttCATError, InputError
from ..explainer import Explainer
from ..explanation import Explanation
from ..model import TextAdapter, VisionAdapter
from ..model.picture import read_picture
from ..render import html, page, report
from ..render.html import escape
from .listing import METHODS
from .models import load_model, named_class, reads_both
from .wording import in_shell, unexpected

LARGEST = 32 << 20
"""Bytes of a request: a photograph from a telephone has 5 to 15 million."""

LONGEST = 100_000
"""Characters of a text."""

AT_ONCE = 8
"""Requests that are explained at the same time; others wait."""


class Service:
    """Explains what the form gives.

    Args:
        model: folder or hub id; None for the embedded models, one for texts and one for pictures.
        method: the one that is chosen at first.
        device: where the models run.
    """

    def __init__(self, model: str | None, method: str, device: torch.device) -> None:
        self.model, self.method, self.device = model, method, device
        self._explainers: dict[bool, Explainer] = {}
        self._loading = threading.Lock()

    def warm(self) -> None:
        """Load what will be needed.

        Raises:
            LoadError: if a model cannot be loaded.
        """
        for picture in self.kinds:
            self.explainer(picture)

    @property
    def kinds(self) -> tuple[bool, ...]:
        """For texts (False), for pictures (True)."""
        if self.model is None or self.asks:
            return (False, True)
        adapter = self.explainer(False).adapter
        return tuple(kind for kind, of in ((False, VisionAdapter), (True, TextAdapter)) if not isinstance(adapter, of))

    @property
    def asks(self) -> bool:
        """Whether the model takes a picture with a text: a question about it."""
        return self.model is not None and reads_both(self.explainer(False))

    def explainer(self, picture: bool) -> Explainer:
        """The one for this kind of input; the same for both if a model was named."""
        key = picture and self.model is None
        with self._loading:
            if key not in self._explainers:
                network, processor = load_model(self.model, key)
                self._explainers[key] = Explainer(network.to(self.device), processor)
            return self._explainers[key]

    def explain(self, given: MutableMapping[str, Any]) -> list[Explanation]:
        """What the form asks for: one, or of a picture and a text that are compared two.

        Raises:
            AttCATError: if it cannot be done.
        """
        picture, text, pair = given["picture"], given["text"], given["pair"]
        if self.asks and picture and not text.strip():
            raise InputError("this model reads a text with its pictures: ask something about the picture")
        if not self.asks and bool(picture) == bool(text.strip()):
            raise InputError("give a text or a picture" + (", and not both" if picture else ""))
        if max(len(text), len(pair)) > LONGEST:
            raise InputError(f"a text has at most {LONGEST:,} characters here, got {max(len(text), len(pair)):,}")
        explainer = Explainer(self.explainer(bool(picture)).adapter, method=given["method"])
        if bool(picture) not in self.kinds:
            what = ("a picture", "reads text") if picture else ("a text", "sees pictures")
            raise InputError(f"{what[0]} was given, but {type(explainer.adapter.model).__name__} {what[1]}")
        seen = read_picture(io.BytesIO(picture)) if picture else None
        value = (text, pair) if pair.strip() else text
        asked: Any = value if seen is None else (seen, text) if self.asks else seen
        found = explainer(asked, named_class(given["target"].strip() or None, explainer), truncation=True)
        both = [found] if isinstance(found, Explanation) else list(found)
        return [one.of_block(_block(given["block"])) for one in both] if given["block"].strip() else both

    def labels(self) -> list[str]:
        """Of the classes, if they are few enough to be offered."""
        every = [label for kind in self.kinds for label in self.explainer(kind).adapter.labels or ()]
        return every if len(every) <= 1000 else []


def _block(given: str) -> int:
    try:
        return int(given[:9])
    except ValueError:
        raise InputError(f"the block is a number, got {given[:20]!r}") from None


# -- requests ----------------------------------------------------------------------------------------------------------


def application(service: Service, host: str) -> Starlette:
    """The page as an ASGI application, for requests that name this host (or any, if it listens to all)."""
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def form(request: Request) -> Response:
        return await show(blank(service), None, 200)

    async def explain(request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "this page takes its own form only")
        given = await read(request, service)
        try:
            found = await run_sync(service.explain, given, limiter=limiter)
            body, status = await run_sync(lambda: page(found, "Why?")), 200
        except AttCATError as error:
            body, status = _failed(in_shell(error)), 400
        except Exception as error:  # whatever a model raises on this input is this request's own
            body, status = _failed(unexpected(error)), 500
        return await show(given, body, status)

    async def show(given: MutableMapping[str, Any], body: str | None, status: int) -> Response:
        content = await run_sync(_page, service, given, body)
        return HTMLResponse(
            content, status, {"Content-Security-Policy": _policy(), "X-Content-Type-Options": "nosniff"}
        )

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await show(blank(service), _failed(error.detail), error.status_code)

    names = ["*"] if host in ("0.0.0.0", "::") else [host, "localhost", "127.0.0.1", "[::1]"]
    return Starlette(
        routes=[Route("/", form, methods=["GET"]), Route("/", explain, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(Limited)],
        exception_handlers={HTTPException: failed},
    )


def blank(service: Service) -> dict[str, Any]:
    """The fields of a form nobody has filled in."""
    return {"text": "", "pair": "", "picture": b"", "target": "", "block": "", "method": service.method}


async def read(request: Request, service: Service) -> dict[str, Any]:
    """The fields of the form.

    Raises:
        HTTPException: if the request is not such a form.
    """
    given = blank(service)
    async with request.form(max_files=1, max_fields=8, max_part_size=4 * LONGEST) as fields:
        for name, value in fields.items():
            if name == "picture" and isinstance(value, UploadFile):
                given[name] = await value.read()
            elif name in given and name != "picture" and isinstance(value, str):
                given[name] = value
    return given


class Limited:
    """Ends a request whose body is longer than `LARGEST`, whatever it says about its length."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI calls it."""
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > LARGEST:
                raise HTTPException(413, f"the upload is larger than {LARGEST >> 20} MB: make the picture smaller")
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)


# -- the page ------------------------------------------------------------------------------------------------------------

STYLE = """
:root{color-scheme:light dark;background:#fff;color:#111;--line:#c4c4c4;--pale:#f1f1f1}
@media (prefers-color-scheme:dark){:root{background:#111;color:#f4f4f4;--line:#4a4a4a;--pale:#222}}
body{margin:0;font:16px/1.5 system-ui,sans-serif;display:flex;flex-direction:column;min-height:100vh}
form,.error{padding:.8rem clamp(.75rem,3vw,2rem);max-width:76rem;width:100%;box-sizing:border-box;margin:0 auto}
h1{font-size:1.3rem;margin:0 0 .5rem}
label{display:block;font-size:.9em;margin-top:.4rem}.fields label{margin:0}
textarea,input,select{font:inherit;color:inherit;background:var(--pale);border:1px solid var(--line);border-radius:.3em;
padding:.35em .5em;width:100%;box-sizing:border-box}
.fields{display:grid;gap:.6rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,14rem),1fr));margin:.6rem 0}
button{font:inherit;font-weight:600;padding:.4em 1.4em;border-radius:.3em;border:1px solid;background:#111;color:#fff}
@media (prefers-color-scheme:dark){button{background:#f4f4f4;color:#111}}
:focus-visible{outline:2px solid;outline-offset:2px}
iframe{flex:1;border:0;border-top:1px solid var(--line);width:100%;min-height:70vh}
.error{border-left:.4rem solid #b3261e;margin-top:.5rem}
"""

FORM = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>AttCAT: why?</title>
<style>{style}</style>
</head>
<body>
<form method="post" enctype="multipart/form-data">
<h1>Why did the model say that?</h1>
{inputs}
<div class="fields">
<label>Class to explain (empty: the predicted one)<input name="target" list="labels" value="{target}" autocomplete="off"></label>
<datalist id="labels">{labels}</datalist>
<label>Method<select name="method">{methods}</select></label>
<label>Block (empty: all)<input name="block" type="number" min="1" value="{block}"></label>
</div>
<button>Explain</button>
</form>
{below}
</body>
</html>
"""

TEXT = """<label>A text<textarea name="text" rows="3" maxlength="{longest}" dir="auto">{text}</textarea></label>
<label>A second text, for models that read pairs<input name="pair" value="{pair}" dir="auto"></label>
"""
QUESTION = """<label>A question about it<textarea name="text" rows="3" maxlength="{longest}" dir="auto">{text}</textarea></label>
"""
PICTURE = """<label>A picture<input type="file" name="picture" accept="image/*"></label>
"""


def _page(service: Service, given: MutableMapping[str, Any], body: str | None) -> str:
    inputs = [PICTURE if kind else TEXT for kind in service.kinds]
    inputs = [PICTURE, QUESTION] if service.asks else inputs
    texts = {name: escape(given[name]) for name in ("text", "pair", "target", "block")}
    names = dict.fromkeys([given["method"], *(name for name, *_ in METHODS)])
    return FORM.format(
        style=STYLE,
        inputs="".join(part.format(longest=LONGEST, **texts) for part in inputs),
        target=texts["target"],
        block=texts["block"],
        labels="".join(f'<option value="{escape(label)}">' for label in service.labels()),
        methods="".join(f"<option{' selected' * (n == given['method'])}>{escape(n)}</option>" for n in names),
        below="" if body is None else body if body.startswith("<p ") else _framed(body),
    )


def _framed(body: str) -> str:
    """The report in a frame of its own, whose script reaches nothing outside of it."""
    return f'<iframe title="The explanation" sandbox="allow-scripts" srcdoc="{escape(body)}"></iframe>'


def _failed(message: str) -> str:
    return f'<p class="error" role="alert">{escape(message)}</p>'


@cache
def _policy() -> str:
    """As the report's own, which a frame inherits, but the form may be sent to this page."""
    return html.rules(report.script()).replace("form-action 'none'", "form-action 'self'")
