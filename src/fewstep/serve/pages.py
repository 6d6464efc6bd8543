"""The routes of the page: its files by their names, and the model's, made when first asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fewstep.page import files
from fewstep.page.model import DATA, Model
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
_MODELS = {
    DATA: "application/json",
    **{
        f"{name}{part}.onnx": "application/octet-stream"
        for name in ("student", "teacher")
        for part in ("", "-units")
    },
}


class Pages:
    """The page and the files of a model, which are made once, in a thread of their own.

    make: the model, which takes seconds.
    """

    def __init__(self, make: Callable[[], Model]) -> None:
        self.make = make
        self.task: asyncio.Task[dict[str, bytes]] | None = None

    def begin(self) -> asyncio.Task[dict[str, bytes]]:
        """The making, which goes on whoever waits for it."""
        if self.task is None:
            self.task = asyncio.create_task(asyncio.to_thread(self._all))
        return self.task

    def _all(self) -> dict[str, bytes]:
        return self.make().all_files()

    async def page(self, content: bytes, media: str, _: Request) -> Response:
        """A file of the page itself; the model is made meanwhile."""
        self.begin()
        return Response(content, 200, _HEADERS, media)

    async def file(self, name: str, media: str, _: Request) -> Response:
        """A file of the model."""
        content = (await asyncio.shield(self.begin())).get(name)
        if content is None:
            return Response(status_code=404)
        return Response(content, 200, _HEADERS, media)

    def routes(self) -> list[BaseRoute]:
        """The page at /, and files by their names alone. Raises UserError where none was built."""
        own = files.own_files()
        paths = {name: "/" if name == files.INDEX else f"/{name}" for name in own}
        return [
            *(
                Route(paths[name], plainly(partial(self.page, content, files.MEDIA[name])))
                for name, content in own.items()
            ),
            *(
                Route(f"/{name}", plainly(partial(self.file, name, media)))
                for name, media in _MODELS.items()
            ),
        ]
