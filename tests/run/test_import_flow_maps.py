"""Weights of our flow maps that come back: with their ends, and with the same bits."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import fewstep as fs
from fewstep.cli import main
from fewstep.core import sampling, solvers
from fewstep.run.prepare import prepare
from tests.export.generators import NETWORKS, small
from tests.support.toys import tiny_run

IMF = {"most": 8.0}
LOG = {"process": "edm", "label": "log"}
CASES = {
    "mlp": ({"method": "meanflow"}, []),
    "by the log of the level": (
        {"method": "soflow", "method_options": LOG},
        ["--prediction", "edm", "--process", "edm"],
    ),
    "on trig": (
        {"method": "lsd", "method_options": {"process": "trig"}, "sigma_data": 0.7},
        ["--prediction", "trig", "--process", "trig", "--sigma-data", "0.7"],
    ),
    "told its guidance": (
        {"method": "imf", "method_options": IMF, "classes": 3, "cond": "labels"},
        ["--classes", "3"],
    ),
    "edm2": ({"method": "meanflow", "network": "edm2_unet"}, []),
}


def draw(generator: fs.Generator, steps: int) -> Tensor:
    process = generator.method.process
    z = torch.randn(6, *generator.facts.shape, generator=torch.manual_seed(1))
    grid = sampling.SAMPLERS["jumps"].times(process, steps)
    label = torch.arange(6) % generator.facts.classes if generator.facts.classes else None
    with torch.no_grad():
        return sampling.sample(process, generator.guess, z, grid, solvers.jump, label)


def words_of(generator: fs.Generator) -> list[str]:
    run, shape = generator.run, generator.facts.shape
    words = ["--network", run.network, "--shape", ",".join(map(str, shape))]
    return [*words, "--network-options", json.dumps(run.network_options)]


@pytest.mark.parametrize("name", CASES)
def test_a_plain_state_dict_of_ours_samples_the_same_bits(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings, words = CASES[name]
    if name == "edm2":
        _, shape, options, _ = NETWORKS["edm2"]
        settings = {**settings, "shape": shape, "options": options}
    own = small(**settings)
    torch.save({"ema": own.denoiser.network.state_dict()}, "plain.pt")
    assert main(["import", "plain.pt", "map.safetensors", *words_of(own), *words]) == 0
    output = capsys.readouterr().out
    assert "a flow map, which is told where it leads" in output
    is_guessed = "--sigma-data" not in words
    assert ("sigma_data 0.5: the weights do not say (--sigma-data)" in output) == is_guessed
    assert ("guided up to weight 8" in output) == (own.method.ends == 4)
    again = fs.load("map.safetensors", device="cpu")
    assert (again.method.ends, again.denoiser.ends) == (own.method.ends, own.denoiser.ends)
    for steps in (1, 2, 4):
        assert torch.equal(draw(again, steps), draw(own, steps))
    assert not torch.equal(draw(own, 1), draw(own, 2))
    assert main(["import", "map.safetensors", "other"]) == 2
    assert "every verb takes it as it is" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["map.safetensors", "map"])
def test_what_save_wrote_is_a_flow_map_again(out, tmp_path):
    own = small(method="meanflow")
    own.save(tmp_path / out)
    again = fs.load(tmp_path / out, device="cpu")
    assert again.denoiser.ends == 1
    for steps in (1, 2, 4):
        assert torch.equal(again.sample(6, steps=steps), own.sample(6, steps=steps))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--is-student", "false"], "these weights are of a flow map, which jumps"),
        (["--prediction", "epsilon"], "did you mean"),
    ],
)
def test_a_wrong_word_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = small(method="meanflow")
    torch.save(own.denoiser.network.state_dict(), "plain.pt")
    assert main(["import", "plain.pt", "map", *words_of(own), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_prediction_without_a_deviation_is_told_of_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = small(method="meanflow")
    torch.save(own.denoiser.network.state_dict(), "plain.pt")
    assert main(["import", "plain.pt", "map", *words_of(own), "--prediction", "x0"]) == 0
    assert "the weights do not say" not in capsys.readouterr().out


def test_another_number_of_ends_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(fs.networks.mlp((3,), 0, 0, 2, width=16, depth=1).state_dict(), "plain.pt")
    words = ["--network", "mlp", "--shape", "3", "--network-options", '{"width": 16, "depth": 1}']
    assert main(["import", "plain.pt", "map", *words]) == 2
    assert "numbers of the end in the weights = 2: expected 1 or 4" in capsys.readouterr().err


def test_it_teaches_by_its_diagonal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = small(method="meanflow", shape=(2,))
    torch.save(own.denoiser.network.state_dict(), "plain.pt")
    assert main(["import", "plain.pt", "map.safetensors", *words_of(own), "--quiet"]) == 0
    data = fs.exact.ring8().sample(200, seed=0)
    ready = prepare(tiny_run(method="cd"), data, teacher="map.safetensors")
    x, t = torch.randn(4, 2), torch.tensor([0.1, 0.5, 2.0, 9.0], dtype=torch.float64)
    t_own = own.method.process.time_at(t)
    truth = own.denoiser((1 - t_own).float()[:, None] * x, t_own, to=t_own)
    torch.testing.assert_close(ready.teacher.denoiser(x, t), truth, rtol=1e-5, atol=1e-5)
