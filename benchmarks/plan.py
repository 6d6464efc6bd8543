"""What `fewstep plan` says beside what runs take here: peak memory and time of CPU runs.

Each run is planned and then trained for so many steps in a process of its own. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from memory import peak

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
    command = [sys.executable, "-m", "fewstep", "plan", *words, "--json"]
    facts: dict[str, float] = json.loads(subprocess.check_output(command))
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    print(f"{'run':14}{'memory, planned':>17}{'measured':>10}{'time, planned':>15}{'measured':>10}")
    with tempfile.TemporaryDirectory() as name:
        pictures = Path(name) / "pictures.npy"
        np.save(pictures, np.random.default_rng(0).integers(0, 256, (500, 3, 32, 32), np.uint8))
        for title, (text, steps) in RUNS.items():
            words = [*text.split(), "--iterations", str(steps), "--device", "cpu"]
            words += [] if "digits" in text else ["--data", str(pictures)]
            facts = plan(words)
            out = Path(name) / "run"
            code, most, _ = peak("train", *words, "--quiet", "--out", str(out))
            assert code == 0, words
            seconds = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
            subprocess.run(["rm", "-r", str(out)], check=True)
            print(
                f"{title:14}{facts['memory'] / 1e9:14.2f} GB{most / 1e9:7.2f} GB"
                f"{facts['hours'] * 3600:13.1f} s{seconds:8.1f} s"
            )


if __name__ == "__main__":
    main()
