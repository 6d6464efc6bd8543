"""The signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that the first SIGINT, SIGTERM or SIGHUP is put on; a second one acts as if nobody
    listened.
    """
    received: list[int] = []
    kept: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in kept.items():
            signal.signal(number, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            nohup = (
                number not in (signal.SIGINT, signal.SIGTERM)
                and signal.getsignal(number) is signal.SIG_IGN
            )
            if number not in kept and not nohup:  # a hang-up that nohup ignores stays ignored
                kept[number] = signal.signal(number, note)
    except ValueError:
        pass  # outside the main thread signals are somebody else's
    try:
        yield received
    finally:
        restore()
