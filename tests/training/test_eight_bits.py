"""adamw8bit: bitsandbytes' own where it is installed, and a stand-in with the same state."""

from __future__ import annotations

import sys
import time
import types

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.world import World
from fewstep.run.checkpoint import read
from fewstep.training import optimizers, parallel
from tests.support.toys import tiny_run


class AdamW8bit(torch.optim.Optimizer):
    """The names, types and shapes of bitsandbytes 0.50; moments of bytes, roughly."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.maps = torch.linspace(-1, 1, 256), torch.linspace(0, 1, 256)

    def start(self, p):
        is_small = p.numel() < 4096
        state = {"step": 0}
        for n, levels in enumerate(self.maps, 1):
            dtype = torch.float32 if is_small else torch.uint8
            state[f"state{n}"] = torch.zeros_like(p, dtype=dtype)
            if not is_small:
                state[f"qmap{n}"] = levels
                state[f"absmax{n}"] = torch.zeros(-(-p.numel() // 256))
        return state

    def moment(self, state, n, g, beta):
        value, levels = state[f"state{n}"], state.get(f"qmap{n}")
        if levels is None:
            return value.lerp_(g, 1 - beta)
        scale = state[f"absmax{n}"]
        blocks = torch.nn.functional.pad(g.flatten(), (0, -g.numel() % 256)).view(-1, 256)
        old = torch.nn.functional.pad(levels[value.long()].flatten(), (0, -g.numel() % 256))
        new = (old.view(-1, 256) * scale[:, None]).lerp(blocks, 1 - beta)
        scale.copy_(new.abs().amax(1).clamp_min(1e-30))
        index = torch.bucketize(new / scale[:, None], levels).clamp_max(255)
        value.copy_(index.flatten()[: g.numel()].view_as(g))
        return new.flatten()[: g.numel()].view_as(g)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if not self.state[p]:
                    self.state[p] = self.start(p)
                state, (b1, b2) = self.state[p], group["betas"]
                state["step"] += 1
                assert type(state["step"]) is int
                m = self.moment(state, 1, p.grad, b1) / (1 - b1 ** state["step"])
                v = self.moment(state, 2, p.grad.square(), b2) / (1 - b2 ** state["step"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * m / (v.clamp_min(0).sqrt() + group["eps"]))


@pytest.fixture(params=["stand-in", "bitsandbytes"])
def library(request, monkeypatch):
    if request.param == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    else:
        install(monkeypatch, AdamW8bit)


def install(monkeypatch, kind):
    package, optim = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    optim.AdamW8bit = kind
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)


def network():
    torch.manual_seed(0)
    return fs.networks.mlp((2,), width=72, depth=1)  # 72 x 72 weights are of bytes


RUN = tiny_run(optimizer="adamw8bit", iterations=4, checkpoint_every=2, lr=1e-2)
OPTIONS = {"progress": False, "device": "cpu"}


@pytest.mark.usefixtures("library")
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path):
    whole = fs.train(RUN, network=network(), **OPTIONS)
    out = tmp_path / "run"

    def stop(state):
        if state.step == 3:  # the checkpoint is of step 2, written meanwhile
            while not (out / "checkpoints" / "step-2").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fs.train(RUN, network=network(), out=out, watch=stop, **OPTIONS)
    group = read(next((out / "checkpoints").iterdir())).groups["optimizer"]
    assert {name.rpartition(".")[2] for name in group} == set(optimizers.EIGHT_BITS)
    types = {tensor.dtype for name, tensor in group.items() if name.endswith("state1")}
    assert types == {torch.uint8, torch.float32}
    again = fs.train(RUN, network=network(), out=out, resume=True, **OPTIONS)
    assert again.fingerprint == whole.fingerprint


@pytest.mark.usefixtures("library")
def test_steps_are_about_those_of_adamw():
    source = torch.Generator().manual_seed(0)
    first = torch.randn(100, 100, generator=source)
    ours, theirs = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    run = tiny_run(optimizer="adamw8bit", betas=(0.9, 0.99), weight_decay=0.1)
    optimizer = optimizers.build(run, [ours])
    other = torch.optim.AdamW([theirs], lr=1e-2, betas=run.betas, weight_decay=0.1)
    for k in range(10):
        ours.grad = torch.randn(100, 100, generator=source) + 1
        theirs.grad = ours.grad.clone()
        optimizers.set_rate(optimizer, run, 1e-2, k)
        optimizer.step()
        other.step()
    change, expected = (ours - first).detach(), (theirs - first).detach()
    assert (change - expected).norm() < 0.15 * expected.norm()
    state = optimizers.tensors_of(optimizer, ours)
    for key, value in state.items():
        assert tuple(value.shape) == optimizers.shape_of(key, ours), key


def test_its_state_has_these_shapes_alone():
    weight = torch.zeros(3, 100)
    shapes = {key: optimizers.shape_of(key, weight) for key in optimizers.EIGHT_BITS}
    assert shapes["step"] == ()
    assert shapes["state1"] == shapes["state2"] == (3, 100)
    assert shapes["qmap1"] == shapes["qmap2"] == (256,)
    assert shapes["absmax1"] == shapes["absmax2"] == (2,)


class Without(AdamW8bit):
    def step(self, closure=None):
        raise NotImplementedError("no backend\nand a long trace")


def test_what_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"adamw8bit.*pip install 'fewstep\[bnb\]'"):
        fs.train(RUN, **OPTIONS)
    install(monkeypatch, Without)
    with pytest.raises(UserError, match=r"no kernels for cpu here \(no backend\): take adamw$"):
        fs.train(RUN, **OPTIONS)
    two = World(size=2)
    with pytest.raises(UserError, match="shard = True: expected False with adamw8bit"):
        parallel.check(RUN, two, shard=True)
    parallel.check(RUN, two, shard=False)
