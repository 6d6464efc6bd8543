"""The grids of the samplers: from t_max to the data, even in the process's own coordinate."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core import solvers
from fewstep.core.sampling import SAMPLERS, multistep_grid, sampler, solver_grid
from tests.support.toys import Gaussian

PROCESSES = {
    "edm": fs.process.edm(),
    "cosine": fs.process.cosine(),
    "linear": fs.process.linear(),
    "trig": fs.process.trig(sigma_data=0.5),
    "table": fs.process.discrete(betas=torch.linspace(1e-4, 0.02, 1000)),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("steps", [1, 3, 5, 9])
def test_every_grid_runs_down_to_the_data_in_the_evaluations_asked_for(process, steps, name):
    grid, calls = SAMPLERS[name].times(process, steps), []

    def counting(x, t, cond=None):
        calls.append(t)
        return 0.1 * x

    assert (grid[0], grid[-1]) == (process.t_max, 0.0)
    assert all(a > b for a, b in pairwise(grid))
    x = process.prior(torch.ones(2, 3, dtype=torch.float64))
    noise = (lambda i: torch.ones_like(x)) if SAMPLERS[name].noisy else None
    out = fs.sampling.sample(process, counting, x, grid, SAMPLERS[name].step, noise=noise)
    assert torch.isfinite(out).all()
    assert len(calls) <= steps  # Heun's last move is one
    assert len(calls) == steps or name == "heun"


def test_grids_are_even_in_time_where_time_is_no_noise_level():
    assert solver_grid(PROCESSES["cosine"], 4, ()) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert solver_grid(PROCESSES["table"], 5, ()) == [1000.0, 800.0, 600.0, 400.0, 200.0, 0.0]
    roots = torch.tensor(solver_grid(PROCESSES["edm"], 5, ())[:-1], dtype=torch.float64) ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(4))


def test_two_steps_of_a_discrete_process_meet_in_the_middle_of_its_table():
    """LCM's sampler goes back to timestep 499, which is t = 500 here; EDM's 0.821 was t = 297."""
    method = fs.methods.direct_cm(process="discrete", n=10)
    start, middle, end = multistep_grid(method.process, 2, method.later_sigmas)
    assert (start, end) == (1000, 0)
    assert middle == pytest.approx(500)


def test_middle_times_are_noise_levels_on_every_process():
    for process in PROCESSES.values():
        grid = multistep_grid(process, 3, (2.0, 0.5))
        levels = process.level(torch.tensor(grid[1:-1], dtype=torch.float64))
        torch.testing.assert_close(
            levels, torch.tensor([2.0, 0.5], dtype=torch.float64), rtol=1e-6, atol=0
        )
    assert multistep_grid(PROCESSES["trig"], 2, (0.5,))[1] == pytest.approx(math.pi / 4)
    with pytest.raises(UserError, match="later_sigmas"):
        multistep_grid(PROCESSES["edm"], 2, (90.0,))


def test_sampling_gaussian_data_gives_its_law_on_every_process():
    """The solvers carry the prior to N(mean, std), within what a hundred moves leave."""
    z = torch.randn(6_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, process in PROCESSES.items():
        for kind in ("ddim", "heun", "ancestral"):
            own = sampler(kind)
            grid = own.times(process, 101)
            fresh = torch.Generator().manual_seed(1)

            def draw(i, source=fresh):
                return torch.randn(z.shape, generator=source, dtype=z.dtype)

            noise = draw if own.noisy else None
            x = fs.sampling.sample(
                process, Gaussian(process=process), process.prior(z), grid, own.step, noise=noise
            )
            assert x.mean().item() == pytest.approx(0.3, abs=0.03), (name, kind)
            # Ancestral moves leave more.
            error = 0.05 if own.noisy else 0.02
            assert x.std().item() == pytest.approx(0.5, abs=error), (name, kind)


STEPS = {
    **{name: getattr(solvers, name) for name in ("ddim", "euler", "heun", "addim")},
    "addim without variance": partial(solvers.addim, x_var=0.0),
    "ancestral": lambda *a: solvers.ancestral(*a, noise=lambda: torch.ones_like(a[2])),
    "along": solvers.along(solvers.heun, [0.5, 0.0]),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_the_limits_of_a_move_have_finite_values_and_gradients(process, step):
    """Equal times, the data end and pure noise, for x, the weights and the times inside."""
    ends = [process.t_max * share for share in (0.0, 0.5, 1.0)]
    for t, s in [(a, b) for a in ends for b in ends if a >= b]:
        x = torch.full((1, 3), 0.3, dtype=torch.float64, requires_grad=True)
        gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        times = [torch.tensor([at], dtype=torch.float64, requires_grad=True) for at in (t, s)]
        out = step(process, lambda x, t, cond=None, gain=gain: gain * x, x, *times)
        gradients = torch.autograd.grad(out.sum(), (x, gain, *times), allow_unused=True)
        inside = 0 < s < t < process.t_max
        for value in (out, *gradients[: 4 if inside else 2]):
            assert value is None or torch.isfinite(value).all(), (t, s)
