"""Two-time networks: `end` changes nothing at first, later its own row, in every network."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fewstep as fs
from fewstep.analysis.doctor.entry import raw_of
from fewstep.analysis.verify import network_checks
from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError
from fewstep.base.memory import Room
from fewstep.base.randomness import fork_rng, generator
from fewstep.networks.edm2_layers import MPMlp
from fewstep.networks.ends import EndEmbedding, on_diagonal, weights_of_end
from fewstep.networks.outline import WithoutMemory
from fewstep.networks.roles import Alone, LowRank
from tests.networks.test_conditions import NETWORKS
from tests.support.network_properties import (
    alive,
    condition,
    inputs,
    masked_elements_have_no_influence,
)

ALL = {
    **{name: NETWORKS[name] for name in ("series", "uvit", "ddpmpp", "adm", "edm2")},
    "mlp": ("mlp", (3, 2), {"width": 16, "depth": 2}),
    "unet": ("unet", (2, 11), {"width": 8, "mult": (1, 2), "patch": 2}),
    "sets": ("set_transformer", (7, 2), {"width": 16, "depth": 2, "heads": 2}),
}
every_network = pytest.mark.parametrize("name", ALL)
ENDS = 2


def fresh(name: str, ends: int = ENDS, **options: object) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of the seed 0 in float64, as it starts."""
    factory, shape, own = ALL[name]
    with fork_rng(0, "small"):
        network = getattr(fs.networks, factory)(shape, 3, 2, ends, **{**own, **options})
    return network.double(), shape


def stirred(name: str, **options: object) -> tuple[nn.Module, tuple[int, ...]]:
    network, shape = fresh(name, **options)
    return alive(network, std=1.0 if name == "edm2" else 0.3), shape


def given_to(name: str, shape: tuple[int, ...], rows: int = 3) -> dict[str, Tensor]:
    """Labels and features, and a mask where the network takes one."""
    cond = condition(shape, rows)
    if name == "sets":  # by elements
        cond["mask"] = torch.arange(shape[0]) < torch.tensor([3, 7, 5])[:rows, None]
    return {key: part for key, part in cond.items() if name != "mlp" or key != "mask"}


def ends(rows: int = 3, count: int = ENDS) -> Tensor:
    """Angles in 0 .. pi / 2."""
    source = generator(7, "ends")
    return torch.rand(rows, count, generator=source, dtype=torch.float64) * math.pi / 2


def test_the_table_has_all_networks_of_ours_but_those_of_diffusers():
    names = set(fs.networks.__dict__) & {factory for factory, _, _ in ALL.values()}
    assert names == {
        *("mlp", "song_unet", "adm_unet", "edm2_unet"),
        *("dit", "uvit", "unet", "set_transformer"),
    }


@every_network
def test_weights_of_a_one_time_network_give_its_bits_for_every_end(name):
    one, _ = stirred(name, ends=0)
    two, shape = fresh(name)
    missing, unexpected = two.load_state_dict(one.state_dict(), strict=False)
    assert unexpected == []
    assert set(missing) == weights_of_end(two) == two.state_dict().keys() - one.state_dict().keys()
    assert len(missing) > 0
    assert weights_of_end(one) == set()
    assert (one.ends, two.ends) == (0, ENDS)
    x, label = inputs(shape)
    cond = given_to(name, shape)
    out = one(x, label, cond)
    assert out.abs().max() > 1e-3
    for end in (ends(), torch.zeros(3, ENDS), -40 * ends()):
        assert torch.equal(two(x, label, cond, None, end), out)
    assert torch.equal(on_diagonal(two, x, label, cond), out)
    assert torch.equal(on_diagonal(one, x, label, cond), out)


@every_network
def test_the_other_weights_are_those_of_a_one_time_network_of_the_same_seed(name):
    one, two = (fresh(name, ends=count)[0].state_dict() for count in (0, ENDS))
    assert all(torch.equal(two[key], weight) for key, weight in one.items())
    with WithoutMemory():
        plan = fresh(name)[0].state_dict()
    assert {key: w.shape for key, w in plan.items()} == {key: w.shape for key, w in two.items()}


@every_network
def test_the_first_gradient_reaches_the_end(name):
    network, shape = fresh(name)
    one, _ = stirred(name, ends=0)
    network.load_state_dict(one.state_dict(), strict=False)
    network(*inputs(shape), given_to(name, shape), None, ends()).square().sum().backward()
    own = dict(network.named_parameters())
    assert any(own[key].grad.abs().max() > 1e-6 for key in weights_of_end(network))


@every_network
def test_each_number_of_the_end_changes_its_own_row(name):
    network, shape = stirred(name, dropout=0.3)
    (x, label), cond, end = inputs(shape), given_to(name, shape), ends()
    ask = partial(network, x, label, cond, network.masks(3, [7]))
    out = ask(end=end)
    for number in range(ENDS):
        other = end.clone()
        other[1, number] += 0.3
        change = ask(end=other) - out
        assert change[1].abs().max() > 1e-4
        torch.testing.assert_close(change[[0, 2]], torch.zeros_like(x[:2]), rtol=0, atol=1e-11)


@every_network
def test_the_derivative_along_the_end_is_its_difference(name):
    """Along the end alone and with (x, noise_label); its gradient reaches the end's weights."""
    network, shape = stirred(name, dropout=0.3)
    (x, label), cond, end = inputs(shape), given_to(name, shape), ends()
    masks, step = network.masks(3, [7]), 1e-5

    def f(x: Tensor, label: Tensor, end: Tensor) -> Tensor:
        return network(x, label, cond, masks, end)

    still = (torch.zeros_like(x), torch.zeros_like(label), torch.ones_like(end))
    for direction in (still, (x.flip(0).cos(), label.cos(), end.cos())):
        value, slope = torch.func.jvp(f, (x, label, end), direction)
        torch.testing.assert_close(value, f(x, label, end), rtol=1e-11, atol=1e-11)
        sides = [
            f(*(at + h * by for at, by in zip((x, label, end), direction, strict=True)))
            for h in (-step, step)
        ]
        scale = slope.abs().max().item()
        assert scale > 1e-4
        difference = (sides[1] - sides[0]) / (2 * step)
        torch.testing.assert_close(slope, difference, rtol=0, atol=1e-6 * scale)
    own = dict(network.named_parameters())
    some = [own[key] for key in sorted(weights_of_end(network))]
    gradients = torch.autograd.grad(slope.square().sum(), some)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in ALL if name != "mlp"])
def test_masked_elements_have_no_influence_whatever_the_end(name):
    network, shape = stirred(name)

    def ask(x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        return network(x, label, cond, None, ends())

    masked_elements_have_no_influence(ask, shape, given_to(name, shape))


@every_network
def test_an_end_that_does_not_fit_is_one_line(name):
    one, shape = fresh(name, ends=0)
    two, _ = fresh(name)
    ask = (*inputs(shape), given_to(name, shape), None)
    with pytest.raises(UserError, match=r"^this network is not told its end time: got end$"):
        one(*ask, ends())
    for end, got in ((None, "none"), (ends(3, 1), r"\[3, 1\]"), (ends()[:, 0], r"\[3\]")):
        with pytest.raises(UserError, match=rf"^this network is .* end \[B, 2\]: got {got}$"):
            two(*ask, end)


@every_network
def test_half_precision_is_near(name):
    network, shape = stirred(name)
    (x, label), cond, end = inputs(shape), given_to(name, shape), ends()
    exact = network(x, label, cond, None, end)
    near = network.bfloat16()(x.bfloat16(), label.float(), cond, None, end.float())
    assert near.dtype == torch.bfloat16
    assert (near.double() - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


def test_a_number_of_ends_below_zero_is_one_line():
    with pytest.raises(UserError, match="ends = -1: expected how many end numbers"):
        fs.networks.mlp((2,), 0, 0, -1)


@given(st.lists(st.floats(-1, math.log(64)), min_size=2, max_size=2, unique=True))
def test_different_numbers_are_told_apart(numbers):
    """Angles and logarithms of guidance: no two give the same waves, and none is far steeper."""
    embedding = EndEmbedding(1, 1, lambda inputs, width: nn.Identity()).double()
    end = torch.tensor(numbers, dtype=torch.float64)[:, None]
    first, second = embedding(torch.zeros(2, 1, dtype=torch.float64), end)
    apart = abs(numbers[0] - numbers[1])
    steepest = math.sqrt(sum(f**2 for f in (0.5, 1, 2, 4, 8)))
    length = (first - second).norm().item()
    assert 0.3 * apart - 1e-12 < length < steepest * apart * (1 + 1e-6) + 1e-12


def test_what_edm2_adds_has_the_magnitude_of_its_gain():
    with fork_rng(0, "magnitude"):
        body = MPMlp(20, 64).double()
    embedding = EndEmbedding(ENDS, 64, lambda inputs, width: body)
    body.gain.data.fill_(0.7)
    added = embedding(torch.zeros(400, 64, dtype=torch.float64), ends(400))
    assert added.square().mean().sqrt().item() == pytest.approx(0.7, rel=0.25)


def test_roles_are_told_what_their_network_is_told():
    network, shape = stirred("mlp")
    (x, label), cond, end = inputs(shape), given_to("mlp", shape), ends()
    out = network(x, label, cond, None, end)
    for role in (LowRank(network, 2), Alone(network)):
        assert role.ends == ENDS
        assert torch.equal(role(x, label, cond, None, end), out)
    assert LowRank(fresh("mlp", ends=0)[0], 2).ends == 0


def test_who_asks_a_network_itself_asks_a_two_time_one_on_its_diagonal():
    """`doctor` of a raw teacher, and `verify` of a network."""
    network, shape = stirred("mlp")
    (x, label), cond = inputs(shape), given_to("mlp", shape)
    raw = raw_of(network, Room().parts)
    diagonal = network(x, label, cond, None, torch.zeros(3, ENDS, dtype=torch.float64))
    assert torch.equal(raw(x, label, cond), diagonal)

    make = partial(fs.networks.mlp, (2,), 3, 0, ENDS, width=16, depth=1, dropout=0.3)
    checks = network_checks.checks_of(network_checks.Subject(make, (2,), 3), "two times")
    assert len(checks) == len(network_checks.PROPERTIES.rows)
    assert [check.name for check in checks if check.measure() > check.tolerance] == []
