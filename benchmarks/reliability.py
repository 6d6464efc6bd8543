"""What safety costs: each part is timed alone and divided by the step or save that contains it.

guard: the finite check of loss and gradient norm, over the step (clipping needs the norm itself).
randomness: order, noise, times and dropout seeds of a batch by address, over the step.
save: hash and fsync over a whole save (copy, serialise, hash, write, fsync, verify); the stall of
the training loop over a raw write and fsync of the same bytes.
refusal: a second run in a folder, from its command to its end. memory: of a training run, early and
at its end.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import fewstep as fs
from fewstep.base import disk
from fewstep.run import checkpoint, lock
from fewstep.run.build import build_method, with_defaults
from fewstep.run.checkpoint.format import serialise
from fewstep.run.checkpoint.saver import copy_groups
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.run.recipes import RECIPES
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from fewstep.training.state import State, new_state
from fewstep.training.step import train_step


def seconds(work: Callable[[], object], times: int) -> float:
    """The median of so many."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def prepare(
    recipe: str, **fields: object
) -> tuple[fs.Run, Callable[[], object], Callable[[], object], State]:
    """A run, its draw, its whole step, and its state."""
    dataset = fs.data.load("digits")
    facts = Facts(dataset.shape, dataset.classes, dataset.sigma_data(), dataset.units, "")
    run = with_defaults(RECIPES[recipe](iterations=10_000, **fields))
    method = build_method(run, facts)
    stage = Stage(run, method)
    state = new_state(Prepared(run, facts, method))

    def draw() -> object:
        return draw_batch(stage, dataset.train, state.step)

    def step() -> object:
        return train_step(stage, state, draw())  # type: ignore[arg-type]

    return run, draw, step, state


def of_a_step(recipe: str, steps: int) -> None:
    _, draw, step, _ = prepare(recipe)
    step()
    whole = seconds(step, steps)
    drawing = seconds(draw, 4 * steps)
    loss = torch.tensor(1.0)
    norm = torch.tensor(2.0)

    def guard() -> bool:
        return all(math.isfinite(value) for value in torch.stack([loss, norm]).tolist())

    checking = seconds(guard, 1000)
    print(
        f"{recipe:<12} step {whole * 1e3:8.2f} ms   guard {checking / whole:.4%}   randomness"
        f" {drawing / whole:.2%}"
    )


def of_a_save(megabytes: int, times: int) -> None:
    # Student, average and two moments of about 16 width^2 numbers.
    width = max(64, int((megabytes * 2**20 / 4 / 4 / 16) ** 0.5))
    _, _, step, state = prepare("digits", network_options={"width": width, "depth": 8})
    step()
    groups = state.groups()
    about = {"run": {}, "facts": {}, **state.values()}
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        content = {group: serialise(tensors) for group, tensors in groups.items()}
        size = sum(map(len, content.values()))
        numbers = itertools.count()

        def save() -> None:
            path = folder / f"step-{next(numbers)}"
            checkpoint.write(path, copy_groups(groups), about)
            checkpoint.read(path)
            disk.remove(path)

        def write(sync: bool) -> None:
            for group, part in content.items():
                with open(folder / group, "wb") as file:
                    file.write(part)
                    if sync:
                        file.flush()
                        os.fsync(file.fileno())

        whole = seconds(save, times)
        stall = seconds(lambda: copy_groups(groups), times)
        hashing = seconds(
            lambda: [hashlib.sha256(part).digest() for part in content.values()], times
        )
        writing = seconds(lambda: write(False), times)
        syncing = seconds(lambda: write(True), times)
    result = {
        "MB": size / 2**20,
        "save": whole,
        "stall": stall,
        "hash": hashing,
        "write": writing,
        "write+fsync": syncing,
    }
    print(json.dumps({key: round(value, 4) for key, value in result.items()}))
    share = (hashing + max(0.0, syncing - writing)) / whole
    print(
        f"hash + fsync {share:.1%} of a save   stall {stall / syncing:.2f} raw writes (with fsync)"
    )


def of_a_refusal(times: int) -> None:
    with tempfile.TemporaryDirectory(dir=".") as name, lock.hold(Path(name)):
        command = [sys.executable, "-m", "fewstep", "train", "toy", "--out", name, "--resume"]
        whole = seconds(lambda: subprocess.run(command, capture_output=True, check=False), times)
    print(f"a second run in a folder is refused in {whole:.2f} s")


def of_memory(steps: int) -> None:
    points: list[tuple[int, float]] = []

    def look(state: State) -> None:
        if state.step % (steps // 5) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            points.append((state.step, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))

    options = {"width": 16, "depth": 1}
    run = fs.recipes.toy(
        iterations=steps, batch=32, network_options=options, checkpoint_every=200, picture_every=0
    )
    with tempfile.TemporaryDirectory(dir=".") as name:
        fs.train(run, out=Path(name) / "run", progress=False, device="cpu", watch=look)
    print(
        "a training run holds " + ", ".join(f"{mib:.1f} MiB at step {step}" for step, mib in points)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    of_a_step("digits", args.steps)
    of_a_step("digits-unet", max(10, args.steps // 10))
    of_a_save(args.megabytes, 5)
    of_a_refusal(5)
    of_memory(100 * args.steps)


if __name__ == "__main__":
    main()
