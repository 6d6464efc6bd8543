"""A diffusion teacher and its student in one table, quality and time: the examples share this."""

import time
from collections.abc import Callable

import torch

import fewstep as fs

HEUN = 35  # evaluations of the teacher: 18 steps of Heun's solver, the last one a single Euler step
Model = fs.Generator


def side_by_side(
    teacher: Model,
    student: Model,
    draw: Callable[[Model, int], torch.Tensor],
    judge: Callable[[torch.Tensor], dict[str, str]],
    truth: torch.Tensor | None = None,
    steps: tuple[int, ...] = (1, 2, 4),
) -> dict[int, torch.Tensor]:
    """Prints the table; returns the samples [N, ...] by the number of evaluations of each.

    draw makes samples in so many evaluations; judge says what is in a row, by the columns' names.
    truth: what the simulator draws, or data that were held out, as the last row.
    """
    samples = {}
    for model, count in ((teacher, HEUN), *((student, count) for count in steps), (None, 0)):
        if model is None and truth is None:
            break
        name, milliseconds = "data", ""
        if model is not None:
            start = time.perf_counter()
            samples[count] = draw(model, count)
            spent = 1000 * (time.perf_counter() - start) / len(samples[count])
            name, milliseconds = "teacher" if model is teacher else "student", f"{spent:.3g}"
        row = judge(samples[count] if model is not None else truth)
        cells = {"": name, "evaluations": str(count or ""), "ms each": milliseconds, **row}
        if model is teacher:
            print("  ".join(f"{column:>8}" for column in cells))
        print("  ".join(f"{text:>{max(8, len(column))}}" for column, text in cells.items()))
    return samples
