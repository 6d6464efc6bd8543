"""The doctor's measures of a flow map: rows keep where they lead, with the uniforms they need."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.adapters.rows import Rows
from fewstep.analysis.doctor.chain import target_drift
from fewstep.analysis.doctor.gradients import gradients_of
from fewstep.analysis.doctor.levels import trained_levels
from fewstep.analysis.doctor.loss import loss_rows
from fewstep.analysis.doctor.rounding import bf16_ratio, rounding_of_gaps
from fewstep.analysis.doctor.subject import Subject
from fewstep.run.build import build_student
from fewstep.run.prepare import prepare
from tests.export.generators import alive
from tests.support.toys import tiny_run


@pytest.mark.parametrize("method", ["meanflow", "psd", "soflow"])
def test_losses_and_gradients_are_the_methods_own(method):
    made = prepare(tiny_run(method=method))
    net = alive(build_student(made.run, made.facts, made.method))
    subject = Subject(method, made.run, made.facts, made.method, 1, 6, 0.5, made.dataset, net)
    assert len(trained_levels(subject)) > 1
    part = made.arrays.rows(torch.arange(128))
    rows = Rows(part.x0, part.cond, torch.randn_like(part.x0))
    loss = loss_rows(subject, net, rows, 0.7)
    assert loss.shape == (128,)
    assert bool(loss.isfinite().all())
    net.requires_grad_(True)
    by_law, at_one = (gradients_of(subject, net, rows, t, 4) for t in (None, 0.7))
    assert bool(by_law.isfinite().all())
    assert bool(by_law.any())
    assert not torch.equal(by_law, at_one)


def test_neighbours_of_a_flow_map_are_not_compared():
    made = prepare(tiny_run(method="soflow"))
    net = alive(build_student(made.run, made.facts, made.method))
    parts = made.run, made.facts, made.method, 1, 6, 0.5, made.dataset, net
    subject = Subject("soflow", *parts, student=net)
    assert "many ends" in target_drift(subject).missing
    assert "no difference between neighbours" in rounding_of_gaps(subject).missing
    assert not math.isnan(bf16_ratio(subject))
