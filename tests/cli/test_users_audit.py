"""What users of the papers' methods meet on the command line."""

from __future__ import annotations

import pytest

import fewstep as fs
from fewstep.cli import main

SHORT = ("--iterations", "4", "--quiet", "--device", "cpu")


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """A consistency model and a diffusion model of the digits."""
    folder = tmp_path_factory.mktemp("ends")
    for method in ("ect", "diffusion"):
        words = ["--method", method, "--out", str(folder / method)]
        assert main(["train", "digits", *words, *SHORT]) == 0
    return folder


def test_a_trained_consistency_model_is_gcs_frozen_predictor(ends, tmp_path, capsys):
    words = ["train", "digits", "--method", "gc", "--method.predictor", "teacher", *SHORT]
    out = str(tmp_path / "run")
    assert main([*words, "--teacher", str(ends / "ect"), "--out", out]) == 0
    assert main(["sample", out, "--n", "2", "--out", str(tmp_path / "two.npy")]) == 0
    capsys.readouterr()
    for teacher in (str(ends / "diffusion"), "exact:digits-mixture"):
        assert main([*words, "--teacher", teacher, "--out", str(tmp_path / "no")]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "expected a run that was trained to jump to the data" in message


def test_two_steps_of_a_discrete_process_meet_in_the_middle_of_its_table():
    """LCM's sampler goes back to timestep 499, which is t = 500 here; EDM's 0.821 was t = 297."""
    method = fs.methods.direct_cm(process="discrete", n=10)
    start, middle, end = fs.sampling.multistep_grid(method.process, 2, method.later_sigmas)
    assert (start, end) == (1000, 0)
    assert middle == pytest.approx(500)


def test_tcm_says_which_base_of_gc_it_can_take(capsys):
    words = ["train", "digits", "--method", "tcm", "--method.base", "gc", *SHORT]
    assert main(words) == 2
    assert "--method.base.base ect" in capsys.readouterr().err
