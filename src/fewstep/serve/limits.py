"""What a server takes from its clients at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fewstep.base.errors import require

MOST = 10**9  # of any limit


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes and times beyond which a request is refused or a connection closed."""

    n: int = 1024  # samples of one request
    steps: int = 128  # evaluations of the network for each sample
    body: int = 2**16  # bytes of a request's body
    queue: int = 8192  # samples of all requests whose answers are not yet sent
    connections: int = 512
    seconds: float = 120.0  # until a request's samples are there
    read_seconds: float = 10.0  # until a request's head is there, and then its body
    idle_seconds: float = 30.0  # that a connection stays open without a request
    stall_seconds: float = 30.0  # that a client may take nothing of its answer

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            require(0 < value < MOST, name, value, f"above 0, and below {MOST}")
        require(self.queue >= self.n, "queue", self.queue, f"at least n = {self.n}")
