"""The check of the Host header, against pages of other sites.

A site can point its own name at 127.0.0.1 once its page is open (DNS rebinding); the browser then
lets the page talk to this server, but still sends the site's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fewstep.serve.answers import Refusal

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class HostCheck:
    """An application that answers under these names alone."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app = app
        self.names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host")
            if host is not None and without_port(host) not in self.names:
                names = ", ".join(sorted(self.names))
                refusal = Refusal(421, f"Host: {host}: expected one of {names}")
                await refusal.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


def without_port(host: str) -> str:
    """The name or address in a Host header, in lower case."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdecimal() else host.strip().lower()
