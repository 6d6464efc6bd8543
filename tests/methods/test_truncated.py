"""TCM by its equations: who evaluates which row, whose masks it gets, and where gradients stop."""

from __future__ import annotations

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import denoiser
from tests.support.toys import GAUSSIAN, Spy, small_student

T_PRIME = 1.0


def draws(rows: int, shape: tuple[int, ...] = (3,)) -> list[torch.Tensor]:
    return [
        torch.randn(rows, *shape, generator=generator(i, "x"), dtype=torch.float64)
        for i in range(2)
    ]


def batch(method: fs.Method, rows: int = 24, progress: float = 0.3):
    u = torch.rand(rows, 2, generator=generator(2, "u"), dtype=torch.float64)
    return *draws(rows), method.times(u, progress, torch.arange(rows))


def test_each_row_of_a_truncated_denoiser_is_the_network_that_owns_it():
    """Equal to evaluating both everywhere and selecting; t' itself belongs to the upper one."""
    low, high = (Spy(small_student((3,), classes=2, seed=seed)) for seed in (0, 1))
    x, _ = draws(7)
    t = torch.tensor([0.2, 1.0, 5.0, 0.999, 80.0, 1.001, 0.0])
    cond = torch.tensor([0, 1, -1, 0, 1, 0, 1])
    out = denoiser.Truncated(low, high, T_PRIME)(x, t, cond)
    below = t < T_PRIME
    truth = torch.where(below[:, None], low.inner(x, t, cond), high.inner(x, t, cond))
    torch.testing.assert_close(out, truth, rtol=1e-12, atol=1e-13)
    assert torch.equal(low.times, t[below].double())
    assert torch.equal(high.times, t[~below].double())


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_a_network_that_owns_no_row_is_not_called(t):
    low, high = Spy(GAUSSIAN), Spy(GAUSSIAN)
    denoiser.Truncated(low, high, T_PRIME)(draws(3)[0], t)
    assert [len(low.times), len(high.times)] == ([3, 0] if t < T_PRIME else [0, 3])


def test_routed_rows_keep_the_masks_of_their_sample():
    """As the whole batch under the same masks by either network, then selected."""
    low, high = (small_student((3,), dropout=0.5, seed=seed) for seed in (0, 1))
    both = denoiser.Truncated(low, high, T_PRIME)
    x, _ = draws(8)
    t = torch.tensor([0.2, 3.0, 0.4, 5.0, 0.1, 1.0, 0.9, 60.0])
    seeds = [4, 5, 6, 7]  # two rows each
    masks = both.masks(8, seeds)
    out = both(x, t, None, masks)
    whole = [network(x, t, None, high.masks(8, seeds)) for network in (low, high)]
    torch.testing.assert_close(
        out, torch.where((t < T_PRIME)[:, None], *whole), rtol=1e-12, atol=1e-13
    )
    assert not torch.allclose(out, both(x, t))


def test_the_loss_runs_its_target_under_the_students_masks():
    """loss = w / (t - r) ||D(x_t) - target||, by r's own network under the student's masks."""
    method = fs.methods.tcm()
    student, frozen = (small_student((3,), dropout=0.5, seed=seed) for seed in (0, 1))
    x0, z, times = batch(method)
    seeds = list(range(len(x0)))
    loss = method.loss(fs.Models(student, frozen=frozen), x0, z, times, seed=seeds)
    masks = student.masks(len(x0), seeds)
    x_t, x_r = method.process.mix(x0, z, times.t), method.process.mix(x0, z, times.r)
    goals = [network(x_r, times.r, None, masks) for network in (frozen, student)]
    goal = torch.where((times.r < T_PRIME)[:, None], *goals)
    goal = torch.where((times.r == 0)[:, None], x0, goal)
    apart = (student(x_t, times.t, None, masks) - goal).norm(dim=1)
    torch.testing.assert_close(loss, times.w / (times.t - times.r) * apart, rtol=1e-9, atol=1e-12)


def test_each_network_sees_its_own_rows_and_once():
    """The student: all t, and the r from t' on. The frozen one: the r below t', and none else."""
    method = fs.methods.tcm()
    student, frozen = Spy(GAUSSIAN), Spy(GAUSSIAN)
    x0, z, times = batch(method)
    method.loss(fs.Models(student, frozen=frozen), x0, z, times)
    below = times.r < T_PRIME
    assert 3 < below.sum() < len(below) - 3
    assert torch.equal(frozen.times, times.r[below])
    assert torch.equal(student.times, torch.cat([times.r[~below], times.t]))
    assert (student.times >= T_PRIME).all()


def test_the_second_stage_is_its_base_above_t_prime_with_what_the_first_ended_with():
    base = fs.methods.ect(q=4.0, stages=4, c=0.06, pairs="heun", weight="edm")
    method = fs.methods.tcm(base=base, t_prime=2.0, rho=0.1, w_b=0.5)
    assert method.before is base
    assert method.trained_from == 2.0
    assert method.later_sigmas == (2.0,)
    assert (method.coupling, method.distance, method.weight) == (
        base.coupling,
        base.distance,
        base.weight,
    )
    assert method.needs == {"student", "frozen", "teacher"}
    u = torch.rand(1000, 2, generator=generator(3, "u"), dtype=torch.float64)
    for progress in (0.0, 0.5, 1.0):
        times = method.times(u, progress, torch.arange(1000))
        # The ratio does not move any more.
        torch.testing.assert_close(times.r, base.times.at(times.t, 1.0).r)
        assert (times.t >= 2.0).all()
        assert (times.t == 2.0).sum() == 100
    times = fs.methods.tcm(base=base, ratio=0.9).times.at(torch.tensor([20.0]), 0.0)
    assert times.r.item() == pytest.approx(
        20 * (1 - 0.1 * (1 + 8 / (1 + torch.tensor(20.0).exp().item())))
    )
    with pytest.raises(UserError, match="expected a continuous law of t"):
        fs.methods.tcm(base="ict")


def test_a_device_meets_at_most_16_sizes():
    """On another device the routed rows are filled up to a multiple of B / 16, never above B."""
    sizes = set()

    def record(x_t, t, cond=None):
        assert len(x_t) == len(t) == len(cond)
        sizes.add(len(x_t))
        return 2 * x_t

    x, cond = torch.zeros(100, 3, device="meta"), torch.zeros(100, dtype=torch.long, device="meta")
    for count in range(1, 101):
        rows = torch.arange(100) < count
        out = denoiser.on_rows(
            record, x, torch.ones(100, dtype=torch.float64), cond, rows, torch.zeros_like(x)
        )
        assert out.shape == x.shape
        assert max(size for size in sizes) <= 100
    assert len(sizes) <= 16
    assert (
        denoiser.on_rows(record, x, torch.ones(100), cond, torch.zeros(100, dtype=torch.bool), x)
        is x
    )


def test_filling_up_does_not_change_the_result(monkeypatch):
    """The repeated row is written again with the same numbers."""
    pad = denoiser._pad
    t = torch.linspace(0.1, 9, 33, dtype=torch.float64)
    x, into = draws(33)
    for count in (1, 5, 13, 32, 33):
        rows = torch.zeros(33, dtype=torch.bool)
        rows[torch.randperm(33, generator=generator(count, "rows"))[:count]] = True
        plain, spy = denoiser.on_rows(GAUSSIAN, x, t, None, rows, into), Spy(GAUSSIAN)
        with monkeypatch.context() as patch:
            patch.setattr(
                denoiser, "_pad", lambda index, n, device: pad(index, n, torch.device("cuda"))
            )
            assert torch.equal(denoiser.on_rows(spy, x, t, None, rows, into), plain)
        assert len(spy.times) == min(-(-count // 3) * 3, 33)
        assert set(spy.times.tolist()) == set(t[rows].tolist())


def test_strata_can_have_the_sizes_that_a_batch_has():
    """Of three rows none is at the atom: the expected sizes make each 4/3, those of the batch 1."""
    u = torch.full((3, 2), 0.5, dtype=torch.float64)
    # Of every four rows the last is at the atom.
    ordinal = torch.arange(3)
    by_share = fs.methods.tcm().times(u, 0.0, ordinal).w
    by_batch = fs.methods.tcm(realised=True).times(u, 0.0, ordinal).w
    torch.testing.assert_close(by_share, torch.full_like(by_share, 4 / 3))
    torch.testing.assert_close(by_batch, torch.ones_like(by_batch))


def test_without_boundary_rows_nothing_determines_the_scale(caplog):
    """A student g(t) x with g as 1/t has no loss at any size; a boundary row gives it one."""
    sizes = (0.0, 1.0, 3.0)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    zero = torch.zeros_like(x)
    frozen = lambda x_t, t, cond=None: x_t * (0.5 / t)[:, None]  # noqa: E731

    def loss(size: float, t_first: float) -> float:
        """Data at 0, where x_t = t z: all on one trajectory through the origin."""
        student = lambda x_t, t, cond=None: x_t * (size / t)[:, None]  # noqa: E731
        method = fs.methods.tcm(rho=0.0)
        times = method.times.at(torch.linspace(t_first, 80.0, 8, dtype=torch.float64), 1.0)
        if t_first == 1.0:
            times = times._replace(t=times.t[:1].expand(8), r=times.r[:1].expand(8))
        models = fs.Models(student, frozen=frozen)
        return method.loss(models, zero, x, times).abs().max().item()

    assert max(loss(size, 1.2) for size in sizes) < 1e-9
    assert all(loss(size, 1.0) > 0.01 for size in sizes)
    assert "rho = 0: no row ties the student" in caplog.text
