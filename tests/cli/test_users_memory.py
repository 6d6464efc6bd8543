"""A network whose activations are far larger than its weights, where memory is short."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fewstep.cli import main
from tests.support.resources import MIB, run_contained

# A row takes 256 KiB while it passes. Memory that is never touched costs no time.
NETWORK = """
import torch

SIZE = 2**16

class Wide(torch.nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, noise_label, cond=None):
        wide = x.new_empty(len(x), SIZE)
        return self.layer(x)
"""
ON_CPU = ("--network", "wide_network:Wide", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of such a network, on a file of its own."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "wide_network.py").write_text(NETWORK)
    np.save(folder / "rows.npy", np.random.default_rng(0).normal(size=(400, 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        words = f"--data {folder}/rows.npy --out run --iterations 4 --batch 32 --picture-every 0"
        assert main(["train", "toy", *words.split(), *ON_CPU]) == 0
    return folder


@pytest.fixture
def call(folder, monkeypatch, capsys, caplog):
    """(exit code, stderr and warnings) of a command that has so many MiB more than this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    def contained(mib: int, *words: str) -> tuple[int, str]:
        def run() -> list:
            code = main([*words, *ON_CPU])
            return [code, capsys.readouterr().err + caplog.text]

        outcome = run_contained(run, seconds=100, memory=mib * MIB)
        assert outcome.end == "returned", outcome.value
        return tuple(outcome.value)

    return contained


def test_sampling_takes_what_a_part_takes_however_many_samples(call):
    assert call(150, "sample", "run", "--n", "2000", "--out", "x.npy") == (0, "")
    assert np.load("x.npy").shape == (2000, 2)


def test_where_the_first_batch_fails_it_goes_on_in_smaller_ones(call):
    words = ("sample", "run", "--n", "1000", "--batch", "1000", "--out")
    code, text = call(150, *words, "small.npy")
    assert code == 0
    assert text.count("out of memory with 1000 at once: it goes on with ") == 1
    assert "Traceback" not in text
    assert call(1000, *words, "large.npy") == (0, "")
    np.testing.assert_allclose(np.load("small.npy"), np.load("large.npy"), rtol=1e-5, atol=1e-5)


def test_scores_need_no_more_memory_than_samples(call):
    words = ("eval", "run", "--steps", "1", "--metrics", "energy", "--n", "1000")
    code, text = call(150, *words)
    assert code == 0
    assert "out of memory" not in text
    code, text = call(150, *words, "--batch", "1000")
    assert code == 0
    assert text.count("it goes on with ") == 1


def test_the_doctor_keeps_to_the_memory_there_is(call):
    code, text = call(150, "doctor", "run")
    assert code == 0
    assert "out of memory" not in text


def test_the_frontier_keeps_to_the_memory_there_is(call):
    plan = {"steps": "1,2", "candidates": "2", "repeats": "3", "n": "1000", "search-n": "1000"}
    words = [word for name, value in plan.items() for word in (f"--{name}", value)]
    # Libraries for figures take most of it.
    code, text = call(500, "frontier", "run", *words, "--out", "study")
    assert code == 0
    assert "out of memory" not in text
    facts = json.loads(Path("study/frontier.json").read_text())
    assert (facts["plan"]["batch"], facts["plan"]["at_once"]) == (256, None)


def test_a_single_sample_that_does_not_fit_is_one_line(call, monkeypatch):
    monkeypatch.setattr(sys.modules["wide_network"], "SIZE", 2**27)
    code, text = call(300, "sample", "run", "--n", "5", "--out", "y.npy")
    assert code == 1
    (line,) = text.splitlines()
    assert line.startswith("fewstep: out of memory with 1 at once: ")


def test_a_batch_below_one_is_refused(call):
    code, text = call(200, "sample", "run", "--batch", "0", "--out", "z.npy")
    assert code == 2
    assert "batch = 0: expected a whole number, 1 or more" in text
