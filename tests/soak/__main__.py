"""Hours of kills, damage and fuzzing until the time is up; each trial is a function of its seed.

python -m tests.soak --minutes 45 --out soak.json    all parts, each with its share on every worker
python -m tests.soak --only kills --seed 12345       one trial again
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

# Of a worker's time.
SHARES = {
    "kills": 0.34,
    "ends": 0.08,
    "full disk": 0.04,
    "damage": 0.08,
    "processes": 0.12,
    "config": 0.1,
    "metadata": 0.19,
    "data": 0.05,
}
LONG = 10  # minutes from which on memory has settled and chance has met every method
WARM = 0.2  # share of the time after which memory and files are to stand still
SLOPE = 4.0  # MiB of resident memory that may be gained in an hour from then on
FILES = 2  # open files that may be gained from then on


@dataclass
class Log:
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
            text = f"{type(error).__name__}: {error}"[:2000]
            self.failures.append({"part": part, "seed": seed, "told": text})
            print(f"FAILED {part}, again with --only {part!r} --seed {seed}: {text}", flush=True)

    def measure(self, seconds: float) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        self.memory.append((seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files))

    def line(self) -> str:
        counts = [f"{name} {number}" for name, number in sorted(self.counts.items())]
        return f"{', '.join(counts)}; failures {len(self.failures)}"


def work(seconds: float, seed: int, parts: list[str], output: Path) -> None:
    """One worker: the part that is furthest behind its share is next, until the time is up."""
    log = Log()
    chance = random.Random(seed)
    used = dict.fromkeys(parts, 0.0)
    start = printed_at = time.monotonic()
    while (now := time.monotonic()) - start < seconds:
        part = min(parts, key=lambda name: (used[name] / SHARES[name], name))
        log.trial(part, chance.randrange(2**32), PARTS[part])
        used[part] += time.monotonic() - now
        log.measure(now - start)
        if time.monotonic() - printed_at > 60:
            printed_at = time.monotonic()
            print(f"{(printed_at - start) / 60:5.1f} min: {log.line()}", flush=True)
    output.write_text(json.dumps(vars(log)))


def slope(points: list[tuple[float, float, int]]) -> dict[str, float] | None:
    """MiB an hour and open files that were gained after the warm-up; None of too few points.

    By least squares over (seconds, MiB, open files).
    """
    if not points:
        return None
    late = [point for point in points if point[0] >= WARM * points[-1][0]]
    if len(late) < 10:
        return None
    x = [point[0] for point in late]
    y = [point[1] for point in late]
    mean = sum(x) / len(x)
    spread = sum((a - mean) ** 2 for a in x)
    steep = sum((a - mean) * b for a, b in zip(x, y, strict=True)) / spread
    return {"mib_per_hour": round(steep * 3600, 2), "files": late[-1][2] - late[0][2]}


def summary(logs: list[Log], args: argparse.Namespace) -> dict[str, Any]:
    """What all workers saw together, with no clock but the time that was given."""
    gains = [slope(log.memory) for log in logs]
    failures = [one for log in logs for one in log.failures]
    counts: Counter[str] = sum((log.counts for log in logs), Counter())
    if args.minutes >= LONG:
        for number, gain in enumerate(gains):
            if gain and (gain["mib_per_hour"] > SLOPE or gain["files"] > FILES):
                failures.append({"part": "leak", "worker": number, "told": json.dumps(gain)})
        for name in RUNS:
            if "kills" in args.parts and counts[f"kills of {name}"] < 3:
                failures.append({"part": "kills", "told": f"{name} was killed less than 3 times"})
    return {
        "minutes": args.minutes,
        "seed": args.seed,
        "workers": len(logs),
        "python": platform.python_version(),
        "torch": __import__("torch").__version__,
        "trials": dict(sum((log.trials for log in logs), Counter())),
        "counts": dict(sorted(counts.items())),
        "gained": gains,
        "failures": failures,
    }


def load(path: Path) -> Log:
    """What a worker wrote; one that wrote nothing is a failure."""
    if not path.exists():
        return Log(failures=[{"part": "worker", "told": f"{path.name} was never written"}])
    values = json.loads(path.read_text())
    return Log(
        Counter(values["trials"]), Counter(values["counts"]), values["failures"], values["memory"]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--only", choices=PARTS, help="one trial of this part, of seed --seed")
    parser.add_argument("--out", type=Path, help="where the summary goes")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_workers(args: argparse.Namespace) -> tuple[list[Log], bool]:
    """(what each worker saw, whether all ended well)."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"worker-{number}.json" for number in range(args.workers)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        workers = []
        for number, file in enumerate(files):
            command = [sys.executable, "-m", "tests.soak", "--worker", str(file)]
            command += ["--minutes", str(args.minutes), "--parts", args.parts]
            command += ["--seed", str(1000 * args.seed + number)]
            workers.append(subprocess.Popen(command, env=environment))
        codes = [worker.wait() for worker in workers]
        return [load(file) for file in files], not any(codes)


def main() -> int:
    args = parse()
    if args.only:
        log = Log()
        log.trial(args.only, args.seed, PARTS[args.only])
        print(log.line())
        return 1 if log.failures else 0
    if args.worker:
        work(60 * args.minutes, args.seed, args.parts.split(","), args.worker)
        return 0
    logs, fine = run_workers(args)
    result = summary(logs, args)
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if result["failures"] or not fine else 0


if __name__ == "__main__":
    sys.exit(main())
