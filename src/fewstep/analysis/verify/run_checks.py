"""Whole runs of six steps in temporary folders: what is handed on, saved, resumed, averaged and
sampled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fewstep import methods
from fewstep.analysis.verify.check import Check, apart, worst
from fewstep.data import Units
from fewstep.run import checkpoint, generator, profiles, recipes, sources, teachers
from fewstep.run.build import build_method
from fewstep.run.config import Run
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.training import hand_over
from fewstep.training.state import new_state
from fewstep.training.train import train

SIGMA_DATA = 0.83  # unlike every default


def small(**fields: Any) -> Run:
    """Six steps of a small network on the ring, a checkpoint after each."""
    settings: dict[str, Any] = {
        "iterations": 6,
        "batch": 16,
        "block": 4,
        "network_options": {"width": 16, "depth": 1, "dropout": 0.1},
        "sigma_data": SIGMA_DATA,
        "ema": 0.6,
        "checkpoint_every": 1,
        "picture_every": 0,
        "log_every": 1,
    }
    return recipes.toy(**{**settings, **fields})


@contextmanager
def trained(**fields: Any) -> Iterator[tuple[generator.Generator, Path]]:
    """The generator of a small run, and the folder that it is in for as long as this lasts."""
    with TemporaryDirectory(prefix="fewstep-verify-") as folder:
        out = Path(folder) / "run"
        yield train(small(**fields), out=out, progress=False, device="cpu"), out


def weights_at(out: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    """The groups of the checkpoint of a step."""
    return dict(checkpoint.read(out / "checkpoints" / f"step-{step}").groups)


def reloaded() -> float:
    """What a saved generator says, and its sigma_data, against the one that was trained."""
    with trained() as (made, out):
        made.save(out / "alone")
        found: list[Any] = [
            generator.load(place, device="cpu").denoiser for place in (out, out / "alone")
        ]
        x_t = 3 * torch.randn(5, *made.facts.shape, generator=torch.Generator().manual_seed(0))
        told = [apart(net(x_t, 2.0), made.denoiser(x_t, 2.0)) for net in found]
        shown = generator.find(out).record.facts.sigma_data  # what `fewstep inspect` prints
        return worst(
            *told,
            *(
                abs(kept - SIGMA_DATA)
                for kept in (shown, *(net.scaling.sigma_data for net in found))
            ),
        )


def handed_over() -> float:
    """At the hand-over student, frozen network and average are the first stage's average, and then
    part ways.
    """
    run = small(method="tcm")
    facts = Facts((2,), 0, SIGMA_DATA, Units(0.0, 1.0), "")
    state = new_state(Prepared(run, facts, build_method(run, facts)))
    with torch.no_grad():
        for p in state.averages["ema"].parameters():
            p.add_(1.0)
    wanted = torch.cat([p.flatten() for p in state.averages["ema"].parameters()])
    hand_over.hand_over(run, state)
    parts = [part for part in (state.student, state.frozen) if part is not None]
    found = [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in parts]
    with torch.no_grad():
        for p in (*state.student.parameters(), *state.averages["ema"].parameters()):
            p.add_(1.0)
    kept = (
        []
        if state.frozen is None
        else [torch.cat([p.flatten() for p in state.frozen.parameters()])]
    )
    return worst(*(apart(part, wanted) for part in (*found, *kept))) + 3.0 - len(found) - len(kept)


def second_stage() -> float:
    """A run of two stages keeps the average of its switch as the frozen network, to the last bit."""
    with trained(method="tcm", split=5 / 6) as (_, out):
        first, last = weights_at(out, 5), weights_at(out, 6)
        return worst(
            *(apart(last["frozen"][name], tensor) for name, tensor in first["ema"].items())
        )


def resumed(method: str) -> float:
    """0 where a run that lost its last checkpoint and goes on has the fingerprint of one that was
    never stopped.
    """
    with trained(method=method) as (made, out):
        shutil.rmtree(out / "checkpoints" / "step-6")
        if generator.find(out).record.step != 5:
            raise ValueError("the checkpoint of step 5 is not there to resume from")
        again = train(small(method=method), out=out, resume=True, progress=False, device="cpu")
        return float(again.fingerprint != made.fingerprint)


def averaged() -> float:
    """ema_6 = rate ema_5 + (1 - rate) student_6 between the last two checkpoints of a run, at the
    rate of step 5.
    """
    with trained() as (_, out):
        before, after = weights_at(out, 5), weights_at(out, 6)
        rate = profiles.ema_rate(5, 0.6)
        moved = {
            name: rate * tensor + (1 - rate) * after["student"][name]
            for name, tensor in before["ema"].items()
        }
        return worst(*(apart(after["ema"][name], wanted) for name, wanted in moved.items()))


def handed_on() -> float:
    """A run that is given as a teacher or as initial weights is the average of its weights, to the
    last bit.
    """
    with trained(method="diffusion") as (made, out):
        ema = weights_at(out, 6)["ema"]
        start = sources.weights_of("init", out).tensors
        run = small(method="cd")
        student = Prepared(run, made.facts, build_method(run, made.facts))
        guide = teachers.teacher_of(out, student)
        if guide is None or not isinstance(guide.denoiser, torch.nn.Module):
            raise ValueError("no teacher came of the run")
        found = guide.denoiser.state_dict()
        return worst(
            *(apart(found[name], tensor) for name, tensor in ema.items()),
            *(
                apart(start[name.removeprefix(sources.INSIDE)], tensor)
                for name, tensor in ema.items()
            ),
        )


def sampled() -> float:
    """The noise of a sample depends on the seed and its place: batches of 3 and of 40 give the same
    samples.
    """
    with trained() as (made, _):
        return apart(
            made.sample(40, steps=2, seed=5, batch=3), made.sample(40, steps=2, seed=5, batch=40)
        )


def checks() -> list[Check]:
    runs = [
        Check(
            f"{name}: a resumed run is the run, bit for bit",
            "definition",
            partial(resumed, name),
            0.0,
            "something that a step depends on is not in the checkpoint: see fewstep.training",
            (name,),
            quick=False,
        )
        for name in methods.__all__
    ]
    look = "see fewstep.training.hand_over.hand_over"
    keeps = (
        "a loaded network has another preconditioning or other weights: see"
        " fewstep.run.generator.load and Facts"
    )
    drawn = (
        "a sample's noise depends on its batch: see fewstep.run.generator and"
        " fewstep.base.randomness"
    )
    given = "a run is handed on by other weights than its average: see fewstep.run.sources and fewstep.run.teachers"
    rate = (
        "the average is not the recursion of its rates: see fewstep.training.state.update_averages"
    )
    return [
        Check(
            "tcm: stage 2 starts from stage 1's average",
            "2410.14895, code",
            handed_over,
            0.0,
            look,
            ("tcm",),
        ),
        Check(
            "sigma_data, weights and samples survive a reload", "definition", reloaded, 1e-6, keeps
        ),
        Check(
            "tcm: frozen network = average at the switch",
            "2410.14895, eq. 5",
            second_stage,
            0.0,
            look,
            ("tcm",),
            quick=False,
        ),
        Check(
            "teacher and initial weights are a run's average",
            "2303.01469, alg. 2",
            handed_on,
            0.0,
            given,
            quick=False,
        ),
        Check(
            "EMA of a run: e_k = b_k e_(k-1) + (1 - b_k) w_k",
            "definition",
            averaged,
            1e-6,
            rate,
            quick=False,
        ),
        Check(
            "samples do not depend on the sampling batch",
            "definition",
            sampled,
            1e-5,
            drawn,
            quick=False,
        ),
        *runs,
    ]
