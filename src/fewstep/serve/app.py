"""The server's pages: GET /health, GET /v1/model, POST /v1/samples."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from torch import Tensor

from fewstep.base.errors import FewstepError, NonFiniteError, OutOfMemory, UserError
from fewstep.base.memory import ran_out
from fewstep.base.surroundings import surroundings
from fewstep.run.generator import Generator
from fewstep.run.plan import Plan
from fewstep.serve import answers, asking, facts
from fewstep.serve.answers import Answer, Refusal
from fewstep.serve.batching import Batcher
from fewstep.serve.body import read_body
from fewstep.serve.hosts import HostCheck
from fewstep.serve.limits import Limits

log = logging.getLogger("fewstep")

QUICK = 2**20  # bytes of an array that is written without another thread's help

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]
Endpoint = Callable[[Request], Awaitable[Response]]


def app(
    generator: Generator,
    limits: Limits | None = None,
    *,
    batch: int | None = None,
    workers: int | None = None,
    thread_count: int | None = None,
    hosts: Sequence[str] = (),
    pages: Sequence[BaseRoute] = (),
) -> Starlette:
    """A generator as an ASGI application.

    batch, workers, thread_count: as for `Batcher`. hosts: the names that a Host header may have;
    none: any. pages: further routes.
    """
    batcher = Batcher(generator, batch=batch, workers=workers, thread_count=thread_count)
    service = Service(generator, limits or Limits(), batcher)
    routes: list[BaseRoute] = [
        Route("/health", plainly(service.health)),
        Route("/v1/model", plainly(service.model)),
        Route("/v1/samples", plainly(service.samples), methods=["POST"]),
        *pages,
    ]
    return application(routes, hosts, service.lifespan)


def application(routes: list[BaseRoute], hosts: Sequence[str], lifespan: Lifespan) -> Starlette:
    """These routes alone, for these hosts alone; without any, for all."""
    result = Starlette(
        routes=routes,
        middleware=[Middleware(HostCheck, names=hosts)] if hosts else [],
        exception_handlers={HTTPException: partial(unknown_page, routes)},
        lifespan=lifespan,
    )
    result.router.redirect_slashes = False
    return result


class Service:
    """A generator with its queue, and how its requests are answered."""

    def __init__(self, generator: Generator, limits: Limits, batcher: Batcher) -> None:
        self.generator = generator
        self.limits = limits
        self.batcher = batcher
        self.queue = 0  # samples of requests whose answers are not yet sent
        self.count = 0  # samples sent
        # JSON and pictures take long: one thread, since matplotlib's settings are the process's.
        self.encoder = ThreadPoolExecutor(1, "fewstep-answers")

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.batcher.start()
        await self._warm_up()
        yield
        await asyncio.to_thread(self.batcher.close)
        self.encoder.shutdown()

    async def _warm_up(self) -> None:
        """The first batch measures memory and fills caches; better now than for a client."""
        try:
            plan = self.plan(asking.Asking(seed=0))
        except UserError:
            return  # a condition that only a client can tell
        try:
            await asyncio.wrap_future(self.batcher.submit(plan))
        except Exception as error:
            log.warning("fewstep: no sample could be made: %s", error)

    async def health(self, _: Request) -> Response:
        generator = self.generator
        about = {
            "ready": self.batcher.is_alive,
            "model": facts.name(generator),
            "step": generator.step,
            "fingerprint": generator.fingerprint,
            "queue": self.queue,
            "samples": self.count,
        }
        return JSONResponse(about, 200 if self.batcher.is_alive else 503)

    async def model(self, _: Request) -> Response:
        return JSONResponse(facts.describe(self.generator, self.limits))

    async def samples(self, request: Request) -> Response:
        body = await read_body(request, self.limits)
        names = self.generator.facts.names
        wish = asking.read(body, request.headers.get("accept", ""), self.limits, names)
        plan = self.plan(wish)
        self._admit(plan.n)
        try:
            samples = await self._wait(plan, wish.exact, request)
            content = await self._encode(samples, plan, wish)
        except BaseException:
            self.queue -= plan.n
            raise
        headers = {"X-Seed": str(plan.seed), "X-Fingerprint": self.generator.fingerprint}
        return Answer(content, answers.MEDIA[wish.format], headers, partial(self._finish, plan.n))

    def plan(self, wish: asking.Asking) -> Plan:
        """How the generator will make what is asked for. Raises UserError."""
        with surroundings():
            return self.generator.plan(
                wish.n, steps=wish.steps, seed=wish.seed, cond=wish.cond, sampler=wish.sampler
            )

    def _admit(self, n: int) -> None:
        if self.queue + n > self.limits.queue:
            line = f"{self.queue} samples are waiting, and at most {self.limits.queue} may"
            raise Refusal(503, f"{line}: try again later", self._retry())
        self.queue += n

    def _retry(self) -> dict[str, str]:
        """When to try again: when what waits now will be there."""
        seconds = self.queue / self.batcher.rate if self.batcher.rate else 1.0
        return {"Retry-After": str(math.ceil(min(max(seconds, 1.0), 60.0)))}

    def _finish(self, n: int) -> None:
        self.queue -= n
        self.count += n

    async def _wait(self, plan: Plan, exact: bool, request: Request) -> Tensor:
        """The samples. Where the client goes, or waits too long, they are asked for no longer."""
        future = asyncio.wrap_future(self.batcher.submit(plan, exact=exact))
        leaving = asyncio.ensure_future(departure(request))
        try:
            either: set[asyncio.Future[Any]] = {future, leaving}
            seconds = self.limits.seconds
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            if leaving.done():
                raise Refusal(499, "the client has gone")
            line = f"no samples within {seconds:g} seconds: ask for fewer, or later"
            raise Refusal(503, line, self._retry())
        finally:
            leaving.cancel()
            future.cancel()

    async def _encode(self, samples: Tensor, plan: Plan, wish: asking.Asking) -> bytes:
        if wish.format == "npy" and samples.nbytes <= QUICK:
            return answers.npy(samples)
        work: Callable[[], bytes] = partial(answers.npy, samples)
        if wish.format == "png":
            work = partial(answers.png, samples, plan, self.generator.facts.look)
        elif wish.format == "json":
            about = facts.about(self.generator, plan, exact=wish.exact)
            work = partial(answers.json_text, samples, about)
        return await asyncio.get_running_loop().run_in_executor(self.encoder, work)


async def departure(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def plainly(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with every error as one line of JSON."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return refusal.response()
        except Exception as error:
            return refusal_of(error).response()

    return answer


def refusal_of(error: Exception) -> Refusal:
    """The answer to a request that raised an error."""
    if isinstance(error, UserError):
        return Refusal(400, str(error))
    if isinstance(error, OutOfMemory) or ran_out(error):
        line = str(error) if isinstance(error, OutOfMemory) else "out of memory"
        return Refusal(503, line, {"Retry-After": "10"})
    if isinstance(error, NonFiniteError):
        return Refusal(500, str(error))
    if not isinstance(error, FewstepError):
        log.error("fewstep: a request failed: %s: %s", type(error).__name__, error)
    return Refusal(500, "the server failed at this request, and says why in its log")


async def unknown_page(routes: Sequence[Any], request: Request, error: Exception) -> Response:
    """The answer for another path, or for a method that a path does not take."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    headers = dict(error.headers or {})
    if error.status_code == 405:
        methods = headers.get("Allow", "")
        return Refusal(405, f"{method} {path}: expected {methods}", headers).response()
    if error.status_code == 404:
        paths = ", ".join(route.path for route in routes if hasattr(route, "path"))
        return Refusal(404, f"no page {path}: there are {paths}").response()
    return Refusal(error.status_code, error.detail, headers).response()
