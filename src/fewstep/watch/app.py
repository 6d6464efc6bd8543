"""The server's pages: all runs at /, one at /run/N, its examination, and runs side by side."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fewstep.serve.answers import Refusal
from fewstep.serve.app import application, plainly
from fewstep.watch import pages
from fewstep.watch.examination import Doctor
from fewstep.watch.reading import Look, Runs

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src {style}; img-src data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
T = TypeVar("T")
_NUMBER = re.compile("[0-9]{1,5}")
_STYLE = re.compile("<style>(.*?)</style>", re.DOTALL)
SITES = (None, "same-origin", "none")  # where a request may come from that starts work


def app(runs: Runs, doctor: Doctor | None = None, *, hosts: Sequence[str] = ()) -> Starlette:
    """The runs as an ASGI application, which writes nothing into them.

    doctor: who is asked; left out, one on the CPU. hosts: the names that a Host header may have;
    none: any.
    """
    service = Service(runs, doctor or Doctor("cpu"))
    routes: list[BaseRoute] = [
        Route("/", plainly(service.all)),
        Route("/compare", plainly(service.comparison)),
        Route("/run/{number}", plainly(service.run)),
        Route("/run/{number}/doctor", plainly(service.examination)),
        Route("/run/{number}/doctor/start", plainly(service.start)),
        Route(pages.SCRIPT, plainly(service.script)),
    ]
    return application(routes, hosts, service.lifespan)


class Service:
    """The runs and their doctor, and how requests are answered."""

    def __init__(self, runs: Runs, doctor: Doctor) -> None:
        self.runs = runs
        self.doctor = doctor
        self.drawings = pages.Drawings()
        # One thread, since matplotlib's settings are the process's.
        self.drawer = ThreadPoolExecutor(1, "fewstep-watch")

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self.drawer.shutdown(cancel_futures=True)

    async def all(self, _: Request) -> Response:
        def work() -> str:
            looks = self.runs.looks()
            return pages.of_all(looks, self.runs.problems)

        return await self._answer(work)

    async def comparison(self, _: Request) -> Response:
        return await self._answer(lambda: pages.of_comparison(self.runs.looks()))

    async def run(self, request: Request) -> Response:
        def work() -> str:
            look, doctor = self._look(request), self.doctor
            return pages.of_run(
                look, doctor.last.get(look.number), self._is_asked(look), self.drawings
            )

        return await self._answer(work)

    async def examination(self, request: Request) -> Response:
        """What the doctor said. It starts nothing."""

        def work() -> str:
            look = self._look(request)
            return pages.of_doctor(look, self.doctor.last.get(look.number), self._is_asked(look))

        return await self._answer(work)

    async def start(self, request: Request) -> Response:
        """Asks the doctor; no page of another site and no prefetch can."""
        head = request.headers
        if head.get("sec-fetch-site") not in SITES or "prefetch" in head.get("sec-purpose", ""):
            raise Refusal(403, "the doctor is asked by a click on this server's own page alone")
        look = await self._in_thread(lambda: self._look(request))
        if look.checkpoint is None:
            raise Refusal(409, f"{look.title} has no checkpoint to examine yet")
        if not self.doctor.start(look.number, look.checkpoint):
            raise Refusal(503, "the doctor is with another run: ask when it is done")
        return RedirectResponse(f"/run/{look.number}/doctor", 303, _HEADERS)

    async def script(self, _: Request) -> Response:
        return Response(pages.REFRESH, 200, _HEADERS, "text/javascript")

    def _look(self, request: Request) -> Look:
        """The run whose number is in the path. Raises Refusal."""
        text = request.path_params["number"]
        self.runs.refresh()
        count = len(self.runs.folders)
        if not _NUMBER.fullmatch(text) or int(text) >= count:
            there = f"0 to {count - 1}" if count > 1 else "0 alone" if count else "none yet"
            raise Refusal(404, f"no run {text}: there is {there}")
        return self.runs.look(int(text))

    def _is_asked(self, look: Look) -> bool:
        patient = self.doctor.patient
        return patient is not None and patient[0] == look.number

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.drawer, work)

    async def _answer(self, work: Callable[[], str]) -> Response:
        """The page that the work makes, with a policy that names its own style alone."""
        html = await self._in_thread(work)
        styles = [
            f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'"
            for one in _STYLE.findall(html)
        ]
        policy = _POLICY.format(style=" ".join(styles) or "'none'")
        return Response(html, 200, {**_HEADERS, "Content-Security-Policy": policy}, "text/html")
