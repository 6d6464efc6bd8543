"""A diffusion teacher and its student in one table, quality and time: the examples share this."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import fewstep as fs

HEUN = 35  # evaluations of the teacher: 18 steps of Heun's solver, the last one a single Euler step
Draw = Callable[[fs.Generator, int], torch.Tensor]  # a model's samples in so many evaluations


def iterations(about: str) -> int:
    """The number behind the example's name; 0, the recipe's own, where there is none."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("iterations", type=int, nargs="?", default=0)
    return parser.parse_args().iterations


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def side_by_side(
    teacher: fs.Generator,
    student: fs.Generator,
    draw: Draw,
    judge: Callable[[torch.Tensor], dict[str, str]],
    truth: torch.Tensor | None = None,
    one: Draw | None = None,
) -> dict[int, torch.Tensor]:
    """Prints the table; returns the samples [N, ...] by the number of evaluations of each.

    draw: makes all samples. judge: what stands in a row, by the columns' names. truth: what the
    simulator draws, or data that were held out, as the last row. one: makes a single sample, whose
    time, the median of 20 calls, is a column of its own.
    """
    samples, head = {}, ""
    rows = [("teacher", teacher, HEUN), *(("student", student, steps) for steps in (1, 2, 4))]
    for name, model, steps in rows + [("data", None, 0)] * (truth is not None):
        cells = {"": name, "evaluations": "", "ms each": "", **({"ms alone": ""} if one else {})}
        if model is not None:
            duration = milliseconds(lambda: samples.update({steps: draw(model, steps)}))
            cells |= {"evaluations": str(steps), "ms each": f"{duration / len(samples[steps]):.3g}"}
            if one:
                times = [milliseconds(lambda: one(model, steps)) for _ in range(20)]
                cells["ms alone"] = f"{statistics.median(times):.3g}"
        cells |= judge(samples[steps] if model else truth)
        if not head:
            head = "  ".join(f"{column:>8}" for column in cells)
            print(head)
        print("  ".join(f"{text:>{max(8, len(column))}}" for column, text in cells.items()))
    return samples
