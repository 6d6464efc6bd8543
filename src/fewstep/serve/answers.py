"""Samples and refusals as the bytes of an answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from torch import Tensor

from fewstep.base.errors import one_line
from fewstep.data.pictures import Rows, draw
from fewstep.data.pictures.look import Look
from fewstep.run.plan import Plan

JSON = "application/json"
MEDIA = {"json": JSON, "npy": "application/x-npy", "png": "image/png"}
PIECE = 2**18  # bytes that are handed to a connection at once


class Refusal(Exception):
    """A request that gets no samples: the status, the reason in one line, further headers."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.headers = dict(headers or {})

    def response(self) -> Response:
        return Response(error_body(str(self)), self.status, self.headers, JSON)


def error_body(line: str) -> bytes:
    """{"error": line} as one line of JSON."""
    return json.dumps({"error": one_line(line)}).encode() + b"\n"


class Answer(Response):
    """A body that goes out in pieces, each when the client has taken the one before.

    So what a slow client has not taken is in memory once, and `after` is called when it is gone.
    """

    def __init__(
        self, content: bytes, media: str, headers: Mapping[str, str], after: Callable[[], None]
    ) -> None:
        super().__init__(content, 200, headers, media)
        self.after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(head)
            for first in range(0, len(self.body), PIECE):
                piece = bytes(self.body[first : first + PIECE])
                more = first + PIECE < len(self.body)
                await send({"type": "http.response.body", "body": piece, "more_body": more})
        finally:
            self.after()


def npy(samples: Tensor) -> bytes:
    """The samples as a .npy file."""
    file = io.BytesIO()
    np.save(file, samples.numpy(), allow_pickle=False)
    return file.getvalue()


def png(samples: Tensor, plan: Plan, look: Look) -> bytes:
    """The picture that `fewstep sample RUN --out x.png` draws, without rows of the data."""
    file = io.BytesIO()
    draw(file, [Rows("samples", samples, plan.cond)], look)
    return file.getvalue()


def json_text(samples: Tensor, about: Mapping[str, Any]) -> bytes:
    """What the answer is about, and the samples as nested lists of numbers that read back exactly.

    Row by row, since the encoder lets no other thread run while it works on one value.
    """
    head = {**about, "dtype": str(samples.dtype).removeprefix("torch."), "shape": [*samples.shape]}
    rows = (json.dumps(row.tolist()) for row in samples)
    return f'{json.dumps(head)[:-1]}, "samples": [{", ".join(rows)}]}}\n'.encode()
