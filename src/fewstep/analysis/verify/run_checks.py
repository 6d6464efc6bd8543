"""Whole runs of six steps: what they hand on, save, resume, average and sample."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import methods
from fewstep.analysis.verify.check import Table, apart, worst
from fewstep.data import Units
from fewstep.run import checkpoint, generator, places, profiles, recipes, sources, teachers
from fewstep.run.build import build_method
from fewstep.run.config import Run
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.training import hand_over
from fewstep.training.state import new_state
from fewstep.training.train import train

LOOK = "a run does not keep or hand on what it should"
RUN = Table("run", 0.0, LOOK)
TRAINING = Table("training", 0.0, LOOK)
SIGMA_DATA = 0.83  # unlike every default
CPU = torch.device("cpu")
Groups = dict[str, dict[str, Tensor]]  # of a checkpoint: student, ema, ...


def small(**fields: Any) -> Run:
    """Six steps of a small network on the ring, a checkpoint after each."""
    settings: dict[str, Any] = {
        "iterations": 6,
        "batch": 64,
        "block": 16,  # a trajectory of tbcm
        "network_options": {"width": 16, "depth": 1, "dropout": 0.1},
        "sigma_data": SIGMA_DATA,
        "ema": 0.6,
        "checkpoint_every": 1,
        "picture_every": 0,
        "log_every": 1,
    }
    return recipes.toy(**{**settings, **fields})


@contextmanager
def run_of(**fields: Any) -> Iterator[tuple[generator.Generator, Path]]:
    """The generator of a small run, and its folder, which is deleted in the end."""
    with TemporaryDirectory(prefix="fewstep-verify-") as folder:
        out = Path(folder) / "run"
        yield train(small(**fields), out=out, progress=False, device="cpu"), out


def weights_at(out: Path, step: int) -> Groups:
    """The groups of the checkpoint of a step."""
    return dict(checkpoint.read(out / "checkpoints" / f"step-{step}").groups)


@cache
def plain_run() -> tuple[generator.Generator, Groups, Groups]:
    """The generator of the default run, trained once, with its weights of steps 5 and 6."""
    with run_of() as (result, out):
        return result, weights_at(out, 5), weights_at(out, 6)


def flat(module: nn.Module) -> Tensor:
    """All weights in one row."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def add_one(module: nn.Module) -> None:
    """Moves every weight by 1."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)


@TRAINING(
    "tcm: stage 2 starts from stage 1's average", "2410.14895, code", "hand_over.hand_over", "tcm"
)
def second_stage_start() -> float:
    """Student, frozen network and average are the first stage's average, and then part ways."""
    run = small(method="tcm")
    facts = Facts((2,), 0, SIGMA_DATA, Units(0.0, 1.0), "")
    state = new_state(Prepared(run, facts, build_method(run, facts)))
    average = state.averages["ema"]
    add_one(average)
    truth = flat(average)
    hand_over.hand_over(run, state)
    if state.frozen is None:
        raise ValueError("the second stage has no frozen network")
    errors = [apart(flat(part), truth) for part in (state.student, state.frozen)]
    add_one(state.student)
    add_one(state.averages["ema"])
    return worst(*errors, apart(flat(state.frozen), truth))


@RUN(
    "sigma_data, weights and samples survive a reload",
    "definition",
    "generator.load",
    tolerance=1e-6,
)
def reload() -> float:
    """The guesses and the sigma_data of a generator that was saved; from its run's folder too."""
    with run_of() as (result, out):
        result.save(out / "alone")
        x_t = 3 * torch.randn(5, *result.facts.shape, generator=torch.Generator().manual_seed(0))
        truth = result.denoiser(x_t, 2.0)
        # What `fewstep inspect` prints.
        errors = [abs(places.find(out).record.facts.sigma_data - SIGMA_DATA)]
        for place in (out, out / "alone"):
            denoiser: Any = generator.load(place, device="cpu").denoiser
            errors.append(apart(denoiser(x_t, 2.0), truth))
            errors.append(abs(denoiser.scaling.sigma_data - SIGMA_DATA))
        return worst(*errors)


@RUN(
    "teacher and initial weights are a run's average", "2303.01469, alg. 2", "sources", quick=False
)
def next_run() -> float:
    """To the last bit."""
    with run_of(method="diffusion") as (result, out):
        average = weights_at(out, 6)["ema"]
        initial = sources.weights_of("init", out).tensors
        run = small(method="cd")
        student = Prepared(run, result.facts, build_method(run, result.facts))
        teacher = teachers.teacher_of(out, student)
        if teacher is None or not isinstance(teacher.denoiser, nn.Module):
            raise ValueError("the run gives no teacher")
        teacher_weights = teacher.denoiser.state_dict()
        errors = []
        for name, tensor in average.items():
            errors.append(apart(teacher_weights[name], tensor))
            errors.append(apart(initial[name.removeprefix(sources.INSIDE)], tensor))
        return worst(*errors)


@TRAINING(
    "EMA of a run: e_k = b_k e_(k-1) + (1 - b_k) w_k",
    "definition",
    "state.update_averages",
    tolerance=1e-6,
    quick=False,
)
def average_of_run() -> float:
    """From step 5 to 6, at the rate of step 5."""
    _, before, after = plain_run()
    rate = profiles.ema_rate(5, 0.6)
    errors = []
    for name, tensor in before["ema"].items():
        truth = rate * tensor + (1 - rate) * after["student"][name]
        errors.append(apart(after["ema"][name], truth))
    return worst(*errors)


@RUN(
    "samples do not depend on the sampling batch",
    "definition",
    "generator",
    tolerance=1e-5,
    quick=False,
)
def sampling_batch() -> float:
    """The noise depends on the seed and the place: batches of 3 and of 40 give the same samples."""
    result, _, _ = plain_run()
    ours = [result.sample(40, steps=2, seed=5, batch=batch) for batch in (3, 40)]
    return apart(*ours)


def log_of(out: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what the clock decides."""
    rows = []
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.append({k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")})
    return rows


def resumption(method: str) -> float:
    """0 if a run that lost its last checkpoint and goes on ends like one that never stopped.

    Its fingerprint (weights, average, optimizer) and its log are those of the whole run.
    """
    with run_of(method=method) as (whole, out):
        log = log_of(out)
        shutil.rmtree(out / "checkpoints" / "step-6")
        if places.find(out).state["step"] != 5:
            raise ValueError("the checkpoint of step 5 is not there to resume from")
        again = train(small(method=method), out=out, resume=True, progress=False, device="cpu")
        changes = again.fingerprint != whole.fingerprint
        return float(changes) + float(log_of(out) != log or len(log) != 6)


for _name in methods.__all__:
    TRAINING(
        f"{_name}: a resumed run is the run, bit for bit", "definition", "", _name, quick=False
    )(partial(resumption, _name))

CHECKS = [*RUN.rows, *TRAINING.rows]
