"""The process that listens: its address, its signals, its end."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from fewstep.base.errors import UserError, require
from fewstep.serve.connection import connection
from fewstep.serve.limits import Limits

HEAD = 2**14  # bytes of a request's head


def bind(host: str, port: int) -> socket.socket:
    """A socket with that address, which does not listen yet. Raises UserError."""
    require(0 <= port < 2**16, "--port", port, "0 to 65535, where 0 takes a free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    result = socket.socket(family, socket.SOCK_STREAM)
    try:
        result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        result.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        result.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: {reason}: expected a free port of this machine, such as"
            " --port 0 for any"
        ) from error
    return result


def address(one: socket.socket) -> str:
    """The URL of a socket."""
    host, port = one.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(one: socket.socket) -> bool:
    """Whether this machine alone can reach a socket."""
    return ipaddress.ip_address(one.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """uvicorn's server: it says when it is ready, and a signal that stops it is no failure."""

    def __init__(self, config: uvicorn.Config, when_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.when_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def server(page: Starlette, limits: Limits, when_ready: Callable[[], None]) -> Server:
    """A server to `run` with a bound socket, until a signal: then it finishes what it has."""
    config = uvicorn.Config(
        page,
        http=connection(limits),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEAD,
        timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]  # any number of seconds
        timeout_graceful_shutdown=int(limits.seconds + limits.stall_seconds),
    )
    return Server(config, when_ready)
