"""Methods that nobody wrote: products of the parts, each written out by hand, and trainable."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.core import couplings, solvers, targets
from fewstep.core import times as laws
from tests.support.toys import small_student, tiny_run


def short_run(method: fs.Method | str, options: dict | None = None, teacher=None) -> fs.Generator:
    """A few steps on the ring, by a method or its name, with the same sigma_data for both."""
    run, own = tiny_run(iterations=4, sigma_data=0.5), method
    if isinstance(method, str):
        run, own = replace(run, method=method, method_options=options or {}), None
    result = fs.train(run, method=own, teacher=teacher, progress=False, device="cpu")
    assert torch.isfinite(result.sample(8)).all()
    return result


def loss_and_gradient(method: fs.Method) -> list[torch.Tensor]:
    """On a batch of the method's own times, with every network that there is, each another one."""
    student = small_student((3,), dropout=0.3)
    others = {
        "ema": small_student((3,), dropout=0.3, seed=1),
        "frozen": small_student((3,), dropout=0.3, seed=2),
    }
    x0, z = (torch.randn(16, 3, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    u = torch.rand(16, 2, generator=generator(2, "u"), dtype=torch.float64)
    truth = fs.exact.Gaussian(mean=0.3, std=0.5, process=method.process)
    times = method.times(u, 0.3, torch.arange(16))
    loss = method.loss(fs.Models(student, teacher=truth, **others), x0, z, times, seed=3)
    loss.mean().backward()
    assert torch.isfinite(loss).all()
    assert all(p.grad is None for other in others.values() for p in other.parameters())
    assert all(torch.isfinite(p.grad).all() for p in student.parameters())
    return [loss.detach(), *(p.grad for p in student.parameters())]


def same(method: fs.Method, by_hand: fs.Method) -> None:
    for ours, other in zip(loss_and_gradient(method), loss_and_gradient(by_hand), strict=True):
        assert torch.equal(ours, other)


def test_generated_pairs_for_easy_consistency_tuning():
    options = {"base": {"method": "ect", "c": 0.06}, "share": 0.3}
    by_hand = fs.Method(
        times=laws.RatioMap(law=laws.LogNormal(mean=-1.1, std=2.0)),
        coupling=couplings.GeneratorInduced(0.3, targets.Ema(), 1.5, couplings.Data()),
        target=targets.Student(),
        distance=fs.distances.huber(0.06),
        weight=fs.weights.inverse_gap,
    )
    same(fs.methods.gc(**options), by_hand)
    assert short_run("gc", options).fingerprint == short_run(by_hand).fingerprint
    assert short_run("gc", options).fingerprint != short_run("ect", {"c": 0.06}).fingerprint


def test_generated_pairs_for_a_truncated_model():
    """The endpoint is predicted as the target is: by the frozen network below t'."""
    tcm = fs.methods.tcm(rho=0.2)
    by_hand = fs.Method(
        times=tcm.times,
        coupling=couplings.GeneratorInduced(0.6, targets.Truncated(1.0, targets.Ema()), 1.5),
        target=targets.Truncated(1.0, targets.Student()),
        distance=fs.distances.l2_norm,
        weight=fs.weights.inverse_gap,
    )
    gc = fs.methods.gc(base=tcm, share=0.6)
    same(gc, by_hand)
    assert gc.needs == {"student", "ema", "frozen"}
    assert gc.before == tcm.before
    assert (gc.trained_from, gc.later_sigmas) == (tcm.trained_from, tcm.later_sigmas)
    plain, changes = loss_and_gradient(tcm)[0], loss_and_gradient(gc)[0]
    assert 0 < (plain != changes).sum() < len(plain)


def test_minibatch_transport_for_easy_consistency_tuning():
    method = fs.methods.ect(pairs="ot")
    by_hand = replace(fs.methods.ect(), coupling=couplings.MinibatchOT())
    same(method, by_hand)
    assert short_run("ect", {"pairs": "ot"}).fingerprint == short_run(by_hand).fingerprint
    assert short_run("ect", {"pairs": "ot"}).fingerprint != short_run("ect").fingerprint


def test_a_direct_multistep_model():
    """The DDIM solution from t to its segment's start, and no target: the goal jumps there."""
    base, grid = fs.methods.mcm(K=4, steps=16, steps_end=16), [1 - i / 32 for i in range(33)]
    method = replace(
        base,
        times=laws.AtAnchor(times=base.times),
        coupling=couplings.Teacher(solvers.along(solvers.ddim, grid)),
        target=None,
    )
    assert method.needs == {"student", "teacher"}
    loss = loss_and_gradient(method)[0]
    process, student = method.process, small_student((3,), dropout=0.3)
    truth = fs.exact.Gaussian(mean=0.3, std=0.5, process=process)
    x0, z = (torch.randn(16, 3, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    u = torch.rand(16, 2, generator=generator(2, "u"), dtype=torch.float64)
    t, _, a = base.times(u, 0.3)[:3]
    x_t, ends = process.mix(x0, z, t), []
    for i in range(16):
        moves = [t[i].item(), *(level for level in grid if a[i] < level < t[i]), a[i].item()]
        ends.append(fs.sampling.sample(process, truth, x_t[i : i + 1], moves, solvers.ddim))
    goal = process.aim(x_t, torch.cat(ends), t, a)
    x0_hat = student(x_t, t, None, student.masks(16, [3]))
    rms = ((x0_hat - goal) / process.sigma(t)[:, None]).square().mean(1)
    torch.testing.assert_close(loss, (rms + 1e-8).sqrt() - 1e-4, rtol=1e-7, atol=1e-9)
    result = short_run(method, teacher=fs.exact.Gaussian(0.0, 0.5, process))
    with pytest.raises(fs.errors.UserError, match="was trained for 4 steps"):
        result.sample(4, steps=2)


def test_a_truncated_model_by_distillation():
    """x_r by the teacher's Heun move from x_t, then the target of the second stage."""
    method = fs.methods.tcm(base={"method": "ect", "pairs": "heun"})
    by_hand = fs.Method(
        times=laws.Atom(
            times=laws.RatioMap(law=laws.LogStudentT(), fixed_ratio=1 - 2.0**-8),
            at_time=1.0,
            share=0.25,
            weight=0.1,
        ),
        coupling=couplings.Teacher(solvers.heun),
        target=targets.Truncated(1.0),
        distance=fs.distances.l2_norm,
        weight=fs.weights.inverse_gap,
    )
    same(method, by_hand)
    assert method.needs == {"student", "frozen", "teacher"}
