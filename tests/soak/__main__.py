"""Hours of faults: kills, damage and fuzzing until the time is up, each trial a function of a seed
of its own.

python -m tests.soak --minutes 45 --out soak.json        all parts, each with a share of the time on
every worker python -m tests.soak --only kills --seed 12345           one trial again
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.parts import PARTS
from tests.support.crash_child import RUNS

SHARES = {
    "kills": 0.4,
    "damage": 0.1,
    "processes": 0.12,
    "config": 0.1,
    "metadata": 0.23,
    "data": 0.05,
}  # of a worker's time
LONG = 10  # minutes from which on memory has settled and chance has met every method
WARM = 0.2  # share of the time after which memory and files are to stand still
SLOPE, FILES = (
    4.0,
    2,
)  # MiB an hour of resident memory, and open files, that may be gained from then on


@dataclass
class Found:
    """What a worker has seen."""

    trials: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    memory: list[tuple[float, float, int]] = field(default_factory=list)  # seconds, MiB, open files

    def trial(self, part: str, seed: int, one: Callable[..., dict[str, int]]) -> None:
        """One trial, counted; what it raises is a failure with the seed that makes it again."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.counts.update(one(seed, Path(folder)))
            self.trials[part] += 1
        except Exception as error:
            told = f"{type(error).__name__}: {error}"[:2000]
            self.failures.append({"part": part, "seed": seed, "told": told})
            print(f"FAILED {part}, again with --only {part} --seed {seed}: {told}", flush=True)

    def measure(self, seconds: float) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        opened = len(os.listdir("/proc/self/fd"))
        self.memory.append((seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, opened))


def work(seconds: float, seed: int, parts: list[str], said: Path) -> Found:
    """One worker: the part that is furthest behind its share is next, until the time is up."""
    found, spent, chance, begun = Found(), Counter[str](), random.Random(seed), time.monotonic()
    told = begun
    while (now := time.monotonic()) - begun < seconds:
        part = min(parts, key=lambda name: (spent[name] / SHARES[name], name))
        found.trial(part, chance.randrange(2**32), PARTS[part])
        spent[part] += time.monotonic() - now  # type: ignore[assignment]
        found.measure(now - begun)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{(told - begun) / 60:5.1f} min: {line(found)}", flush=True)
    said.write_text(json.dumps(vars(found)))
    return found


def line(found: Found) -> str:
    counts = ", ".join(f"{name} {number}" for name, number in sorted(found.counts.items()))
    return f"{counts}; failures {len(found.failures)}"


def slope(points: list[tuple[float, float, int]]) -> tuple[float, int] | None:
    """MiB an hour and open files that were gained after the warm-up, by least squares; None of too
    few points.
    """
    late = [point for point in points if point[0] >= WARM * points[-1][0]]
    if len(late) < 10:
        return None
    x, y = ([point[i] for point in late] for i in (0, 1))
    mean = sum(x) / len(x)
    spread = sum((a - mean) ** 2 for a in x)
    steep = sum((a - mean) * b for a, b in zip(x, y, strict=True)) / spread
    return steep * 3600, late[-1][2] - late[0][2]


def summary(workers: list[Found], args: argparse.Namespace) -> dict[str, Any]:
    """What all workers saw together, with no clock but the time that was asked for."""
    gained = [
        found and {"mib_per_hour": round(found[0], 2), "files": found[1]}
        for found in map(slope_of, workers)
    ]
    failures = [one for found in workers for one in found.failures]
    counts: Counter[str] = sum((found.counts for found in workers), Counter())
    if args.minutes >= LONG:
        for number, one in enumerate(gained):
            if one and (one["mib_per_hour"] > SLOPE or one["files"] > FILES):
                failures.append({"part": "leak", "worker": number, "told": json.dumps(one)})
        few = [name for name in RUNS if counts[f"kills of {name}"] < 3 and "kills" in args.parts]
        failures += [
            {"part": "kills", "told": f"{name} was killed less than 3 times"} for name in few
        ]
    return {
        "minutes": args.minutes,
        "seed": args.seed,
        "workers": len(workers),
        "python": platform.python_version(),
        "torch": __import__("torch").__version__,
        "trials": dict(sum((found.trials for found in workers), Counter())),
        "counts": dict(sorted(counts.items())),
        "gained": gained,
        "failures": failures,
    }


def slope_of(found: Found) -> tuple[float, int] | None:
    return slope(found.memory) if found.memory else None


def loaded(path: Path) -> Found:
    """What a worker wrote; one that wrote nothing is a failure."""
    if not path.exists():
        return Found(failures=[{"part": "worker", "told": f"{path.name} was never written"}])
    told = json.loads(path.read_text())
    return Found(Counter(told["trials"]), Counter(told["counts"]), told["failures"], told["memory"])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--only", choices=PARTS, help="one trial of this part, whose seed is --seed"
    )
    parser.add_argument("--out", type=Path, help="where the summary goes")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parsed()
    if args.only:
        found = Found()
        found.trial(args.only, args.seed, PARTS[args.only])
        print(line(found))
        return 1 if found.failures else 0
    if args.worker:
        work(60 * args.minutes, args.seed, args.parts.split(","), args.worker)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"worker-{number}.json" for number in range(args.workers)]
        given = ["--minutes", str(args.minutes), "--parts", args.parts]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.soak",
                    *given,
                    "--seed",
                    str(1000 * args.seed + n),
                    "--worker",
                    str(file),
                ],
                env=environment,
            )
            for n, file in enumerate(files)
        ]
        codes = [process.wait() for process in started]
        told = summary([loaded(file) for file in files], args)
    text = json.dumps(told, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if told["failures"] or any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
