"""What users of the papers' methods meet on the command line."""

from __future__ import annotations

import pytest

from fewstep.cli import main
from tests.support.users import SHORT, refusal


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """A consistency model and a diffusion model of the ring."""
    folder = tmp_path_factory.mktemp("ends")
    for method in ("ect", "diffusion"):
        words = ["--method", method, "--out", str(folder / method)]
        assert main(["train", "toy", *words, *SHORT]) == 0
    return folder


def test_a_trained_consistency_model_is_gcs_frozen_predictor(ends, tmp_path, capsys):
    words = ["train", "toy", "--method", "gc", "--method.predictor", "teacher", *SHORT]
    out = str(tmp_path / "run")
    assert main([*words, "--teacher", str(ends / "ect"), "--out", out]) == 0
    assert main(["sample", out, "--n", "2", "--out", str(tmp_path / "two.npy")]) == 0
    for teacher in (str(ends / "diffusion"), "exact:ring8"):
        line = refusal(capsys, *words, "--teacher", teacher, "--out", str(tmp_path / "no"))
        assert "expected a run that was trained to jump to the data" in line


def test_tcm_says_which_base_of_gc_it_can_take(capsys):
    line = refusal(capsys, "train", "toy", "--method", "tcm", "--method.base", "gc", *SHORT)
    assert "--method.base.base ect" in line
