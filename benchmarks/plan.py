"""What `fewstep plan` says beside what runs take here: peak memory and time of CPU runs.

Each run is planned and then trained for so many steps in a process of its own. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from memory import peak

from fewstep.cli import main as fewstep

# Of 3x32x32 pictures of noise; steps that take half a minute or so.
RUNS = {
    "DDPM++, ECT": ("cifar10-ect --network.width 64 --network.blocks 2 --batch 32", 20),
    "UViT, MCM": (
        "imagenet64-mcm-small --network.width 48 --network.blocks 2,2,4 --network.head-channels 32"
        " --batch 32",
        20,
    ),
    "DiT, sCM": ("digits-dit --method sct --batch 256", 100),
    "MLP, GC": ("digits --method gc --batch 4096", 150),
}


def plan(words: list[str]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        fewstep(["plan", *words, "--json"])
    facts: dict[str, float] = json.loads(text.getvalue())
    return facts


def seconds(out: Path) -> float:
    """Of the steps of a run."""
    rows = (out / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(rows[-1])["seconds"])


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"{'run':14}{'memory, planned':>17}{'measured':>10}{'time, planned':>15}{'measured':>10}")
    with tempfile.TemporaryDirectory() as name:
        pictures, out = Path(name) / "pictures.npy", Path(name) / "run"
        bits = np.arange(500 * 3 * 32 * 32, dtype=np.uint32) * np.uint32(2654435761) >> 24
        np.save(pictures, bits.astype(np.uint8).reshape(500, 3, 32, 32))
        for title, (text, steps) in RUNS.items():
            words = [*text.split(), "--iterations", str(steps), "--device", "cpu"]
            words += [] if "digits" in text else ["--data", str(pictures)]
            facts = plan(words)
            code, most, _ = peak("train", *words, "--quiet", "--out", str(out))
            if code:
                raise SystemExit(code)
            print(
                f"{title:14}{facts['memory'] / 1e9:14.2f} GB{most / 1e9:7.2f} GB"
                f"{facts['hours'] * 3600:13.1f} s{seconds(out):8.1f} s"
            )
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
