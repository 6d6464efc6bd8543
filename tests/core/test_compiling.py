"""Passes that torch compiles: whole, with the same numbers, and refused in one line.

Tests trace them and leave the kernels as they are; those of torch's compiler are in the long suite.
"""

from __future__ import annotations

import copy
import json
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.conditions import each
from fewstep.base.errors import Stopped, UserError
from fewstep.base.memory import Live
from fewstep.base.randomness import fork_rng, generator
from fewstep.core import compiling
from fewstep.core.compiling import compile_network, compile_passes, forecast, with_passes
from fewstep.core.denoiser import Preconditioned, Truncated
from fewstep.core.scalings import Edm
from fewstep.run.config import read_run
from tests.networks.test_conditions import NETWORKS, small
from tests.support.network_properties import alive, condition, inputs
from tests.support.toys import graphs_of_passes


@pytest.fixture
def compiles(monkeypatch):
    """Passes are traced by torch's compiler, and run by its ordinary kernels: their graphs."""
    return graphs_of_passes(monkeypatch)


OTHERS = {
    "mlp": ("mlp", (5,), {"width": 16, "depth": 1}),
    "unet": ("unet", (2, 11), {"width": 8, "mult": (1, 2), "patch": 2}),
    "set": ("set_transformer", (7, 2), {"width": 16, "depth": 1, "heads": 2}),
}


@pytest.mark.usefixtures("compiles")
@pytest.mark.parametrize("name", [*NETWORKS, *OTHERS])
def test_every_network_is_one_graph(name):
    """With conditions and dropout."""
    if name in OTHERS:
        factory, shape, options = OTHERS[name]
        network = alive(getattr(fs.networks, factory)(shape, 3, 2, **options, dropout=0.3))
    else:
        network, shape = small(name, dropout=0.3)
    x, label = inputs(shape)
    cond = {**condition(shape), "mask": None} if name in ("mlp", "set") else condition(shape)
    cond = {key: value for key, value in cond.items() if value is not None}
    program = compile_network(network, "on")
    own, other = (network.masks(3, [7]) for _ in range(2))
    assert torch.equal(program(x, label, cond, own), network(x, label, cond, other))


@pytest.mark.usefixtures("compiles")
def test_some_rows_have_their_own_masks():
    network, shape = small("series", dropout=0.3)
    x, label = inputs(shape)
    program = compile_network(network, "on")
    for rows in ([2, 0], [1], [0, 1, 2]):
        few = torch.tensor(rows)
        part = each(lambda one, few=few: one[few], condition(shape))
        own, other = (network.masks(3, [9]).at(few) for _ in range(2))
        truth = network(x[few], label[few], part, other)
        assert torch.equal(program(x[few], label[few], part, own), truth)


class Mlp(nn.Module):
    """Two layers, whose rows may break the graph."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.breaks = breaks
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))

    def forward(self, x, label, cond=None):
        if self.breaks and float(x.sum()) > 0:
            x = -x
        return self.layers(x + label[:, None])


def denoiser(breaks: bool = False) -> Preconditioned:
    with fork_rng(0, "mlp"):
        return Preconditioned(Mlp(breaks), Edm())


def rows(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, generator=generator(0, "rows"))


@pytest.mark.usefixtures("compiles")
def test_a_break_is_refused_in_one_line():
    own = with_passes(denoiser(breaks=True), "on")
    with pytest.raises(
        UserError, match=r"cannot compile a pass of Mlp: .+; leave compile out"
    ) as e:
        own(rows(), 1.0)
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("compiles")
def test_a_run_whose_network_breaks_writes_nothing(tmp_path):
    """So that it starts in the same folder without its compiler."""
    run = replace(fs.recipes.toy(iterations=2, batch=16, block=4), network="own", compile="on")
    data, out = rows(40), tmp_path / "run"
    with pytest.raises(UserError, match="a pass of Mlp"):
        fs.train(run, data, Mlp(breaks=True), out=out, progress=False)
    fs.train(replace(run, compile="off"), data, Mlp(breaks=True), out=out, progress=False)


def test_what_cannot_be_compiled_is_refused():
    with pytest.raises(UserError, match="on or off on cpu"):
        with_passes(denoiser(), "graphs")
    with pytest.raises(UserError, match="Identity is no network"):
        with_passes(nn.Identity(), "on")
    assert isinstance(with_passes(nn.Identity(), "off"), nn.Identity)


@pytest.mark.usefixtures("compiles")
def test_weights_are_shared_and_copies_are_plain():
    """A program is of one network: a copy with weights of its own must not run the other's."""
    plain = denoiser()
    own = with_passes(plain, "on")
    assert plain.program is None
    assert own.program is not None
    assert own.network is plain.network
    other = copy.deepcopy(own)
    assert other.program is None
    with torch.no_grad():
        plain.network.layers[2].bias.add_(1)
    assert torch.equal(own(rows(), 1.0), plain(rows(), 1.0))
    assert not torch.equal(own(rows(), 1.0), other(rows(), 1.0))


@pytest.mark.usefixtures("compiles")
def test_both_networks_of_a_pair_are_compiled():
    pair = Truncated(denoiser(), denoiser(), 1.0)
    own = with_passes(pair, "on")
    assert own.low.program is not None
    assert own.high.program is not None
    t = torch.tensor([0.5, 2.0, 0.5, 3.0], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(own(rows(), t), pair(rows(), t))


@pytest.mark.usefixtures("compiles")
def test_derivatives_and_counted_passes_are_ordinary():
    """Torch's compiler takes neither: they would end in an error of its own."""
    plain, own = denoiser(), denoiser()
    compile_passes(own, "on")
    t = torch.full((4,), 2.0, dtype=torch.float64)
    ways = (torch.ones(4, 3), torch.ones(4, dtype=torch.float64))
    slopes = [torch.func.jvp(one, (rows(), t), ways)[1] for one in (plain, own)]
    assert torch.equal(*slopes)
    with Live() as live, torch.no_grad():
        own(rows(), 1.0)
    assert live.peak > 0


def test_the_cost_is_told_before():
    assert "3 layers" in forecast(denoiser(), passes=1)
    assert forecast(denoiser().to("meta"), passes=1) == ""


@pytest.mark.parametrize("method", ["cd", "tcm", "gc", "meanflow", "sct"])
def test_a_run_has_the_same_losses(method, compiles):
    """Averages, a frozen stage, rows off the diagonal, differences and jvps included."""
    options = {"network_options": {"width": 16, "depth": 1, "dropout": 0.1}}
    run = fs.recipes.toy(method=method, iterations=6, batch=32, log_every=1, **options)
    programs = set()

    def watch(state) -> None:
        """Which networks of the loss are compiled, by their names."""
        models = state.models()
        names = ("student", "ema", "teacher", "frozen")
        asked = {name: getattr(models, name) for name in names if name in run_method.needs}
        programs.update(name for name, one in asked.items() if compiling.is_compiled(one))

    run_method = fs.train(replace(run, iterations=4), progress=False).method
    plain = fs.train(run, progress=False)
    assert compiles == []
    own = fs.train(replace(run, compile="on"), progress=False, watch=watch)
    assert compiles
    # An exact teacher is no network, and a balance is asked for numbers alone.
    assert programs == run_method.needs - {"teacher", "balance"}
    assert own.fingerprint == plain.fingerprint
    count, samples = len(compiles), plain.sample(20)
    assert torch.equal(own.sample(20), samples)
    assert len(compiles) == count  # samples of a run that is over are ordinary
    assert torch.equal(own.compile().sample(20), samples)
    assert len(compiles) > count


def test_sizes_that_another_network_has_seen_do_not_matter(compiles):
    """A program is for the sizes of its own passes: so bits do not depend on what ran before."""
    seen = []
    for first in (None, denoiser()):
        torch._dynamo.reset()
        if first is not None:
            compile_passes(first, "on")
            first(rows(3), 1.0)
        own = denoiser()
        compile_passes(own, "on")
        own(rows(6), 1.0)
        seen.append(str(compiles[-1].print_readable(print_output=False)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("way", ["shard", "recompute"])
def test_ways_that_the_compiler_cannot_see_through_are_refused(way):
    run = replace(fs.recipes.toy(), compile="on")
    with pytest.raises(UserError, match=f"compile = 'on': expected off: {way} does not"):
        fs.train(run, progress=False, **{way: True})


@pytest.mark.long
def test_kernels_of_the_compiler_round_otherwise_and_resume_exactly(tmp_path):
    """The losses of both to 1e-3, and a run that was stopped ends with the same bits."""

    def losses(mode: str) -> torch.Tensor:
        run = fs.recipes.toy(iterations=40, batch=64, log_every=1, compile=mode)
        fs.train(run, out=tmp_path / mode, progress=False)
        lines = (tmp_path / mode / "metrics.jsonl").read_text().splitlines()
        return torch.tensor([json.loads(line)["loss"] for line in lines])

    assert torch.allclose(losses("on"), losses("off"), rtol=1e-3)
    run = read_run(tmp_path / "on" / "run.json")

    def stop(state) -> None:
        if state.step == 15:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        fs.train(run, out=tmp_path / "parts", progress=False, watch=stop)
    fs.load(tmp_path / "off").compile().sample(7)  # another size
    again = fs.train(run, out=tmp_path / "parts", resume=True, progress=False)
    assert again.fingerprint == fs.load(tmp_path / "on").fingerprint
