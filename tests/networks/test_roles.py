"""Roles: networks that share all but low-rank changes of some layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core.denoiser import Preconditioned
from fewstep.core.guidance import Guided
from fewstep.networks.blocks import blocks_of, recompute
from fewstep.networks.roles import Alone, LowRank, part_of, playing
from fewstep.run.checkpoint import RunFolder

RANK = 2


class Small(nn.Module):
    """Convolutions and linear layers with a label, in blocks."""

    def __init__(self):
        super().__init__()
        self.labels = nn.Embedding(4, 8)
        self.time = nn.Linear(1, 8)
        self.inlet = nn.Conv2d(2, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(), nn.Conv2d(8, 8, 3, stride=1 + n, padding=1 + n, dilation=1 + n)
            )
            for n in range(2)
        )
        self.outlet = nn.Conv2d(8, 8, 1)

    def forward(self, x, noise_label, cond=None):
        cond = cond["label"] if isinstance(cond, dict) else cond
        code = self.time(noise_label[:, None].to(x.dtype)) + self.labels(cond % 4)
        h = self.inlet(x) + code[:, :, None, None]
        for block in self.blocks:
            h = block(h)
        return nn.functional.pixel_shuffle(self.outlet(h), 2)[..., : x.shape[2], : x.shape[3]]


def network():
    torch.manual_seed(0)
    one = Small()
    for weight in one.parameters():
        nn.init.normal_(weight, std=0.2)
    return one


LAYERS = [name for name, one in network().named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]


def stir(role, seed=1):
    """The role with B that are not 0."""
    source = torch.Generator().manual_seed(seed)
    for name, weight in role.named_parameters():
        if name.endswith(".b"):
            weight.data.normal_(0, 0.3, generator=source)
    return role


MOMENTS = {"exp_avg", "exp_avg_sq", "step"}


def inputs(rows=3):
    source = torch.Generator().manual_seed(2)
    x = torch.randn(rows, 2, 8, 8, generator=source)
    return x, torch.randn(rows, generator=source), torch.arange(rows) % 3


def merged(role):
    """A network of its own whose weights are W + scale B A."""
    own = copy.deepcopy(network())
    for name in LAYERS:
        layer, pair = own.get_submodule(name), role.at(name)
        change = pair.scale * (pair.b.flatten(1) @ pair.a.flatten(1))
        layer.weight.data += change.view_as(layer.weight).detach()
    return own


def test_a_role_is_the_network_with_changed_weights():
    base = network()
    role = LowRank(base, RANK, LAYERS, alpha=3)
    plain = network()(*inputs())
    torch.testing.assert_close(role(*inputs()), plain, rtol=0, atol=0)
    stir(role)
    torch.testing.assert_close(role(*inputs()), merged(role)(*inputs()), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(role(*inputs()), plain, atol=1e-2)
    torch.testing.assert_close(Alone(role.base)(*inputs()), plain, rtol=0, atol=0)
    assert {name.rpartition(".")[2] for name in role.state_dict()} == {"a", "b"}


def test_copies_share_the_network_and_nothing_else():
    role = stir(LowRank(network(), RANK, LAYERS))
    other = stir(copy.deepcopy(role), 5)
    assert other.base is role.base
    assert sum(p.numel() for p in other.parameters()) < sum(
        p.numel() for p in role.base.parameters()
    )
    one, two = role(*inputs()), other(*inputs())
    assert not torch.allclose(one, two, atol=1e-2)
    torch.testing.assert_close(role(*inputs()), one, rtol=0, atol=0)


def test_gradients_are_those_of_the_changed_weights_also_where_blocks_are_computed_again():
    role = stir(LowRank(network(), RANK, LAYERS))
    blocks = blocks_of(role)
    assert blocks

    def gradients(role):
        role.zero_grad(set_to_none=True)
        loss = role(*inputs()).square().mean()
        Alone(role.base)(*inputs())  # another role plays between
        loss.backward()
        return {name: p.grad.clone() for name, p in role.named_parameters()}

    plain = gradients(role)
    with recompute(blocks.values()):
        again = gradients(role)
    own = merged(role)
    own(*inputs()).square().mean().backward()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7)
    for name in LAYERS:
        pair, full = role.at(name), own.get_submodule(name).weight.grad.flatten(1)
        expected = pair.scale * full @ pair.a.detach().flatten(1).T
        here = plain[f"pairs.{name}.b"].flatten(1)
        torch.testing.assert_close(here, expected, rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for p in role.base.parameters())


def test_a_jvp_through_a_role_agrees_with_differences():
    role = stir(LowRank(network().double(), RANK, LAYERS)).double()
    x, noise, label = inputs()
    x, noise = x.double(), noise.double()
    v = torch.randn_like(x)
    _, tangent = torch.func.jvp(lambda x: role(x, noise, label), (x,), (v,))
    step = 1e-5
    difference = (role(x + step * v, noise, label) - role(x - step * v, noise, label)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-6)


def test_a_half_precision_network_keeps_full_precision_changes():
    role = stir(LowRank(network().bfloat16(), RANK, LAYERS))
    x, noise, label = inputs()
    assert {p.dtype for p in role.parameters()} == {torch.float32}
    out = role(x.bfloat16(), noise, label)
    assert out.dtype == torch.bfloat16
    full = stir(LowRank(network(), RANK, LAYERS))(x, noise, label)
    assert (out - full).square().mean() < 1e-3 * full.square().mean()


def test_autocast_keeps_no_second_copy_of_what_a_layer_takes():
    layers = nn.ModuleDict({name: nn.Linear(64, 8, bias=False) for name in "qkv"}).bfloat16()
    role = stir(LowRank(layers, RANK))
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    kept = {}

    def pack(part):
        kept[part.untyped_storage().data_ptr()] = part
        return part

    with torch.autocast("cpu", torch.bfloat16), playing(role):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
            out = [layer(x) for layer in layers.values()]
        exact = [
            pair(layer, x.float()) for pair, layer in zip(pairs(role), layers.values(), strict=True)
        ]
    assert sum(part.numel() == x.numel() for part in kept.values()) == 1
    for layer, whole, change in zip(layers.values(), out, exact, strict=True):
        plain = nn.functional.linear(x, layer.weight)
        assert torch.equal(whole, plain + change)


def pairs(role):
    return [role.at(name) for name in "qkv"]


def test_guidance_by_one_pass_is_that_by_two():
    role = stir(LowRank(network(), RANK, LAYERS))
    x, _, label = inputs()
    t = torch.tensor([0.3, 1.0, 5.0], dtype=torch.float64)
    denoiser = Preconditioned(role, fs.scalings.Edm())
    calls = []
    role.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    guess = Guided(denoiser, 2.0)
    two = [*guess.both(x, t, label), *guess.both(x, t, {"label": label})]
    assert calls == [3] * 4
    role.base.at_once = True
    one = [*guess.both(x, t, label), *guess.both(x, t, {"label": label})]
    assert calls[4:] == [6] * 2
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="guidance compares with and without a label"):
        guess(x, t)


def test_a_run_trains_the_changes_alone_and_goes_on_to_the_same_bits(tmp_path):
    base = network()
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    x0 = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    data = {"x0": x0, "cond": torch.arange(64) % 3}
    run = fs.recipes.toy(iterations=6, batch=16, block=16, checkpoint_every=3, ema=0.5)
    options = {"progress": False, "device": "cpu"}
    whole = fs.train(run, data, network=LowRank(base, RANK, LAYERS), **options)
    out = tmp_path / "run"
    fresh = LowRank(network(), RANK, LAYERS)

    def stop(state):
        if state.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fs.train(run, data, network=copy.deepcopy(fresh), out=out, watch=stop, **options)
    again = fs.train(run, data, network=fresh, out=out, resume=True, **options)
    assert again.fingerprint == whole.fingerprint
    loaded = fs.load(out, network=LowRank(network(), RANK, LAYERS))
    torch.testing.assert_close(loaded.sample(4), whole.sample(4), rtol=0, atol=0)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.state_dict().items())
    names = {name for group in RunFolder(out).newest().groups.values() for name in group}
    assert {name.partition("pairs.")[2].rpartition(".")[2] for name in names} <= MOMENTS | {
        "a",
        "b",
    }


@pytest.mark.parametrize(
    ("rank", "layers", "message"),
    [(0, (), "rank = 0: expected at least 1"), (1, ("nothing",), "layers of \\w+ = .*nothing")],
)
def test_mistakes_are_one_line(rank, layers, message):
    with pytest.raises(UserError, match=message):
        LowRank(network(), rank, layers)


def test_a_role_has_some_parts_for_itself():
    """Trained whole, in float32; without a role the network's own answers."""

    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.shift = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, *_):
            return self.layer(x) + part_of(self, "shift")(x)

    base = Asking().bfloat16()
    role, x = LowRank(base, 1, ["layer"], own=["shift"]), torch.ones(1, 2)
    other = copy.deepcopy(role)
    plain = base(x.bfloat16())
    assert {p.dtype for p in role.parameters()} == {torch.float32}
    assert sum(p.numel() for p in role.own.parameters()) == 6
    role.own["shift"].bias.data += 1
    with playing(role):
        torch.testing.assert_close(part_of(base, "shift")(x), other.own["shift"](x) + 1)
    with playing(other):
        torch.testing.assert_close(part_of(base, "shift")(x), role.own["shift"](x) - 1)
    assert torch.equal(Alone(base)(x.bfloat16()), plain)
