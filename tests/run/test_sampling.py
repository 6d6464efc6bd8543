"""How a diffusion model is sampled: grids, noise levels, guidance, eta, a measured variance."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import FewstepError, UserError
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.cli import main
from fewstep.core import sampling, solvers
from fewstep.data import Arrays, Dataset
from fewstep.export.contents import prepare
from fewstep.run.generator import Generator
from fewstep.run.variance import measure_variance, read_variance
from tests.export.generators import small
from tests.support.toys import GAUSSIAN, TINY

PROCESSES = [
    fs.process.edm(),
    fs.process.cosine(),
    fs.process.linear(),
    fs.process.trig(),
    fs.process.by_name("discrete"),
]


@pytest.fixture(scope="module")
def teacher() -> Generator:
    return small(method="diffusion", std=0.1)


@pytest.fixture(scope="module")
def labelled() -> Generator:
    return small(method="diffusion", std=0.1, classes=3)


@pytest.mark.parametrize("name", sampling.GRIDS)
@pytest.mark.parametrize("process", PROCESSES)
def test_grids_fall_from_pure_noise_to_the_data(process, name):
    for moves in (1, 2, 3, 20):
        grid = sampling.GRIDS[name](process, moves, ())
        assert (len(grid), grid[0], grid[-1]) == (moves + 1, process.t_max, 0.0)
        assert all(a > b for a, b in pairwise(grid))


@pytest.mark.parametrize("process", PROCESSES)
def test_grids_are_even_in_what_their_names_say(process):
    def inner(name):
        times = sampling.GRIDS[name](process, 12, ())[1:-1]
        return torch.tensor(times, dtype=torch.float64)

    for even in (
        process.level(inner("exponential")).log(),
        process.level(inner("karras")) ** (1 / 7),
        inner("uniform"),
    ):
        torch.testing.assert_close(even.diff(), even.diff()[:1].expand(10), rtol=1e-6, atol=1e-9)


def test_on_edm_an_exponential_grid_goes_from_the_highest_level_to_the_lowest():
    grid = sampling.GRIDS["exponential"](fs.process.edm(t_min=0.002, t_max=80.0), 9, ())
    assert grid[:-1] == pytest.approx([80 * (0.002 / 80) ** (i / 8) for i in range(9)])


def test_on_edm_its_own_grid_is_that_of_karras(teacher):
    assert torch.equal(teacher.sample(3, grid="karras"), teacher.sample(3))


def test_noise_levels_are_where_moves_start(teacher):
    """They say the number of steps; a first level below t_max is where the noise begins."""
    own = teacher.with_sampler("unipc", grid=(40.0, 5.0, 0.1))
    assert own.schedule()[1] == [40.0, 5.0, 0.1, 0.0]
    assert own.default_steps() == 3
    x = own.sample(4, seed=3)
    whole = teacher.with_sampler("unipc", grid=(80.0, 5.0, 0.1)).sample(4, seed=3)
    assert not torch.equal(x, whole)
    z = whole.new_ones(2, 3)
    assert torch.equal(teacher.method.process.prior(z, 40.0), 40 * z)


def test_a_low_start_is_said(teacher, caplog):
    teacher.sample(2, grid=(1.0, 0.1))
    assert "sampling starts at level 1 as if that were pure noise" in caplog.text
    caplog.clear()
    teacher.sample(2, grid=(80.0, 0.1))
    assert not caplog.text


def test_eta_has_ddim_and_ancestral_as_its_ends(teacher):
    for eta, name in {0.0: "ddim", 1.0: "ancestral"}.items():
        ours = teacher.with_sampler("ddim", eta=eta).sample(4, steps=9)
        assert torch.equal(ours, teacher.sample(4, steps=9, sampler=name))
    near = teacher.with_sampler("ddim", eta=1e-6).sample(4, steps=9)
    torch.testing.assert_close(near, teacher.sample(4, steps=9, sampler="ddim"))


def test_guidance_is_of_every_guess(labelled):
    """As of a denoiser that is guided itself; only where the interval says."""
    plain, strong = (labelled.sample(6, steps=5, guidance=g) for g in (0.0, 2.0))
    assert not torch.equal(plain, strong)
    process, grid = labelled.method.process, labelled.schedule(5)[1]
    plan = labelled.plan(6, steps=5)
    z = normal(0, "prior", 0, 6, labelled.facts.shape, SAMPLING_BLOCK)
    net = fs.guide(labelled.denoiser, 2.0)
    x0 = sampling.sample(process, net, process.prior(z), grid, solvers.heun, plan.cond)
    torch.testing.assert_close(labelled.facts.units.to_user(x0), strong)
    beyond = labelled.with_guidance(2.0, (90.0, 100.0)).sample(6, steps=5)
    assert torch.equal(beyond, plain)


REFUSALS = {
    "no classes": (lambda g, _: g.with_guidance(1.0), "this run has no classes"),
    "a student": (lambda *_: small().with_guidance(1.0), "a student jumps"),
    "segments": (
        lambda *_: small(method="mcm", method_options={"K": 2}).sample(2, grid="karras"),
        "grid = 'karras': expected none",
    ),
    "multistep": (lambda *_: small().sample(2, grid=(80.0, 1.0)), "later_sigmas"),
    "a name": (lambda g, _: g.sample(2, grid="kar"), "did you mean 'karras'"),
    "levels that rise": (lambda g, _: g.sample(2, grid=(1.0, 2.0)), "sigmas = .*: expected decr"),
    "a level above": (lambda g, _: g.sample(2, grid=(81.0, 2.0)), "at most 80"),
    "other steps": (
        lambda g, _: g.sample(2, grid=(80.0, 2.0), sampler="ddim", steps=5),
        "as many as the moves, 5",
    ),
    "eta of heun": (lambda g, _: g.with_sampler(eta=0.5), "sampler ddim alone"),
    "eta": (lambda g, _: g.with_sampler("ddim", eta=1.5), "eta = 1.5: expected a share"),
    "final step": (lambda g, _: g.with_sampler(final_step="ddim"), "addim alone"),
    "an interval": (lambda _, g: g.with_guidance(0.0, (1.0, 2.0)), "not 0, with an interval"),
    "export": (
        lambda _, g: prepare(g.with_guidance(1.0)),
        "exports have no guidance",
    ),
}


@pytest.mark.parametrize(("ask", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_is_refused_in_a_line(ask, message, teacher, labelled):
    with pytest.raises(UserError, match=message):
        ask(teacher, labelled)


class Truth(nn.Module):
    """The exact denoiser of N(0.3, 0.5^2) as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x_t, t, cond=None):
        return GAUSSIAN(x_t, t)


def test_the_measured_variance_is_that_of_x0_given_x_t(teacher):
    """Of Gaussian data s^2 t^2 / (s^2 + t^2), within four standard errors; by the seed alone."""
    source = torch.Generator().manual_seed(0)
    rows = [Arrays(0.3 + 0.5 * torch.randn(n, 3, generator=source)) for n in (10, 3000, 10)]
    dataset = Dataset("rows", *rows)
    exact = replace(teacher, denoiser=Truth())
    table = measure_variance(exact, dataset, points=6, eta=0.75)
    assert table == measure_variance(exact, dataset, points=6, eta=0.75)
    assert table != measure_variance(exact, dataset, points=6, eta=0.75, seed=1)
    assert (table.times[0], table.times[-1], table.rows) == (0.002, 80.0, 3000)
    for t, value, error in zip(table.times, table.values, table.errors, strict=True):
        truth = 0.75 * 0.25 * t**2 / (0.25 + t**2)
        assert abs(value - truth) < 4 * error
        assert error < 0.03 * value
    with pytest.raises(UserError, match="a diffusion model"):
        measure_variance(small(), dataset)


def test_a_table_is_used_by_the_run_it_is_of(teacher, tmp_path):
    rows = Arrays(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)))
    dataset = Dataset("rows", rows, rows, rows)
    facts = replace(teacher.facts, data=dataset.fingerprint())
    own = replace(teacher, facts=facts)
    table = measure_variance(own, dataset, points=5)
    file = tmp_path / "variance.json"
    table.write(file)
    assert read_variance(file, own.method.process, facts) == table.variance
    ours, given, formula = (
        own.with_sampler("addim", variance=variance).sample(4, steps=5)
        for variance in (file, table.variance, None)
    )
    assert torch.equal(ours, given)
    assert not torch.equal(ours, formula)
    last = own.with_sampler("addim", variance=file, final_step="ddim").sample(4, steps=5)
    assert not torch.equal(last, ours)
    for process, other, message in (
        (fs.process.cosine(), facts, "same noising process"),
        (own.method.process, teacher.facts, "same data"),
    ):
        with pytest.raises(UserError, match=message):
            read_variance(file, process, other)
    for change in ({"format": "x"}, {"values": [1.0]}, {"times": table.times[::-1]}):
        bad = tmp_path / "bad.json"
        bad.write_text(json.dumps({**table.to_json(), **change}))
        with pytest.raises(UserError, match="expected a file by"):
            read_variance(bad, own.method.process, facts)
    with pytest.raises(FewstepError, match="cannot be read"):
        own.with_sampler("addim", variance=tmp_path / "none.json")


def test_the_commands(tmp_path, capsys):
    """A table by one command; sample and eval take it, and all that is asked of a sampler."""
    run, table, out = str(tmp_path / "run"), str(tmp_path / "v.json"), str(tmp_path / "x.npy")
    options = ["--method", "diffusion", "--label-drop", "0.2", *TINY]
    assert main(["train", "digits", "--network", "mlp", *options, "--out", run]) == 0
    assert main(["variance", run, "--out", table, "--points", "4", "--n", "300", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads((tmp_path / "v.json").read_text())
    sample = ["sample", run, "--n", "3", "--out", out]
    for words in (
        "--sampler addim --steps 4 --final-step ddim --variance " + table,
        "--sampler dpmpp_2m --grid karras --steps 5",
        "--sampler unipc --sigmas 80,10,1,.1",
        "--sampler ddim --eta 0.5 --steps 3",
        "--guidance 1.5 --guidance-interval 0.1 5 --steps 3",
    ):
        assert main([*sample, *words.split()]) == 0, words
    capsys.readouterr()
    assert main([*sample, "--grid", "karras", "--sigmas", "1"]) == 2
    assert "--grid karras and --sigmas: expected one or the other" in capsys.readouterr().err
    scored = "--sampler unipc --steps 3 --guidance 0.5 --n 500 --json"
    assert main(["eval", run, *scored.split()]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["steps"] == 3
