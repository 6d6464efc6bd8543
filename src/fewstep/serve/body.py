"""The body of a request: JSON by its type, of bounded size, within a bounded time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from fewstep.serve.answers import JSON, Refusal
from fewstep.serve.limits import Limits

DRAIN = 16  # times the limit that are read and dropped, so that a client reads its answer

CLOSE = {"Connection": "close"}


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body's bytes. Raises Refusal for another type, too many bytes, or a slow client."""
    content = bytearray()
    size = 0
    is_announced = int(request.headers.get("content-length", 0)) > limits.body
    if is_announced and "expect" in request.headers:
        raise too_large(limits)  # the client has not sent it yet
    try:
        async with asyncio.timeout(limits.read_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size <= limits.body:
                    content += piece
                if size > DRAIN * limits.body:
                    break
    except TimeoutError:
        raise Refusal(
            408, f"no body within {limits.read_seconds:g} seconds: expected a quicker one", CLOSE
        ) from None
    except ClientDisconnect:
        raise Refusal(499, "the client has gone") from None
    if size > limits.body:
        raise too_large(limits)
    check_type(request)
    return bytes(content)


def too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the body has more than {limits.body} bytes: expected fewer", CLOSE)


def check_type(request: Request) -> None:
    """Raises Refusal for what is not JSON.

    A browser sends other types to any server, for the page of any site, but asks before it sends
    JSON; this server does not allow it.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != JSON:
        line = f"Content-Type: {kind or 'none'}: expected {JSON}"
        raise Refusal(415, f"{line} (curl -H 'Content-Type: {JSON}')")
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise Refusal(415, f"Content-Encoding: {coding}: expected none")
    if request.url.query:
        query = request.url.query[:80]
        raise Refusal(400, f"?{query}: expected the values in the body, as JSON")
