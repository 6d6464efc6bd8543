"""Methods that tell their students where to lead: which networks they get, with whose weights."""

from __future__ import annotations

import logging
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core.method import Method
from fewstep.data import Units
from fewstep.networks.ends import weights_of_end
from fewstep.run.build import build_method, build_student, outline, with_defaults
from fewstep.run.facts import Facts
from fewstep.run.prepare import prepare
from fewstep.run.sources import Weights, fit
from fewstep.training.budget import size_of
from tests.support.toys import tiny_run

RUN = with_defaults(tiny_run())
FACTS = Facts((2,), 0, 0.5, Units(), "")
BARE = replace(RUN, network_options={})
ONE_TIME = build_method(RUN, FACTS)


class TwoTimes(Method):
    ends = 2


def two_times(**changes: object) -> TwoTimes:
    parts = {part.name: getattr(ONE_TIME, part.name) for part in fields(Method)}
    return TwoTimes(**{**parts, **changes})


def student(method: Method = ONE_TIME) -> nn.Module:
    return build_student(RUN, FACTS, method).network


def weights(tensors: dict[str, torch.Tensor]) -> Weights:
    return Weights(tensors, "", "of a file")


def one_time() -> dict[str, torch.Tensor]:
    """Weights of another seed."""
    network = build_student(with_defaults(tiny_run(seed=3)), FACTS, ONE_TIME).network
    return dict(network.state_dict())


@pytest.mark.parametrize(
    "method",
    [two_times(), two_times(before=ONE_TIME), replace(ONE_TIME, before=two_times())],
    ids=["alone", "after a one-time stage", "before one"],
)
def test_a_network_of_ours_is_told_what_the_method_tells(method):
    network, plain = student(method), student()
    assert (network.ends, plain.ends) == (2, 0)
    own = network.state_dict()
    assert own.keys() - plain.state_dict().keys() == weights_of_end(network)
    assert all(torch.equal(own[name], one) for name, one in plain.state_dict().items())
    plan = outline(RUN, FACTS, method, 100)
    assert {name: one.shape for name, one in plan.items()} == {
        f"network.{name}": one.shape for name, one in own.items()
    }


class Own(nn.Module):
    def __init__(self, ends: int = 0) -> None:
        super().__init__()
        self.ends = ends
        self.weight = nn.Parameter(torch.zeros(2))


def without_ends(shape, classes=0):
    return Own()


def deaf(shape, classes=0, ends=0):
    return Own()


def hearing(shape, classes=0, ends=0):
    return Own(ends)


@pytest.mark.parametrize("network", [without_ends, deaf, Own(), Own(1), nn.Linear(2, 2)])
def test_a_network_that_is_not_told_is_refused_in_one_line(network):
    with pytest.raises(UserError, match=r"ect' needs a network that is told its end time") as error:
        build_student(BARE, FACTS, two_times(), network)
    line = str(error.value)
    assert "\n" not in line
    assert "'mlp' is not: adm_unet, dit, edm2_unet, mlp, set_transformer, song_unet," in line
    assert "diffusers" not in line
    assert "ends = 2" in line
    build_student(BARE, FACTS, ONE_TIME, network)


@pytest.mark.parametrize("network", [hearing, Own(2), Own(4)])
def test_a_network_of_ones_own_may_be_told(network):
    assert build_student(BARE, FACTS, two_times(), network).network.ends >= 2


@pytest.mark.parametrize("prefix", ["", "ema.", "network."])
def test_one_time_weights_start_a_two_time_network(prefix, caplog):
    network, tensors = student(two_times()), one_time()
    new = {name: network.state_dict()[name].clone() for name in weights_of_end(network)}
    with caplog.at_level(logging.INFO, "fewstep"):
        fit(weights({prefix + name: one for name, one in tensors.items()}), network)
    assert all(torch.equal(one, {**new, **tensors}[n]) for n, one in network.state_dict().items())
    told = [line for line in caplog.messages if "of a one-time network; the 4 of the end" in line]
    assert len(told) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "fewstep"):
        fit(weights(dict(student(two_times()).state_dict())), network)
    assert caplog.messages == []


def test_weights_that_lack_anything_else_are_refused():
    network = student(two_times())
    whole = dict(network.state_dict())
    for gone in (["outlet.bias"], ["end.body.2.bias"], [*weights_of_end(network), "inlet.weight"]):
        some = {name: one for name, one in whole.items() if name not in gone}
        with pytest.raises(UserError, match=rf"lacks {len(gone)}, first '") as error:
            fit(weights(some), network)
        assert "\n" not in str(error.value)


def test_two_time_weights_do_not_start_a_one_time_network():
    with pytest.raises(UserError, match="of a network that is told its end time, and") as error:
        fit(weights(dict(student(two_times()).state_dict())), student())
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"has 1 others, first 'more'"):
        fit(weights({**one_time(), "more": torch.zeros(1)}), student())


def test_a_run_starts_from_a_one_time_one_as_it_answers(tmp_path):
    source = fs.train(tiny_run(method="diffusion"), out=tmp_path / "r", progress=False)
    network = student(two_times())
    fit(fs.run.sources.weights_of("init", tmp_path / "r"), network)
    x, label = torch.randn(5, 2), torch.linspace(-1, 1, 5)
    out = network.eval()(x, label, None, None, torch.rand(5, 2))
    assert torch.equal(out, source.denoiser.network(x, label))


def test_a_two_time_network_is_counted():
    sizes = [
        size_of(prepare(RUN, network=fs.networks.mlp((2,), 0, 0, ends, width=16, depth=1)))
        for ends in (0, 1)
    ]
    assert sizes[1].weights - sizes[0].weights == 10 * 64 + 64 + 64 * 64 + 64
    assert sizes[1].flops > sizes[0].flops
