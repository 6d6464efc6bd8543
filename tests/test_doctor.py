"""The doctor: healthy runs are healthy, each fault that is made on purpose is named, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import fewstep as fs
from fewstep.doctor import MEASURES, Patient, patient_of, show
from fewstep.doctor.examination import Examination, Samples
from tests import patients
from tests.patients import Changed, logged, mirrored, noisy, scaled, shifted, trained, untrained, with_scaling


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Callable[[str], Patient]:
    """A small trained run of a method, trained once."""
    known: dict[str, Patient] = {}

    def run(method: str) -> Patient:
        if method not in known:
            known[method] = trained(method, tmp_path_factory.mktemp("doctor") / method)
        return known[method]

    return run


def taken(patient: Patient, *names: str) -> Examination:
    """Some measures of a patient, or all."""
    samples = Samples(patient)
    return Examination("", "", tuple(MEASURES[name](patient, samples) for name in names or MEASURES))


def faults(examination: Examination) -> dict[str, str]:
    return {one.name: one.severity for one in examination.verdicts if one.severity != "ok"}


@pytest.mark.parametrize("method", patients.METHODS)
def test_a_healthy_run_has_no_fault(healthy, method):
    found = taken(healthy(method))
    assert faults(found) == {}, show.text(found)
    assert show.overall(found).startswith("verdict: healthy")


def small_batch(p: Patient) -> Patient:
    return replace(p, run=replace(p.run, batch=2, block=2))


def spike(p: Patient) -> Patient:
    return logged(p, lambda i, row: {"loss": 500 * row["loss"]} if i == 30 else {})


def idle(p: Patient) -> Patient:
    flat = logged(p, lambda i, row: {"lr": 3e-3})
    return replace(flat, run=replace(flat.run, ema=0.5), ema=flat.student)


# method -> what breaks it -> the measures that look, and all that they find
ILL: dict[str, tuple[str, Callable[[Patient], Patient], tuple[str, ...], dict[str, str]]] = {
    "a level blown up": (
        "ect",
        lambda p: replace(p, ema=Changed(p.ema, scaled(4.0), 0.1, 0.4)),
        ("loss by noise level", "boundary", "memorisation"),
        {"level-out-of-hand": "broken"},
    ),
    "a denoiser's level blown up": (
        "diffusion",
        lambda p: replace(p, ema=Changed(p.ema, scaled(3.0), 0.1, 0.4)),
        ("loss by noise level", "boundary"),
        {"level-out-of-hand": "broken"},
    ),
    "training rows learnt by heart": (
        "ect",
        lambda p: replace(p, dataset=patients.few_rows(), ema=patients.recalling(p)),
        ("loss by noise level", "memorisation", "chain"),
        {"overfitting": "broken", "memorisation": "broken"},
    ),
    "a scaling without a boundary": (
        "ect",
        lambda p: replace(p, ema=with_scaling(p, fs.scalings.X0())),
        ("boundary",),
        {"boundary": "broken"},
    ),
    "a second stage off its first": (
        "tcm",
        lambda p: replace(p, ema=Changed(p.ema, shifted(0.2), 0.99, 1.05)),
        ("boundary", "chain", "teacher gap", "memorisation"),
        {"lost-boundary": "broken"},
    ),
    "a segment that does not begin as a denoiser": (
        "mcm",
        lambda p: replace(p, ema=Changed(p.ema, scaled(-1.0), 0.5, 0.7)),
        ("boundary", "memorisation"),
        {"segment-start": "broken"},
    ),
    "targets that run away": (
        "ect",
        lambda p: replace(p, earlier=noisy(p.student, 0.5)),
        ("target drift", "average", "chain"),
        {"target-drift": "broken"},
    ),
    "a chain that leaks": (
        "ect",
        lambda p: replace(p, ema=Changed(p.ema, scaled(0.2), 3.0)),
        ("chain", "boundary", "loss by noise level"),
        {"loose-chain": "broken"},
    ),
    "a batch of two": ("ect", small_batch, ("gradient noise",), {"gradient-noise": "broken"}),
    "an average that lags": (
        "ect",
        lambda p: replace(p, ema=untrained(p)),
        ("average",),
        {"average-lags": "broken"},
    ),
    "a denoiser's average that lags": (
        "diffusion",
        lambda p: replace(p, ema=untrained(p)),
        ("average",),
        {"average-lags": "broken"},
    ),
    "a noisy student": (
        "ect",
        lambda p: replace(p, student=noisy(p.student, 1.0)),
        ("average", "loss by noise level", "memorisation"),
        {"student-noisy": "broken"},
    ),
    "an average of nothing": (
        "ect",
        idle,
        ("average", "training log"),
        {"average-idle": "watch", "not-annealed": "watch"},
    ),
    "a student on trajectories of its own": (
        "ect",
        lambda p: replace(p, ema=Changed(p.ema, mirrored, 3.0)),
        ("teacher gap", "chain", "memorisation", "boundary"),
        {"teacher-gap": "broken"},
    ),
    "a spike": ("ect", spike, ("training log",), {"loss-spikes": "broken"}),
    "a loss that is no number": (
        "ect",
        lambda p: logged(p, lambda i, row: {"loss": math.nan} if i in (3, 4) else {}),
        ("training log",),
        {"non-finite": "broken"},
    ),
    "a gradient that grows": (
        "ect",
        lambda p: logged(p, lambda i, row: {"grad_norm": row["grad_norm"] * (100 if i > 35 else 1)}),
        ("training log",),
        {"growing-gradient": "broken"},
    ),
    "a learning rate that stays up": (
        "ect",
        lambda p: logged(p, lambda i, row: {"lr": 3e-3}),
        ("training log",),
        {"not-annealed": "watch"},
    ),
    "a run that stopped": (
        "ect",
        lambda p: replace(p, step=200),
        ("training log",),
        {"unfinished": "watch"},
    ),
}


@pytest.mark.parametrize("name", ILL)
def test_each_fault_is_named_and_no_other(healthy, name):
    method, broken, measures, expected = ILL[name]
    found = taken(broken(healthy(method)), *measures)
    assert faults(found) == expected, show.text(found)


def test_every_verdict_has_a_patient(healthy):
    """Except those that a run of another kind has."""
    known = {name for *_, expected in ILL.values() for name in expected}
    found = {one.name for method in patients.METHODS for one in taken(healthy(method)).verdicts}
    assert found == known


def test_a_verdict_names_its_number_and_threshold(healthy):
    method, broken, measures, _ = ILL["a second stage off its first"]
    verdict = taken(broken(healthy(method)), "boundary").verdicts[0]
    assert verdict.value > verdict.threshold > 0
    assert "0.2" in verdict.words  # the distance that it was moved by
    assert "lower the learning rate" in verdict.words
    assert "w-b" in verdict.words
