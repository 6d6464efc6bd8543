"""What users have: the command line, run in this process, and the names of `fs`; nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.cli import main

# `fewstep train` in four steps of a small network.
SHORT = [
    *("--iterations", "4", "--network.width", "16", "--network.depth", "1", "--picture-every", "0"),
    *("--checkpoint-every", "4", "--log-every", "1", "--device", "cpu"),
]


def small_run(**fields: object) -> fs.Run:
    """A run of eight steps of a small network on the ring."""
    small = {"recipe": "own", "data": "ring8", "iterations": 8, "batch": 32, "log_every": 4}
    options = {"network_options": {"width": 16, "depth": 1}, "checkpoint_every": 8}
    return fs.Run(**{**small, **options, **fields})


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which the command line refuses it, as the user's mistake."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def train(data: str, *options: str, out: str = "run") -> fs.Generator:
    """What `fewstep train` makes of that data in a few steps."""
    assert main(["train", "toy", "--data", data, "--out", out, *SHORT, *options]) == 0
    return fs.load(out, device="cpu")


def everything(dataset: fs.data.Dataset) -> np.ndarray:
    """The samples of all splits in the user's units, in no order that matters."""
    splits = (dataset.train, dataset.validation, dataset.test)
    return dataset.units.to_user(torch.cat([one.x0 for one in splits])).numpy()


def samples(*argv: str) -> np.ndarray:
    """What `fewstep sample` writes into this folder."""
    assert main(["sample", *argv, "--device", "cpu", "--out", "samples.npy"]) == 0
    return np.load("samples.npy")
