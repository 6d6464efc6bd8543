"""Twenty seeded steps of each method: a change that should change no number changes none.

In float64, where machines agree to about 1e-12. After a change that means to change numbers, run
`python -m tests.methods.test_fingerprint`, and say why in CHANGELOG.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fewstep as fs
from fewstep.analysis.verify import builtin
from fewstep.data import Arrays
from fewstep.run.build import build_method, with_defaults
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.run.sources import Model
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from fewstep.training.state import new_state
from fewstep.training.step import train_step
from tests.support.rows import long_if
from tests.support.toys import Gaussian, tiny_run

METHODS = {title.replace("direct_cm", "direct"): row for title, row in builtin.METHODS.items()}
KEPT = Path(__file__).parents[1] / "fingerprint.json"


def losses(name: str, options: dict) -> list[float]:
    """The losses of twenty steps on the toy ring in float64, and the size of the final average."""
    dataset = fs.data.load("ring8")
    facts = Facts(dataset.shape, 0, 0.5, dataset.units, "")
    run = with_defaults(tiny_run(method=name, method_options=options, iterations=20))
    method = build_method(run, facts)
    run = replace(
        run, stage=2 if method.before else None
    )  # the second, from weights that are nobody's
    teacher = Model("gaussian", Gaussian(process=method.process), method.process)
    state = new_state(Prepared(run, facts, method, teacher=teacher))
    stage = Stage(run, method)
    state.student.double()
    for other in (*state.averages.values(), *([state.frozen] if state.frozen else [])):
        other.double()
    arrays = Arrays(dataset.train.x0.double())
    values = []
    for step in range(20):
        batch = draw_batch(stage, arrays, step)
        batch = batch._replace(z=batch.z.double())  # a method without data has its noise alone
        values.append(train_step(stage, state, batch)["loss"])
    return [*values, sum(p.square().sum().item() for p in state.averages["ema"].parameters())]


@pytest.mark.parametrize("row", [pytest.param(row, marks=long_if(" " in row)) for row in METHODS])
def test_twenty_steps_give_the_losses_they_gave(row):
    assert losses(*METHODS[row]) == pytest.approx(json.loads(KEPT.read_text())[row], rel=1e-9)


if __name__ == "__main__":
    old = json.loads(KEPT.read_text())
    new = {row: losses(*METHODS[row]) for row in METHODS}
    # Machines round differently: what agrees stays as it is.
    same = {row for row in METHODS if old.get(row) == pytest.approx(new[row], rel=1e-9)}
    rows = {row: old[row] if row in same else new[row] for row in METHODS}
    KEPT.write_text(json.dumps(rows, indent=1) + "\n")
