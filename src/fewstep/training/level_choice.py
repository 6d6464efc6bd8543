"""The noise levels of later steps, chosen on the validation split when training ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from fewstep.base.conditions import Cond, apply_mask
from fewstep.base.randomness import block_seed, permutation
from fewstep.core import sampling
from fewstep.data import Arrays, Dataset
from fewstep.run.generator import Generator
from fewstep.run.level_search import search
from fewstep.run.levels import LevelChoice, Levels, bounds_of, starts
from fewstep.run.prepare import Prepared
from fewstep.statistics.clues import clues_of
from fewstep.statistics.distances import energy, spread
from fewstep.statistics.layout import layout_of
from fewstep.training.state import State

TRIES = {2: 12, 4: 10, 8: 8}  # sets of levels that are scored, by the number of steps
SHARE = 0.05  # of the samples that training drew: as many pass through the network, at most
FEWEST, MOST = 64, 1000  # validation rows that samples are compared with
CONFIRM = 2  # other draws of noise with which the levels found must do as well
COST = 1 + sum(steps * (tries + 2 * CONFIRM) for steps, tries in TRIES.items())  # passes of a row

Scores = tuple[float, float]  # by what tells samples from data, and by the values alone
Score = Callable[[int, Levels, int], Scores]  # of so many steps, their levels, a draw of noise


def choose_levels(prepared: Prepared, state: State) -> tuple[LevelChoice, str]:
    """Levels for 2, 4 and 8 steps, each with the lowest score that a short search finds; a line.

    A score is the energy distance of samples to validation rows, by what tells them apart
    (`statistics.clues`: values, structure, condition), the same noise for all. The method's own
    levels are the first that are tried; they stay where there is nothing to choose by, and where
    with other noise those found do worse, by the same distance or by that of the values alone.
    """
    run, dataset = prepared.run, prepared.dataset
    by = sampling.sampler(prepared.method.sampler)
    if by.grid is not sampling.multistep_grid or not run.choose_levels or dataset is None:
        return LevelChoice(), ""
    count = min(len(dataset.validation.x0), MOST, int(SHARE * run.iterations * run.batch) // COST)
    own = "2 and more steps take the method's own noise levels: "
    rows = len(dataset.validation.x0)
    if rows < FEWEST:
        return LevelChoice(), f"{own}{rows} validation rows are too few to choose"
    if count < FEWEST:
        return LevelChoice(), f"{own}so short a run has no time to choose"
    if state.is_sharded:
        return LevelChoice(), f"{own}weights in shards cannot be asked by one process"
    facts = replace(prepared.facts, description={})  # what lies outside is no news here
    generator = Generator(run, facts, prepared.method, state.averages["ema"], state.step)
    choice = search_levels(generator, scoring(generator, dataset, count, run.seed))
    return choice, describe(choice, count)


def search_levels(generator: Generator, score: Score) -> LevelChoice:
    """For each number of steps the levels that the search finds, where other noise confirms it."""
    scores, levels = {1: score(1, (), 0)[0]}, {}
    bounds = bounds_of(generator)
    best: Levels | None = None
    for steps, tries in TRIES.items():
        first = starts(generator, steps, bounds, best)
        if not first:
            break
        own = first[0]
        result = search(by_clues(score, steps), first, bounds, tries)
        best = result.levels
        if best == own or is_confirmed(partial(score, steps), best, own):
            levels[steps], scores[steps] = best, result.value
        else:
            scores[steps] = dict(result.scores)[own]
    return LevelChoice(levels, scores)


def by_clues(score: Score, steps: int) -> Callable[[Levels], float]:
    """The first distance of the first draw of noise, for so many steps."""
    return lambda levels: score(steps, levels, 0)[0]


def is_confirmed(score: Callable[[Levels, int], Scores], best: Levels, own: Levels) -> bool:
    """Whether with other noise the levels do no worse than the method's own, by both distances."""
    draws = range(1, CONFIRM + 1)
    sums = [
        [sum(side) for side in zip(*(score(x, i) for i in draws), strict=True)] for x in (best, own)
    ]
    return all(a <= b for a, b in zip(*sums, strict=True))


def scoring(generator: Generator, dataset: Dataset, count: int, seed: int) -> Score:
    """(steps, levels, draw) -> energy distances of `count` samples to as many validation rows."""
    order = permutation(0, "level choice", 0, len(dataset.validation.x0))[:count]
    rows = dataset.validation.rows(order)
    clues = clues_of(dataset, layout_of(dataset))
    goals = (clues(rows), rows.x0)
    spreads = tuple(map(spread, goals))
    cond: Cond = dataset.user_cond(rows.cond)

    def score(steps: int, levels: Levels, draw: int) -> Scores:
        one = generator.with_later_sigmas(levels or None)
        noise = block_seed(seed, "level choice", draw)
        x = one.sample(count, steps=steps, seed=noise, cond=cond)
        x0 = apply_mask(dataset.units.to_model(x), rows.cond)
        if not bool(torch.isfinite(x0).all()):
            return math.inf, math.inf
        sides = (clues(Arrays(x0, rows.cond)), x0)
        first, second = map(energy, sides, goals, spreads)
        return first, second

    return score


def describe(choice: LevelChoice, count: int) -> str:
    """One line: levels and scores by the number of steps."""
    parts = [f"1 step {choice.scores[1]:.3g}"]
    for steps, value in choice.scores.items():
        if steps == 1:
            continue
        levels = choice.levels.get(steps, ())
        at = ", ".join(f"{level:.3g}" for level in levels[:3]) + (", ..." if steps > 4 else "")
        parts.append(f"{steps} steps {value:.3g} ({f'levels {at}' if levels else 'own levels'})")
    return (
        f"levels of later steps, chosen on {count} validation rows by energy distance:"
        f" {'; '.join(parts)}"
    )
