"""Wrong settings of a teacher are named, with the right ones; right settings are left alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fewstep as fs
from fewstep.adapters.candidates import ranges
from fewstep.analysis.doctor.entry import teacher_examination, teacher_of
from fewstep.analysis.doctor.teacher import Teacher, denoising
from fewstep.analysis.doctor.teacher_reading import find_reading
from fewstep.analysis.doctor.verdicts import Verdict
from fewstep.base import randomness
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.core.conventions import Convention, convention
from fewstep.data import Arrays, Units
from fewstep.run.datasets import dataset_of
from tests.support.exact_network import Exact
from tests.support.rows import long_if

DATA = dataset_of("exact:ring8")
TRUTH = fs.exact.ring8()
STD = DATA.sigma_data()


def reading(
    prediction: str, process: str = "edm", range_: str = "[-1, 1]", sd: float = STD, **more: Any
) -> Convention:
    deviation = sd if prediction == "edm" else None
    interval = ranges(DATA.train.x0)[range_]
    return convention(prediction, process, range=interval, sigma_data=deviation, **more)


@dataclass(frozen=True)
class Case:
    truth: Convention
    settings: dict[str, Any]  # as declared
    phrases: tuple[str, ...]  # of the message


CASES = {
    "eps for v": Case(
        reading("v", "cosine"),
        {"prediction": "eps", "process": "cosine"},
        ("like v-prediction on the cosine process",),
    ),
    "v for eps": Case(
        reading("eps", "cosine"),
        {"prediction": "v", "process": "cosine"},
        ("like eps-prediction on the cosine",),
    ),
    "x0 for eps": Case(
        reading("eps", "discrete"),
        {"prediction": "x0", "process": "discrete"},
        ("like eps-prediction on the discrete",),
    ),
    "eps for x0": Case(
        reading("x0", "cosine"),
        {"prediction": "eps", "process": "cosine"},
        ("like x0-prediction on the cosine",),
    ),
    "edm for flow": Case(
        reading("flow", "linear"), {}, ("like flow-prediction on the linear process",)
    ),
    "edm for a flow from noise to data": Case(
        reading("flow", "linear", sign=-1, label="1 - t"),
        {},
        ("like -flow-prediction on the linear process, label 1 - t",),
    ),
    "edm for a score": Case(
        reading("score"), {}, ("like score-prediction on the edm process, of data in [-1, 1]:",)
    ),
    "v for edm": Case(
        reading("edm"),
        {"prediction": "v", "process": "cosine"},
        ("like edm-prediction with sigma_data 0.49",),
    ),
    "a sign": Case(reading("edm", sign=-1), {}, ("like -edm-prediction",)),
    "a wrong table": Case(
        reading("eps", "ddpm"),
        {"prediction": "eps", "process": "discrete"},
        ("eps-prediction on the ddpm process",),
    ),
    "range [0, 1]": Case(
        reading("edm", "edm", "[0, 1]", STD / 2), {}, ("of data in [0, 1]:", "sigma_data 0.248")
    ),
    "range [-1, 1]": Case(
        reading("edm"), {"range": "[0, 1]"}, ("of data in [-1, 1]:", "sigma_data 0.497")
    ),
    "range [0, 255]": Case(
        reading("edm", "edm", "[0, 255]", STD * 127.5), {}, ("of data in [0, 255]:",)
    ),
    "a standardised range": Case(
        reading("edm", "edm", "standardised", 1.0), {}, ("of data in standardised:",)
    ),
    "sigma_data 1": Case(reading("edm", sd=1.0), {}, ("like edm-prediction with sigma_data 1,",)),
    "sigma_data in between": Case(
        reading("edm", sd=0.62), {}, ("like edm-prediction with sigma_data 0.6",)
    ),
    "sigma_data of the data": Case(
        reading("edm"), {"sigma_data": 1.0}, ("like edm-prediction with sigma_data 0.49",)
    ),
}


def verdicts_of(truth: Convention, settings: dict[str, Any]) -> dict[str, Verdict]:
    teacher = teacher_of(Exact(truth), DATA, **{"device": "cpu", **settings})
    return {verdict.name: verdict for verdict in find_reading(teacher).verdicts}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=long_if(i % 2 == 1)) for i, one in enumerate(CASES)]
)
def test_a_wrong_setting_is_named(name):
    case = CASES[name]
    verdict = verdicts_of(case.truth, case.settings)["wrong-reading"]
    assert verdict.severity in ("watch", "broken")
    assert all(phrase in verdict.message for phrase in case.phrases), verdict.message
    assert verdict.value > verdict.threshold


@pytest.mark.parametrize(
    ("truth", "settings"),
    [
        (reading("edm"), {}),
        (reading("v", "cosine"), {"prediction": "v", "process": "cosine"}),
        (reading("edm", "edm", "[0, 255]", STD * 127.5), {"range": "[0, 255]"}),
        (reading("edm", sd=1.0), {"sigma_data": 1.0}),
    ],
)
def test_a_right_setting_is_left_alone(truth, settings):
    verdicts = verdicts_of(truth, settings)
    assert verdicts["wrong-reading"].severity == "ok"
    assert "reads as declared" in verdicts["wrong-reading"].message
    assert verdicts["sigma-data"].severity == ("watch" if settings.get("sigma_data") else "ok")


def test_no_reading_makes_a_denoiser_of_noise():
    class Nonsense(nn.Module):
        def forward(self, x: Tensor, label: Tensor, cond: Any = None) -> Tensor:
            return (37 * x + label.reshape(-1, 1)).sin() * 5

    teacher = teacher_of(Nonsense(), DATA, device="cpu")
    verdict = find_reading(teacher).verdicts[0]
    assert verdict.severity == "broken"
    assert "none is right" in verdict.message or "no reading" in verdict.message


def test_the_table_of_an_exact_law():
    """Errors lie between the posterior variance and the bound.

    The empirical denoiser's is the least on its rows.
    """
    measure = denoising(teacher_of(Exact(reading("edm")), DATA, device="cpu"))
    assert [one.severity for one in measure.verdicts] == ["ok", "ok"]
    for _, train, held_out, bound, posterior, by_heart in measure.rows:
        assert held_out == pytest.approx(posterior, rel=0.25)
        assert held_out < 1.1 * bound
        assert by_heart < 1.001 * train


def test_a_teacher_of_other_data_is_no_denoiser():
    other = teacher_of(Exact(reading("edm"), fs.exact.grid25()), DATA, device="cpu")
    verdicts = {one.name: one for one in teacher_examination(other).verdicts}
    assert verdicts["no-denoiser"].severity == "broken"
    assert verdicts["wrong-reading"].severity == "broken"
    assert "no better than a linear denoiser" in verdicts["wrong-reading"].message


def test_a_teacher_that_knows_its_rows_by_heart():
    """The empirical denoiser of 60 rows, examined with these as the training split."""
    x0 = 0.5 * torch.randn(800, 12, generator=randomness.generator(0, "rows"))
    data = replace(
        fs.data.from_tensors(x0), train=Arrays(x0[:60]), validation=Arrays(x0[60:]), units=Units()
    )
    empirical = fs.exact.Empirical(x0[:60])
    teacher = Teacher("", lambda x, t, cond: empirical(x, t), reading("x0"), data)
    assert {one.name: one.severity for one in denoising(teacher).verdicts} == {
        "no-denoiser": "broken",
        "overfitting": "broken",
    }


def factory(shape: tuple[int, ...], classes: int, *, prediction: str = "edm") -> nn.Module:
    """What the command line imports."""
    return Exact(reading(prediction, "cosine" if prediction == "v" else "edm"))


def law() -> fs.exact.Mixture:
    """What `fewstep verify --target` takes too."""
    return fs.exact.ring8()


def test_the_command_line_takes_factories_files_and_laws(capsys, tmp_path):
    here = ["doctor", f"{__name__}:factory", "--data", "ring8"]
    assert main([*here, "--network-options", '{"prediction": "v"}', "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["severity"] == "broken"
    assert "reads like v-prediction on the cosine process" in json.dumps(facts)
    assert main(["doctor", "exact:ring8"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("verdict: healthy by all 2 measures that could be taken;")
    assert main(["doctor", f"{__name__}:law", "--data", "ring8"]) == 0
    assert "healthy" in capsys.readouterr().out.splitlines()[-1]
    network = fs.networks.mlp((2,), 0, width=8, depth=1)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    file = ["doctor", str(tmp_path / "net.safetensors"), "--data", "ring8", "--network", "mlp"]
    assert main([*file, "--network-options", '{"width": 8, "depth": 1}']) == 0
    assert "declared as edm-prediction" in capsys.readouterr().out


MISTAKES = {
    "no data": (["doctor", "some:thing"], "a teacher is examined with its data"),
    "no network": (["doctor", "x.safetensors", "--data", "ring8"], "name their network"),
    "no JSON": (["doctor", "exact:ring8", "--network-options", "width"], "expected JSON"),
    "no range": (
        ["doctor", f"{__name__}:factory", "--data", "ring8", "--range", "[0,1]"],
        "did you mean '[0, 1]'",
    ),
    "no prediction": (
        ["doctor", f"{__name__}:factory", "--data", "ring8", "--prediction", "epsilon"],
        "'eps'",
    ),
    "no process": (
        ["doctor", f"{__name__}:factory", "--data", "ring8", "--process", "cosin"],
        "'cosine'",
    ),
    "other data": (["doctor", "digits", "--data", "ring8"], "not what this run was trained on"),
    "no run": (["doctor", "nowhere"], "no run folder nowhere"),
    "no sampler": (["doctor", "digits", "--teacher", "exact:ring8"], "fails on data of shape"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, capsys):
    arguments, message = MISTAKES[name]
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewstep:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_network_of_another_shape_is_one_line():
    class Wide(nn.Module):
        def forward(self, x: Tensor, label: Tensor, cond: Any = None) -> Tensor:
            return torch.cat([x, x], 1)

    with pytest.raises(UserError, match="expected a tensor of the same shape"):
        find_reading(teacher_of(Wide(), DATA, device="cpu"))
