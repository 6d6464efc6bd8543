"""How much memory sampling and scoring of a network of CIFAR-10's size take.

An untrained DDPM++ (55.7 M weights) on pictures of noise; `fewstep sample` and `fewstep eval` run
beside this process, which reads their anonymous memory in /proc every 50 ms. Needs Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fewstep as fs

PICTURES = 2000  # of made-up data


def make_run(folder: Path) -> tuple[Path, Path]:
    """The run and its data in the folder."""
    data, run = folder / "pictures.npy", folder / "run"
    bits = np.arange(PICTURES * 3 * 32 * 32, dtype=np.uint32) * np.uint32(2654435761) >> 24
    np.save(data, bits.astype(np.uint8).reshape(PICTURES, 3, 32, 32))
    settings = fs.recipes.cifar10_ect(data=str(data), iterations=1, batch=2, block=2)
    fs.train(settings, out=run, progress=False, device="cpu")
    return run, data


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory that a process has now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return 1024 * int(lines.get("RssAnon", "0 kB").split()[0])


def peak(*words: str) -> tuple[int, int, float]:
    """Exit code, most bytes of anonymous memory and seconds of a `fewstep` command."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "fewstep", *words])
    most = 0
    while process.poll() is None:
        most = max(most, anonymous(process.pid))
        time.sleep(0.05)
    return process.returncode, most, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--batch", type=int, default=None)
    args = parser.parse_args()
    batch = [] if args.batch is None else ["--batch", str(args.batch)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, data = make_run(folder)
        out = ["--out", str(folder / "x.npy")]
        for n in args.n:
            size = ["--n", str(n), "--device", "cpu", *batch]
            verbs = {
                "sample": ["sample", str(run), *size, *out],
                "eval": ["eval", str(run), *size, "--steps", "1", "--data", str(data)],
            }
            for verb, words in verbs.items():
                code, most, seconds = peak(*words)
                print(
                    f"{verb} --n {n}: exit code {code}, {most / 2**20:.0f} MiB, {seconds:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
