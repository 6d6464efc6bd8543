"""The noise levels of later steps, chosen on the validation split when training ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, apply_mask, each, pick
from fewstep.base.randomness import SAMPLING_BLOCK, block_seed, normal, permutation
from fewstep.core import sampling
from fewstep.data import Arrays, Dataset
from fewstep.networks.embedding import parts_of
from fewstep.run.generator import Generator
from fewstep.run.level_search import search
from fewstep.run.levels import LevelChoice, Levels, bounds_of, starts
from fewstep.run.prepare import Prepared
from fewstep.statistics.distances import energy, spread
from fewstep.statistics.ensembles import energy_score_of
from fewstep.training.state import State

TRIES = {2: 10, 4: 8, 8: 6}  # sets of levels that are scored, by the number of steps
SHARE = 0.2  # of the samples that training drew: as many pass the network, a 20th of its time
FEWEST, MOST = 64, 1000  # validation rows that samples are compared with
CONFIRM = 4  # other draws of noise with which the levels found must do as well
CHANCE = 2.35  # standard errors that are no news: 95 % of Student's t of so many draws
LEVELS = (0.04, 0.2, 0.8)  # at which the student is asked for noise, in deviations of the data
# Passes for each row.
COST = sum(
    (steps + len(LEVELS)) * (tries + 2 * CONFIRM) + steps * 2 * CONFIRM
    for steps, tries in {1: 1, **TRIES}.items()
)

ROWS = 256  # that pass the network at once
TINY = 1e-8
MOST_OFF = 8.0  # deviations that a sample counts as off at most

Noise = Callable[[int, Levels, int], float]  # of so many steps, their levels, a draw of noise
Values = Callable[[int, Levels], Tensor]  # of several draws: pairs of numbers are compared


def choose_levels(prepared: Prepared, state: State) -> tuple[LevelChoice, str]:
    """Levels for 2, 4 and 8 steps, each with the lowest score that a short search finds; a line.

    They have the lowest energy distance of samples to validation rows by what the student takes for
    noise in them (`noise_in`), the same noise for all. The method's own levels are the first that
    are tried; they stay where there is nothing to choose by, and where with other noise those found
    are no better by that distance beyond chance, or are worse by the values themselves.
    """
    run, dataset = prepared.run, prepared.dataset
    by = sampling.sampler(prepared.method.sampler)
    if by.grid is not sampling.multistep_grid or not run.choose_levels or dataset is None:
        return LevelChoice(), ""
    count = min(len(dataset.validation), MOST, int(SHARE * run.iterations * run.batch) // COST)
    own = "2 and more steps take the method's own noise levels: "
    rows = len(dataset.validation)
    if rows < FEWEST:
        return LevelChoice(), f"{own}{rows} validation rows are too few to choose"
    if count < FEWEST:
        return LevelChoice(), f"{own}so short a run has no time to choose"
    if state.is_sharded:
        return LevelChoice(), f"{own}weights in shards cannot be asked by one process"
    facts = replace(prepared.facts, description={})  # what lies outside is no news here
    generator = Generator(run, facts, prepared.method, state.average, state.step)
    choice = search_levels(generator, *scoring(generator, dataset, count, run.seed))
    return choice, describe(choice, count)


def search_levels(generator: Generator, noise: Noise, values: Values) -> LevelChoice:
    """For each number of steps the levels that the search finds, where other noise confirms it."""
    scores, levels = {1: noise(1, (), 0)}, {}
    bounds = bounds_of(generator)
    best: Levels | None = None
    for steps, tries in TRIES.items():
        first = starts(generator, steps, bounds, best)
        if not first:
            break
        own = first[0]
        result = search(by_first_draw(noise, steps), first, bounds, tries)
        best = result.levels
        if best == own or is_confirmed(partial(noise, steps), partial(values, steps), best, own):
            levels[steps], scores[steps] = best, result.value
        else:
            scores[steps] = dict(result.scores)[own]
    return LevelChoice(levels, scores)


def by_first_draw(noise: Noise, steps: int) -> Callable[[Levels], float]:
    """The distance of the first draw of noise, for so many steps."""
    return lambda levels: noise(steps, levels, 0)


def is_confirmed(
    noise: Callable[[Levels, int], float],
    values: Callable[[Levels], Tensor],
    best: Levels,
    own: Levels,
) -> bool:
    """Whether other noise finds the levels better beyond chance, and the values not worse."""
    draws = range(1, CONFIRM + 1)
    better = torch.tensor([noise(own, draw) - noise(best, draw) for draw in draws])
    return is_above_chance(better) and not is_above_chance(values(best) - values(own))


def is_above_chance(changes: Tensor) -> bool:
    """Whether their mean is above 0 by more than its standard errors that are no news."""
    error = changes.std() / math.sqrt(len(changes))
    return bool(changes.mean() > CHANCE * error)


def scoring(generator: Generator, dataset: Dataset, count: int, seed: int) -> tuple[Noise, Values]:
    """What `count` samples are compared with as many validation rows by.

    The values' numbers are the energy distance of each draw; of data given features they are the
    energy score of each row, since a law may be right on the whole and wrong given a condition.
    """
    order = permutation(0, "level choice", 0, len(dataset.validation))[:count]
    rows = dataset.validation.rows(order)
    noise_of = noise_in(generator, rows, seed)
    usual = noise_of(rows.x0)
    spreads = spread(usual), spread(rows.x0)
    cond: Cond = dataset.user_cond(rows.cond)

    def samples(steps: int, levels: Levels, draw: int) -> Tensor:
        one = generator.with_later_sigmas(levels or None)
        x = one.sample(count, steps=steps, seed=block_seed(seed, "level choice", draw), cond=cond)
        return apply_mask(dataset.units.to_model(x), rows.cond)

    def noise(steps: int, levels: Levels, draw: int) -> float:
        x0 = samples(steps, levels, draw)
        is_finite = bool(torch.isfinite(x0).all())
        return energy(noise_of(x0), usual, spreads[0]) if is_finite else math.inf

    def values(steps: int, levels: Levels) -> Tensor:
        draws = [samples(steps, levels, draw) for draw in range(1, CONFIRM + 1)]
        if parts_of(rows.cond).features is not None:
            return energy_score_of(torch.stack(draws, 1).double(), rows.x0.double())
        return torch.tensor([energy(x0, rows.x0, spreads[1]) for x0 in draws])

    return noise, values


def noise_in(generator: Generator, rows: Arrays, seed: int) -> Callable[[Tensor], Tensor]:
    """x `[N, ...]` -> ln ||D(x_t, t) - x||^2 `[N, levels]`: what the student takes for noise.

    x_t = alpha x + sigma z at a few low levels, z the same for all x; in deviations of the rows'.
    What lies off the data's manifold moves further than data do, by however little it lies off.
    """
    process, net = generator.method.process, generator.denoiser
    bounds = bounds_of(generator)
    least = max(bounds.low, LEVELS[0] * generator.facts.sigma_data)
    levels = [min(least * level / LEVELS[0], bounds.high) for level in LEVELS]
    shape = tuple(rows.x0.shape[1:])
    z = normal(seed, "level choice noise", 0, len(rows), shape, SAMPLING_BLOCK)
    parts = torch.arange(len(rows)).split(ROWS)
    conds = [each(lambda x: x.to(generator.device), pick(rows.cond, part)) for part in parts]

    def change(x: Tensor, part: Tensor, cond: Cond, level: float) -> Tensor:
        x0 = x[part].to(generator.device)
        t = process.time_at(level).to(x0).expand(len(x0))
        x_t = apply_mask(process.mix(x0, z[part].to(x0), t), cond)
        moves = apply_mask(net(x_t, t, cond) - x0, cond).flatten(1)
        return (moves.square().sum(1) + TINY).log().cpu()

    @torch.no_grad()
    def noise_of(x: Tensor) -> Tensor:
        pairs = list(zip(parts, conds, strict=True))
        columns = [torch.cat([change(x, *pair, level) for pair in pairs]) for level in levels]
        return torch.stack(columns, 1)

    usual = noise_of(rows.x0)
    mean, deviation = usual.mean(0), usual.std(0).clamp_min(TINY)
    return lambda x: ((noise_of(x) - mean) / deviation).clamp(-MOST_OFF, MOST_OFF)


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
