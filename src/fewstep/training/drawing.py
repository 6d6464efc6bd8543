"""The pictures of a run: samples beside its data, and the curves of its log."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from fewstep.base import disk
from fewstep.base.conditions import Cond, examples
from fewstep.data import Units, change_cond, pictures
from fewstep.run.checkpoint import RunFolder
from fewstep.run.config import Run
from fewstep.run.generator import Generator
from fewstep.run.prepare import Prepared
from fewstep.training.curves import curves
from fewstep.training.log import rows_of
from fewstep.training.scores import FAILURES, generator_of
from fewstep.training.state import State

log = logging.getLogger("fewstep")


def draw_samples(prepared: Prepared, state: State, folder: Path) -> None:
    """Writes a picture of samples of the average, always of the same noise, beside the data.

    A picture that cannot be made is a warning.
    """
    if not (state.world.main or state.is_sharded):
        return
    step, facts = state.step, prepared.facts
    count = facts.look.enough
    own = examples(prepared.arrays.cond, facts.cond, count)
    cond = change_cond(own, facts.cond_units, Units.to_user)
    generator = generator_of(prepared, state, count)
    try:
        x = generator.sample(count, cond=cond)
        if state.world.main:
            folder.mkdir(parents=True, exist_ok=True)
            rows = _beside_data(prepared, generator, x, cond)
            about = pictures.draw(folder / f"step-{step}.png", rows, facts.look)
            if pictures.HINT in about and step == prepared.run.steps:
                log.warning("fewstep: %s: %s", folder, pictures.HINT)
    except FAILURES as error:
        if state.is_sharded:
            raise  # the others wait for this rank in the middle of a pass
        reason = str(error).partition("\n")[0] or type(error).__name__
        log.warning("fewstep: no picture of step %s: %s", step, reason)


def _beside_data(
    prepared: Prepared, generator: Generator, x: Tensor, cond: Cond
) -> list[pictures.Rows]:
    """The samples and as many training rows, whose conditions are the first samples'."""
    samples = pictures.Rows("samples", x, generator.conditions(len(x), cond))
    splits, units = [prepared.arrays], prepared.facts.units
    data = pictures.rows_of_data(splits, units, len(x), samples, "training data")
    return [samples, data] if data else [samples]


def draw_curves(folder: RunFolder, run: Run, is_last: bool) -> None:
    """Writes curves.png. Where it cannot, the last time says so in a warning."""
    try:
        disk.replace(folder.curves, curves(rows_of(folder.metrics), run))
    except Exception as error:  # of matplotlib: no picture is worth a training
        if is_last:
            log.warning("fewstep: no %s: %s", folder.curves, error)
