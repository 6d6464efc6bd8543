"""A connection that ends where its client is too slow, or where there are too many of them.

uvicorn has a time for connections without a request alone. A client that sends a head byte by
byte, or never reads its answer, would hold a place for ever.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from fewstep.serve.answers import JSON, error_body
from fewstep.serve.limits import Limits

LINGER = 1.0  # seconds in which a client may read why it is turned away


class Connection(H11Protocol):
    """uvicorn's connection, with limits."""

    limits: ClassVar[Limits] = Limits()
    is_over = False  # turned away
    left = 0  # bytes that the client has not taken
    head_timer: asyncio.TimerHandle | None = None
    stall_timer: asyncio.TimerHandle | None = None

    @property
    def has_no_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # The protocol hears of every byte that the client has not taken.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self.limits.connections:
            self.turn_away(503, "too many connections: try again later")
        else:
            self.await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.head_timer, self.stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            return
        super().data_received(data)
        if self.has_no_request:
            self.await_head()
        elif self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def await_head(self) -> None:
        """The time begins in which the head of a request must be there."""
        if self.head_timer is None:
            seconds = self.limits.read_seconds
            self.head_timer = self.loop.call_later(seconds, self.end_slow_head)

    def end_slow_head(self) -> None:
        self.head_timer = None
        if self.has_no_request and not self.transport.is_closing():
            seconds = self.limits.read_seconds
            self.turn_away(408, f"no request within {seconds:g} seconds: expected a quicker one")

    def send_400_response(self, msg: str) -> None:
        self.turn_away(400, f"no HTTP that this server reads: {msg.rstrip('.')}")

    def turn_away(self, status: int, line: str) -> None:
        """Says why and closes, without closing so early that the reason is lost."""
        self.is_over = True
        if not self.has_no_request and self.cycle.response_started:
            self.transport.close()
            return
        body = error_body(line)
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"content-type: {JSON}",
            f"content-length: {len(body)}",
            *(["retry-after: 1"] if status == 503 else []),
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        if not self.has_no_request:
            self.transport.close()  # now, so that who works on the request hears of it
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.left = self.transport.get_write_buffer_size()
        self.watch()

    def resume_writing(self) -> None:
        if self.stall_timer is not None:
            self.stall_timer.cancel()
            self.stall_timer = None
        super().resume_writing()

    def watch(self) -> None:
        self.stall_timer = self.loop.call_later(self.limits.stall_seconds, self.end_stall)

    def end_stall(self) -> None:
        """Ends a connection whose client has taken nothing since the last look."""
        left = self.transport.get_write_buffer_size()
        if left >= self.left:
            self.transport.abort()
            return
        self.left = left
        self.watch()


def connection(limits: Limits) -> type[Connection]:
    """The kind of connections with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
