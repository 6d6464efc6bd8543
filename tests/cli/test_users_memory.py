"""A network whose activations are far larger than its weights, where memory is short."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.cli import main
from fewstep.cli.user_code import import_function
from tests.support.resources import MIB, run_contained
from tests.support.toys import tiny_run

# A row takes 8 bytes of SIZE while it passes: 1000 rows 250 MiB.
NETWORK = """
import torch

SIZE = 2**15

class Wide(torch.nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, noise_label, cond=None):
        wide = self.layer(x)[:, :1].expand(-1, SIZE) * torch.ones(SIZE)
        return self.layer(x) + (wide + 1.0).mean(1, keepdim=True)
"""
ON_CPU = ("--network", "wide_network:Wide", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of such a network, on a file of its own."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "wide_network.py").write_text(NETWORK)
    x = torch.randn(400, 2, generator=generator(0, "x"))
    np.save(folder / "rows.npy", x.numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        network = import_function("network", "wide_network:Wide")
        run = tiny_run(network_options={}, data=str(folder / "rows.npy"))
        fs.train(run, network=network, out=folder / "run", progress=False, device="cpu")
    return folder


@pytest.fixture
def call(folder, monkeypatch, capsys, caplog):
    """(exit code, stderr and warnings, bytes above the start) of a command with so many MiB."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    def contained(mib: int, *words: str) -> tuple[int, str, int]:
        def run() -> list:
            code = main(list(words))
            return [code, capsys.readouterr().err + caplog.text]

        outcome = run_contained(run, seconds=100, memory=mib * MIB)
        assert outcome.end == "returned", outcome.value
        return (*outcome.value, outcome.growth)

    return contained


def test_sampling_takes_what_a_part_takes_however_many_samples(call):
    code, text, growth = call(200, "sample", "run", *ON_CPU, "--n", "2000", "--out", "x.npy")
    assert (code, text) == (0, "")
    assert growth < 120 * MIB
    assert np.load("x.npy").shape == (2000, 2)


def test_where_the_first_batch_fails_it_goes_on_in_smaller_ones(call):
    words = ("sample", "run", *ON_CPU, "--n", "1000", "--batch", "1000", "--out")
    code, text, _ = call(150, *words, "small.npy")
    assert code == 0
    assert text.count("out of memory with 1000 at once: it goes on with ") == 1
    assert "Traceback" not in text
    assert call(1000, *words, "large.npy")[:2] == (0, "")
    np.testing.assert_allclose(np.load("small.npy"), np.load("large.npy"), rtol=1e-5, atol=1e-5)


def test_scores_need_no_more_memory_than_samples(call):
    words = ("eval", "run", *ON_CPU, "--steps", "1", "--metrics", "energy", "--n", "1000")
    code, text, growth = call(200, *words, "--quiet")
    assert code == 0
    assert "out of memory" not in text
    assert growth < 120 * MIB
    code, text, _ = call(150, *words, "--quiet", "--batch", "1000")
    assert code == 0
    assert text.count("it goes on with ") == 1


def test_the_doctor_keeps_to_the_memory_there_is(call):
    code, text, growth = call(200, "doctor", "run", *ON_CPU, "--quiet")
    assert (code, text) == (0, "")
    assert growth < 150 * MIB


def test_the_frontier_keeps_to_the_memory_there_is(call):
    plan = {"steps": "1,2", "candidates": "2", "repeats": "3", "n": "1000", "search-n": "1000"}
    words = [word for name, value in plan.items() for word in (f"--{name}", value)]
    code, text, growth = call(600, "frontier", "run", *ON_CPU, *words, "--quiet", "--out", "study")
    assert code == 0
    assert "out of memory" not in text
    assert growth < 400 * MIB  # libraries for figures are of it
    facts = json.loads(Path("study/frontier.json").read_text())
    assert (facts["plan"]["batch"], facts["plan"]["at_once"]) == (256, None)


def test_a_single_sample_that_does_not_fit_is_one_line(call, monkeypatch):
    monkeypatch.setattr(sys.modules["wide_network"], "SIZE", 2**27)
    code, text, _ = call(300, "sample", "run", *ON_CPU, "--n", "5", "--out", "y.npy")
    assert code == 1
    (line,) = text.splitlines()
    assert line.startswith("fewstep: out of memory with 1 at once: ")


def test_a_batch_below_one_is_refused(call):
    code, text, _ = call(200, "sample", "run", *ON_CPU, "--batch", "0", "--out", "z.npy")
    assert code == 2
    assert "batch = 0: expected a whole number, 1 or more" in text
