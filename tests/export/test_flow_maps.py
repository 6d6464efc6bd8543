"""A flow map as a file: the network is told where each answer leads."""

from __future__ import annotations

import pytest

from fewstep.base.errors import UserError
from fewstep.core.sampling import SAMPLERS
from fewstep.export.card import card
from fewstep.export.contents import prepare
from fewstep.export.graph import KSteps
from fewstep.export.writing import bound_of, export
from tests.export.generators import NETWORKS, of_name, small
from tests.export.test_graph import gap

IMF = {"method": "imf", "method_options": {"most": 8.0}, "classes": 3, "cond": "labels"}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_jumps_as_the_generator(name):
    assert gap(prepare(of_name(name, method="meanflow"), steps=3)) < 5e-6


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "addim"])
def test_every_sampler_asks_where_it_leads_or_on_the_diagonal(sampler):
    g = small(method="meanflow", std=0.1)
    steps = 5 if sampler == "heun" else 4
    contents = prepare(g, steps=steps, sampler=sampler)
    assert gap(contents) < bound_of(contents)
    ends, times = contents.scheme.ends, contents.scheme.times
    if sampler == "jumps":
        assert ends == [*times[1:], 0.0]
    elif sampler == "multistep":
        assert ends == [0.0] * 4
    elif sampler not in ("ctm", "tcd"):
        assert ends == times


def test_the_guidance_that_a_student_is_told_is_in_the_file():
    g = small(**IMF)
    guided = g.with_guidance(2.0, (0.1, 3.0))
    assert gap(prepare(guided, steps=2)) < 5e-6
    module = KSteps(guided, prepare(guided, steps=2).scheme)
    assert module.ends[0][1:] == list(guided.instruction)
    own = KSteps(g, prepare(g, steps=2).scheme)
    assert own.ends[0][1:] == [0.0, 0.0, 1.0]
    x = prepare(g, steps=2).inputs(8)
    assert (module(**x) - own(**x)).abs().max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("to", ["torch", "safetensors", "onnx"])
def test_files_open_without_the_package(to, tmp_path):
    report = export(prepare(small(method="shortcut"), steps=4), tmp_path / "out", to)
    assert report.difference < 5e-6


def test_the_card_says_that_it_is_a_flow_map():
    text = card(prepare(small(method="shortcut"), steps=4), "torch")
    assert "It is a flow map" in text
    assert "from time 1 to 0.75, 0.75 to 0.5" in text
    contents = prepare(small())
    assert "flow map" not in card(contents, "torch")
    assert "ends" not in contents.to_json()


def test_stock_diffusers_has_no_network_of_two_times(tmp_path):
    contents = prepare(small(method="meanflow"))
    with pytest.raises(UserError, match="meanflow is a flow map, whose network takes two times"):
        export(contents, tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("steps", [1, 3])
def test_guidance_of_a_student_that_is_not_told_it_is_refused(steps):
    with pytest.raises(UserError, match=r"guidance = 1\.0: expected 0: a student jumps"):
        prepare(small(method="meanflow", classes=3, cond="labels").with_guidance(1.0), steps=steps)
