"""What training in Python leaves alone, the process's state, and keeps: runs, weights, scores."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.cli import main
from tests.support.users import refusal, small_run

OWN = small_run(network_options={})  # for a network of the user's own


class Dropping(nn.Module):
    """A network of the user's own that draws from the process's global generator."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor, noise_label: Tensor, cond: Tensor | None) -> Tensor:
        hidden = self.first(torch.cat([x, noise_label[:, None].to(x.dtype)], 1)).relu()
        return self.last(nn.functional.dropout(hidden, 0.3, self.training))


def result(
    network: Callable[..., nn.Module] | None, seed: int = 0, iterations: int = 8
) -> tuple[str, Tensor]:
    run = replace(OWN if network else small_run(), seed=seed, iterations=iterations)
    generator = fs.train(run, network=network, progress=False, device="cpu")
    return generator.fingerprint, generator.sample(10, steps=2)


# Nothing of the process's state leaks in or out.


@pytest.mark.parametrize("network", [None, Dropping])
def test_what_the_caller_has_set_for_torch_changes_no_bit(network):
    fingerprint, x = result(network, iterations=2)
    contexts = {
        "float64": lambda: torch.set_default_dtype(torch.float64),
        "device": lambda: torch.set_default_device("meta"),
        "precision": lambda: torch.set_float32_matmul_precision("medium"),
        "convolutions": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
        "deterministic": lambda: torch.use_deterministic_algorithms(True),
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference": torch.inference_mode,
        "no_grad": torch.no_grad,
    }
    for name, enter in contexts.items():
        try:
            context = enter()
            if context is None:
                again = result(network, iterations=2)
            else:
                with context:
                    again = result(network, iterations=2)
            assert torch.get_default_dtype() == {"float64": torch.float64}.get(name, torch.float32)
            assert torch.get_default_device().type == {"device": "meta"}.get(name, "cpu")
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)  # "cpu" would leave a context
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.conv.fp32_precision = "tf32"
            torch.use_deterministic_algorithms(False)
        assert again[0] == fingerprint, name
        assert torch.equal(again[1], x), name
        assert not again[1].is_inference(), name


def test_data_made_in_inference_mode_are_learned():
    with torch.inference_mode():
        x, labels = torch.randn(64, 2), torch.arange(64) % 2
        generator = fs.train(small_run(), {"x0": x, "cond": labels}, progress=False, device="cpu")
        network = Dropping((2,), 0)
        with pytest.raises(fs.errors.UserError, match="made outside torch"):
            fs.train(OWN, x, network, progress=False, device="cpu")
    assert torch.isfinite(generator.sample(4)).all()


def test_generators_and_threads_of_the_process_stay_as_they_are():
    def state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    if find_spec("rich"):
        import_module("rich.style")  # which draws a number when it is first imported
    before, threads = state(), torch.get_num_threads()
    generator = fs.load("digits")
    generator.sample(4)
    fs.metrics.evaluate(generator, fs.data.load("digits"), steps=(1,), n=40, draw=20)
    result(Dropping)
    assert state() == before
    assert torch.get_num_threads() == threads


def test_trainings_in_two_threads_end_as_one_after_the_other():
    jobs = [(network, seed) for seed in (0, 1) for network in (None, Dropping)]
    expected = [result(*job) for job in jobs]
    threads = torch.get_num_threads()
    results: dict[int, tuple[str, Tensor]] = {}

    def work(number: int) -> None:
        results[number] = result(*jobs[number])

    crew = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    for number, (fingerprint, x) in enumerate(expected):
        assert results[number][0] == fingerprint
        assert torch.equal(results[number][1], x)
    assert torch.get_num_threads() == threads


# What a reader refuses is refused before the first step.


def deep(x: Tensor, levels: int) -> Any:
    return x if levels == 0 else {"part": deep(x, levels - 1)}


UNREADABLE: dict[str, tuple[Any, str]] = {
    "axes": (torch.randn(8, *[1] * 8, 2), "shape = .*expected a list of 1 to 8 sizes"),
    "parts": ({f"p{i}": torch.randn(8) for i in range(101)}, "cond = .*at most 100 of these"),
    "depth": (deep(torch.randn(8), 5), "cond = .*4 dicts deep"),
    "axes of a condition": (torch.randn(8, *[1] * 9), "cond = .*at most 8 axes"),
    "names": ({"p" * 2_000_000: torch.randn(8)}, "facts of the data of .* bytes"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_data_that_no_checkpoint_could_tell_of_are_refused_before_the_first_step(name, tmp_path):
    value, message = UNREADABLE[name]
    data = value if name == "axes" else {"x0": torch.randn(8, 2), "cond": value}
    with pytest.raises(fs.errors.UserError, match=message):
        fs.train(OWN, data, Conditional(), out=tmp_path / "run", progress=False, device="cpu")
    assert not list(tmp_path.glob("run/checkpoints/*"))


class Conditional(nn.Module):
    """A network of the user's own that takes any condition."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, noise_label: Tensor, cond: Any) -> Tensor:
        return self.gain * x


def test_data_at_the_limits_are_learned_and_read_again(tmp_path):
    cond = {f"p{i}": torch.randn(8) for i in range(99)} | {"deep": deep(torch.randn(8), 3)}
    data = {"x0": torch.randn(8, *[1] * 7, 2), "cond": cond}
    fs.train(OWN, data, Conditional(), out=tmp_path, progress=False, device="cpu")
    assert fs.load(tmp_path, network=Conditional()).facts.shape == (*[1] * 7, 2)


def test_weights_that_no_file_could_name_are_refused_before_the_first_step(tmp_path):
    many = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(7000))
    for modules, message in (({"m" * 600: nn.Linear(1, 1)}, "at most 512"), ({"m": many}, "20000")):
        network = Conditional()
        for name, module in modules.items():
            network.add_module(name, module)
        with pytest.raises(fs.errors.UserError, match=message):
            fs.train(OWN, network=network, out=tmp_path / "run", progress=False, device="cpu")
    assert not list(tmp_path.glob("run/checkpoints/*"))


# Ctrl-C without a folder loses nothing, and a run on arrays can be scored.


def test_ctrl_c_without_a_folder_gives_what_was_trained_so_far():
    weights = {}

    def keep(state: Any) -> None:
        weights[state.step] = copy.deepcopy(state.averages["ema"].state_dict())

    def stop(state: Any) -> None:
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(fs.errors.Stopped, match=r"step 5 of 8: .*`generator`") as error:
        fs.train(small_run(), progress=False, device="cpu", watch=stop)
    generator = error.value.generator
    assert generator.step == 5
    fs.train(small_run(), progress=False, device="cpu", watch=keep)
    for name, weight in generator.denoiser.state_dict().items():
        assert torch.equal(weight, weights[5][name])


@pytest.fixture(scope="module")
def own_arrays(tmp_path_factory):
    """A run that learned arrays, those rows in a file, and others of the same law."""
    folder = tmp_path_factory.mktemp("own")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(600, 3) * torch.tensor([10.0, 0.1, 1.0]) + torch.tensor([288.0, 0.6, 0.0])
    np.save(folder / "same.npy", x[:300].numpy())
    np.save(folder / "others.npy", x[300:].numpy())
    fs.train(small_run(), x[:300], out=folder / "run", progress=False, device="cpu")
    return folder, x


def test_a_run_on_arrays_is_scored_with_rows_that_it_did_not_learn(own_arrays, capsys, caplog):
    folder, x = own_arrays
    run = str(folder / "run")
    line = ("--steps", "1", "--n", "300", "--device", "cpu", "--json")
    assert "stored nowhere: --data PATH" in refusal(capsys, "eval", run, *line)
    message = refusal(capsys, "eval", run, *line, "--data", str(folder / "same.npy"))
    assert "learned all 300 rows" in message
    assert "give rows that it did not learn" in message
    np.save(folder / "wide.npy", np.zeros((30, 4)) + np.arange(30)[:, None])
    message = refusal(capsys, "eval", run, *line, "--data", str(folder / "wide.npy"))
    assert "shape = (4,): expected 3 variables" in message
    assert main(["eval", run, *line, "--data", str(folder / "others.npy")]) == 0
    results = {r["metric"]: r for r in json.loads(capsys.readouterr().out)["results"]}
    assert "150 are the reference, and 150 the floor" in caplog.text
    # 300 rows of one law: the floor of the energy distance is near 0, and a run of 8 steps is not.
    assert abs(results["energy"]["floor"]) < 0.05
    assert results["energy"]["value"] > 0.2
    # Python's names give the same numbers.
    generator = fs.load(run, device="cpu")
    for rows in (x[300:], x[300:].numpy()):
        ours, _ = fs.metrics.evaluate(generator, rows, steps=(1,), n=300)
        assert {r.metric: r.value for r in ours} == pytest.approx(
            {name: r["value"] for name, r in results.items()}
        )
    with pytest.raises(fs.errors.UserError, match="pass rows that it did not learn as an array"):
        fs.metrics.evaluate(generator, fs.data.from_tensors(x[300:]))


def test_a_run_of_one_step_trains():
    """With a learning rate of 0 in the first step its weights are those of no training."""
    weights = []
    for lr in (1e-3, 1e-30):
        run = small_run(iterations=1, ema=0.0, lr=lr)
        generator = fs.train(run, progress=False, device="cpu")
        weights.append(torch.cat([p.flatten() for p in generator.denoiser.parameters()]))
    moved = (weights[0] - weights[1]).abs().max().item()
    assert moved == pytest.approx(1e-3, rel=1e-2)  # of Adam's first step
