"""The work of a child of `tests.support.crash`: a tiny run that counts calls to the disk.

They can be slowed, or end the process.
"""

from __future__ import annotations

import mmap
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHASES = ("elsewhere", "settled", "mkdir", "open", "write", "fsync", "rename", "remove", "rmdir")
INSIDE = range(2, len(PHASES))  # a checkpoint is half made or half removed

# The bytes of a gauge: the phase now, two flags, the number of calls in eight bytes, and the phase
# of each call.
PHASE, STARTED, PICTURE = 0, 1, 2
CALLS = slice(8, 16)
HISTORY = 16
GAUGE = 4096

# One run of each method, the cheapest that is still itself; tcm has both of its stages.
RUNS: dict[str, dict[str, Any]] = {
    "diffusion": {},
    "ct": {"method_options": {"s1": 20}},
    "cd": {"method_options": {"n": 12}, "teacher": "exact:ring8"},
    "ict": {"method_options": {"s1": 40}},
    "ect": {"averages": ("power:0.05",), "snapshot_every": 2},
    "direct_cm": {"method_options": {"n": 4}, "teacher": "exact:ring8"},
    "gc": {"method_options": {"base": {"method": "ict", "s1": 40}}},
    "mcm": {"method_options": {"steps": 16, "steps_end": 32}},
    "tcm": {"method_options": {"base": {"method": "ect", "stages": 3}}, "split": 0.5},
    "sct": {},
    "scd": {"teacher": "exact:ring8"},
}


def settings(name: str, **fields: Any) -> dict[str, Any]:
    """The fields of a method's tiny run, as JSON: what `toys.tiny_run` takes."""
    network = {"width": 8, "depth": 1, "dropout": 0.1}
    return {"method": name, "network_options": network, **RUNS[name], **fields}


@dataclass
class Gauge:
    """Bytes that outlive the process which writes them."""

    content: mmap.mmap

    @classmethod
    def at(cls, path: Path) -> Gauge:
        if not path.exists():
            path.write_bytes(bytes(GAUGE))
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), GAUGE))

    @property
    def phase(self) -> int:
        return self.content[PHASE]

    @property
    def calls(self) -> int:
        return int.from_bytes(self.content[CALLS], "little")

    def count(self) -> int:
        """Adds a call of the present phase; returns the number of calls."""
        number = self.calls + 1
        self.content[CALLS] = number.to_bytes(8, "little")
        if HISTORY + number < GAUGE:
            self.content[HISTORY + number] = self.phase
        return number

    def history(self) -> dict[int, str]:
        """The phase of each call by its number, from 1."""
        numbers = range(1, self.calls + 1)
        return {number: PHASES[self.content[HISTORY + number]] for number in numbers}


def phase(call: str, path: Path) -> int | None:
    """Where in the life of a checkpoint a call is; None for the log and other files."""
    if not path.name.startswith("step-") and path.parent.name[:5] != "step-":
        return 1 if path.name in ("checkpoints", "snapshots") else None
    return PHASES.index(call)


def watcher(gauge: Gauge, slow: float = 0.0, exit_before: int = 0) -> Callable[[str, Path], None]:
    """A `disk.watch` that tells the gauge, sleeps, and ends the process before the n-th call."""

    def watch(call: str, path: Path) -> None:
        now = phase(call, path)
        if now is not None:
            gauge.content[PHASE] = now
            time.sleep(slow)
        if gauge.count() == exit_before:
            os._exit(137)

    return watch


def train(
    folder: str,
    fields: dict[str, Any],
    gauge: str,
    slow: float = 0.0,
    exit_before: int = 0,
    chunk: int = 2**20,
    beside: bool = True,
    prints: bool = False,
    stop: int = 0,
    most: int = 0,
) -> dict[str, Any]:
    """Trains or resumes a run without pictures; returns seconds and, with `prints`, fingerprints.

    beside: saves are made beside training; if False, a step waits for them, so that the order of
    calls is always the same. prints: the fingerprint of every step is returned. stop: the step
    after which the process ends. most: bytes of any file that the system lets it write.
    """
    import fewstep as fs
    from fewstep.base import disk
    from fewstep.run.checkpoint import saver
    from fewstep.training import recorder
    from fewstep.training.state import State
    from tests.support.toys import tiny_run

    fingerprints: dict[int, str] = {}
    meter = Gauge.at(Path(gauge))
    start = saver.Saver.start

    def start_and_note(self: saver.Saver, work: Callable[[], None]) -> None:
        def work_and_note() -> None:
            work()
            meter.content[PHASE] = 0

        start(self, work_and_note)
        if not beside:
            self.wait()

    def look(state: State) -> None:
        if prints:
            fingerprints[state.step] = state.fingerprint()
        if state.step == stop:
            os._exit(137)

    saver.Saver.start = start_and_note
    recorder.Recorder.draw = recorder.Recorder.draw_curves = lambda self: None
    disk.watch = watcher(meter, slow, exit_before)
    disk.CHUNK = chunk
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    start_time = time.monotonic()
    meter.content[STARTED] = 1
    fs.train(tiny_run(**fields), out=folder, resume=True, progress=False, device="cpu", watch=look)
    return {"seconds": time.monotonic() - start_time, "prints": fingerprints}


def cli(argv: list[str], gauge: str, slow: float = 0.0, has_pictures: bool = False) -> int:
    """The command line in a child; pictures, where it has any, take their time too."""
    from fewstep.base import disk
    from fewstep.cli import main
    from fewstep.data import pictures
    from fewstep.training import recorder

    meter = Gauge.at(Path(gauge))
    draw = pictures.draw

    def draw_slowly(*arguments: Any) -> str:
        meter.content[PICTURE] = 1
        time.sleep(20 * slow)
        about = draw(*arguments)
        meter.content[PICTURE] = 0
        return about

    pictures.draw = draw_slowly
    if not has_pictures:
        recorder.Recorder.draw = recorder.Recorder.draw_curves = lambda self: None
    disk.watch = watcher(meter, slow)
    meter.content[STARTED] = 1
    return main(argv)
