"""The signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that gets the first signal to stop; a second one acts as without this.

    They are SIGINT, SIGTERM, SIGHUP, and SIGUSR1, by which Slurm's users ask for the same.
    """
    requests: list[int] = []
    handlers: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        requests.append(number)
        restore()

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    try:
        for number in STOPS:
            handlers[number] = signal.signal(number, note)
        hang_up = getattr(signal, "SIGHUP", None)
        # A hang-up that nohup ignores stays ignored.
        if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
            handlers[hang_up] = signal.signal(hang_up, note)
        user = getattr(signal, "SIGUSR1", None)
        # It may mean something else to the program around this.
        if user is not None and signal.getsignal(user) is signal.SIG_DFL:
            handlers[user] = signal.signal(user, note)
    except ValueError:
        pass  # outside the main thread no handler can be set
    try:
        yield requests
    finally:
        restore()
