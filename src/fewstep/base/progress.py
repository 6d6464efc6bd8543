"""How far a long task is: a bar on a terminal, a line a minute in a log file, or nothing."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS = 60.0  # between two lines


class Progress:
    """Counts what is done; `with Progress(total, "sample") as progress: progress.update(256)`.

    show: False prints nothing, notes included. A terminal that is gone is no error.
    A bar exists only where it is seen, since forked processes share tqdm's lock: one that is killed
    while it holds the lock would stop the others for ever.
    """

    def __init__(self, total: float, unit: str, *, initial: float = 0, show: bool = True) -> None:
        self.total, self.unit, self.initial, self.position = total, unit, initial, initial
        self.show = show
        self.start = time.monotonic()
        self.next_line = self.start + SECONDS
        self.bar: tqdm | None = None
        if show and sys.stderr.isatty() and not os.environ.get("TQDM_DISABLE"):
            is_scaled = total >= 1000 or total % 1 > 0  # 12.3k, but 48 and not 48.0
            self.bar = tqdm(total=total, initial=initial, unit=unit, unit_scale=is_scaled)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()

    def update(self, n: float = 1, **facts: str) -> None:
        """Counts n more. facts: what else the bar or line says, such as loss="0.12"."""
        self.position += n
        with suppress(OSError):
            if self.bar is not None:
                self.bar.set_postfix(facts, refresh=False)
                self.bar.update(n)
            elif self.show and time.monotonic() >= self.next_line:
                self.next_line = time.monotonic() + SECONDS
                print(self.line(**facts), file=sys.stderr, flush=True)

    def grow(self, n: float) -> None:
        """There are n more to count than was known."""
        self.total += n
        if self.bar is not None:
            self.bar.total = self.total

    def line(self, **facts: str) -> str:
        """One line for a log: step 1200 of 4000, loss 0.12, 31000 samples/s, 0:01:30 left."""
        rate = (self.position - self.initial) / max(time.monotonic() - self.start, 1e-9)
        left = int((self.total - self.position) / max(rate, 1e-9))
        hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
        return ", ".join(
            [
                *(f"{name} {value}" for name, value in facts.items()),
                f"{rate:.3g} {self.unit}s/s" if rate < 100 else f"{rate:.0f} {self.unit}s/s",
                f"{hours}:{minutes:02}:{seconds:02} left",
            ]
        )

    def note(self, text: str) -> None:
        """A line on stderr that does not break the bar; nothing of an empty one."""
        if not text:
            return
        with suppress(OSError):
            if self.bar is not None:
                self.bar.write(text, file=sys.stderr)
            elif self.show:
                print(text, file=sys.stderr, flush=True)

    def result(self, text: str) -> None:
        """A line on stdout, whatever `show` is, that does not break the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()
