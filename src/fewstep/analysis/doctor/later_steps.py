"""Whether the last step keeps the noise that it begins with, where the data have no room for it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fewstep.adapters.linear_bound import Linear, linear_of
from fewstep.adapters.rows import Rows
from fewstep.analysis.doctor.levels import rows_of
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, Verdict, judge
from fewstep.core.sampling import multistep_grid, sampler

ROWS = 1024  # of the training split, and samples
KEPT = 1.25, 2.0  # times the data's own deviation
FACTORS = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)  # of other levels that are tried
VISIBLE = 0.01  # of the data's deviation over all directions: less noise is not seen

Row = tuple[float, float, float | None, float]  # level, noise kept, deviation of samples, of data


def later_steps(subject: Subject) -> Measure:
    """The noise that D(x_t, t) keeps at the last of the sampler's levels; if much, at others too.

    kept = mean of E[D_k z_k] over the half of the data's principal directions k in which they vary
    least. Where the answers have the data's law, E[D_k z_k]^2 <= Var D_k, the data's variance.
    """
    definition = (
        "kept is E[D_k z_k] at x_t = alpha x0 + sigma z, the mean over the half of the data's"
        " principal directions k in which they vary least: how much of the last step's noise the"
        " answers still have; samples and data are the deviations of both in these directions. No"
        " answers with the data's law keep more than data (Cauchy-Schwarz)"
    )
    if subject.denoises or sampler(subject.method.sampler).grid is not multistep_grid:
        return Measure("later steps", definition, missing="its sampler has no later noise levels")
    rows = rows_of(subject.dataset, "train", subject.seed, ROWS, device=subject.device)
    linear = linear_of(subject.dataset.train.x0)
    levels = own_levels(subject)
    own = row_at(subject, linear, rows, levels, with_samples=False)
    table = {levels: own}
    if ratio_of(own, linear) > KEPT[0]:
        choices = [levels, *other_levels(subject, levels)]
        table = {choice: row_at(subject, linear, rows, choice) for choice in choices}
    verdict = judge_kept(table, ratio_of(own, linear))
    columns = ("level", "kept", "samples", "data")
    return Measure("later steps", definition, columns, sorted(table.values()), (verdict,))


def own_levels(subject: Subject) -> tuple[float, ...]:
    """The noise levels of the sampler's steps after the first; of two steps where it names none."""
    process, sigmas = subject.method.process, subject.generator(subject.ema).later_sigmas
    grid = multistep_grid(process, max(len(sigmas), 1) + 1, sigmas)
    return tuple(float(process.level(t)) for t in grid[1:-1])


def other_levels(subject: Subject, levels: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """The levels, all by one factor, where the student was trained for them."""
    process = subject.method.process
    least = max(process.t_min, subject.method.trained_from)
    for factor in FACTORS:
        others = tuple(factor * level for level in levels)
        times = [float(process.time_at(level)) for level in others]
        if least <= min(times) and max(times) < process.t_max:
            yield others


def quiet(linear: Linear) -> Tensor:
    """The half of the directions in which the data vary least."""
    return linear.values.argsort()[: (len(linear.values) + 1) // 2]


def ratio_of(row: Row, linear: Linear) -> float:
    """The noise kept over the data's deviation, or over the least that is seen."""
    least = VISIBLE * float(linear.values.mean()) ** 0.5
    return row[1] / max(row[3], least, 1e-300)


def row_at(
    subject: Subject,
    linear: Linear,
    rows: Rows,
    levels: tuple[float, ...],
    with_samples: bool = True,
) -> Row:
    """What is kept at the last level, and how samples by these levels vary."""
    process, directions = subject.method.process, quiet(linear)
    t = float(process.time_at(levels[-1]))
    with torch.no_grad():
        answers = subject.ema(rows.at(process, t), t, rows.cond)
    noise = (linear.along(rows.z) * linear.along(answers))[:, directions].mean()
    deviation = None
    if with_samples:
        generator = subject.generator(subject.ema).with_later_sigmas(levels)
        cond = subject.dataset.user_cond(rows.cond)
        x = generator.sample(len(rows), seed=subject.seed, cond=cond, batch=subject.batch)
        x = linear.along(subject.dataset.units.to_model(x))[:, directions]
        deviation = float(x.var(0, correction=0).mean()) ** 0.5
    return levels[-1], float(noise), deviation, float(linear.values[directions].mean()) ** 0.5


def judge_kept(table: dict[tuple[float, ...], Row], ratio: float) -> Verdict:
    """On the sampler's own levels, the first row; the others say what would help."""
    level, noise, own, data = next(iter(table.values()))
    best = min(table, key=lambda levels: table[levels][2] or 0.0)
    least = table[best][2]
    remedy = "no other level does better: train longer, or a larger network"
    if own and least is not None and least < 0.9 * own:
        words = ",".join(f"{level:.3g}" for level in best)
        remedy = (
            f"--later-sigmas {words} leaves {least:.2g} of samples' {own:.2g} (fewstep frontier"
            " chooses levels by samples); else train longer"
        )
    return judge(
        "keeps-noise",
        ratio,
        *KEPT,
        against="the data's own deviation in the directions in which they vary least",
        ok=(
            f"from level {level:.3g} the answers keep {noise:.2g} of the noise where the data vary"
            f" least, by {data:.2g}"
        ),
        fault=(
            f"the last step leaves noise in the samples: from level {level:.3g} the answers keep"
            f" {noise:.2g} of it where the data vary by {data:.2g}: {remedy}"
        ),
    )
