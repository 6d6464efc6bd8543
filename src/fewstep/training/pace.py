"""What a run will take, told once from its first steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

WARM = 3  # steps that do not count, since the first ones are slower
ENOUGH = 10  # steps after which it is told
LONG = 30.0  # seconds after which fewer steps are enough
DAY = 24 * 3600.0


@dataclass
class Pace:
    """The times of the first steps, of `total` that this process has to make."""

    total: int
    ends: list[float] = field(default_factory=list)  # of the steps so far, in seconds
    is_told: bool = False

    def after_step(self) -> str:
        """Called after every step: once it is a line on what all of them take, else ""."""
        if self.is_told:
            return ""
        self.ends.append(time.monotonic())
        count = len(self.ends)
        if count < 2 or (count < ENOUGH and self.ends[-1] - self.ends[0] < LONG):
            return ""
        self.is_told = True
        first = min(WARM, count - 1) - 1
        step = (self.ends[-1] - self.ends[first]) / (count - 1 - first)
        return forecast(step, self.total - count)


def forecast(step: float, count: int) -> str:
    """The line for `count` more steps of so many seconds each; "" where none is left."""
    if count < 1:
        return ""
    line = f"a step takes {duration(step)}: {count} more about {duration(step * count)}"
    if step * count <= DAY:
        return line
    return (
        f"{line}, which is more than a day: take fewer --iterations, a smaller --batch or network,"
        " or another --device"
    )


def duration(seconds: float) -> str:
    """Seconds for a reader: 0.12 s, 45 s, 8 min, 5.5 h, 12 days."""
    for unit, size, most in (("s", 1.0, 100.0), ("min", 60.0, 6000.0), ("h", 3600.0, 2 * DAY)):
        if seconds < most:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / DAY:.0f} days"
