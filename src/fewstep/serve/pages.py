"""The routes of the page: its own files and the model's, each by its name alone."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fewstep.page import files
from fewstep.page.model import Model
from fewstep.serve.app import plainly

# Scripts and connections are the page's own alone; WebAssembly is compiled.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'"
    " data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def pages(model: Model) -> list[BaseRoute]:
    """The page at / and all its files. Raises UserError where the page was not built.

    The model is made before: what traces a network changes torch for all threads meanwhile.
    """
    content = {**files.own_files(), **model.all_files()}
    return [
        Route("/" if name == files.INDEX else f"/{name}", plainly(partial(_send, name, value)))
        for name, value in content.items()
    ]


async def _send(name: str, content: bytes, _: Request) -> Response:
    return Response(content, 200, _HEADERS, files.media_of(name))
