"""How long the command line takes to answer, and what the package adds to importing torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from fewstep.cli import VERBS

RUNS = 7


def median(*command: str) -> float:
    """Median wall seconds of a command, after one run that warms the file cache."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    python = [sys.executable, "-m", "fewstep"]
    for words in (["--help"], *([verb, "--help"] for verb in VERBS)):
        print(f"fewstep {' '.join(words):<16} {median(*python, *words):.3f} s")
    bare = median(sys.executable, "-c", "pass")
    torch = median(sys.executable, "-c", "import torch") - bare
    both = median(sys.executable, "-c", "import torch, fewstep") - bare
    alone = median(sys.executable, "-c", "import fewstep") - bare
    print(
        f"import torch {torch:.3f} s, with fewstep {both:.3f} s; fewstep alone {alone:.3f} s: "
        f"{alone / torch:.1%} of torch's"
    )


if __name__ == "__main__":
    main()
