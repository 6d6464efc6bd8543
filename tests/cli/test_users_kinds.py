"""What users of other packages reported as wrong, kind by kind, with the right value."""

from __future__ import annotations

import copy
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.data_names import DATA_NAMES
from fewstep.cli import main

TINY = fs.Run(recipe="own", data="ring8", iterations=8, batch=32, log_every=4, checkpoint_every=8)


class Dropping(nn.Module):
    """A network of the user's own that draws from the process's global generator."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor, noise_label: Tensor, cond: Tensor | None) -> Tensor:
        hidden = self.first(torch.cat([x, noise_label[:, None].to(x.dtype)], 1)).relu()
        return self.last(nn.functional.dropout(hidden, 0.3, self.training))


def result(seed: int = 0, network: Callable[..., nn.Module] | None = None) -> tuple[str, Tensor]:
    run = fs.Run(**{**vars(TINY), "seed": seed})
    generator = fs.train(run, network=network, progress=False, device="cpu")
    return generator.fingerprint, generator.sample(20, steps=2)


# Nothing of the process's state leaks in or out.


@pytest.mark.parametrize("network", [None, Dropping])
def test_what_the_caller_has_set_for_torch_changes_no_bit(network):
    fingerprint, x = result(network=network)
    contexts = {
        "float64": lambda: torch.set_default_dtype(torch.float64),
        "device": lambda: torch.set_default_device("meta"),
        "precision": lambda: torch.set_float32_matmul_precision("medium"),
        "deterministic": lambda: torch.use_deterministic_algorithms(True),
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference": torch.inference_mode,
        "no_grad": torch.no_grad,
    }
    for name, enter in contexts.items():
        try:
            context = enter()
            if context is None:
                again = result(network=network)
            else:
                with context:
                    again = result(network=network)
            assert torch.get_default_dtype() == {"float64": torch.float64}.get(name, torch.float32)
            assert torch.get_default_device().type == {"device": "meta"}.get(name, "cpu")
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device("cpu")
            torch.set_float32_matmul_precision("highest")
            torch.use_deterministic_algorithms(False)
        assert again[0] == fingerprint, name
        assert torch.equal(again[1], x), name
        assert not again[1].is_inference(), name


def test_data_made_in_inference_mode_are_learned():
    with torch.inference_mode():
        x, labels = torch.randn(64, 2), torch.arange(64) % 2
        generator = fs.train(TINY, {"x0": x, "cond": labels}, progress=False, device="cpu")
        network = Dropping((2,), 0)
        with pytest.raises(fs.errors.UserError, match="made outside torch"):
            fs.train(TINY, x, network, progress=False, device="cpu")
    assert torch.isfinite(generator.sample(4)).all()


def test_generators_and_threads_of_the_process_stay_as_they_are():
    def state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before, threads = state(), torch.get_num_threads()
    generator = fs.load("digits")
    generator.sample(4)
    fs.metrics.evaluate(generator, fs.data.load("digits"), steps=(1,), n=40, draw=20)
    result(network=Dropping)
    assert state() == before
    assert torch.get_num_threads() == threads


def test_trainings_in_two_threads_end_as_one_after_the_other():
    jobs = [(seed, network) for seed in (0, 1) for network in (None, Dropping)]
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


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which the command line refuses it."""
    assert main(list(argv)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


# Noise levels that no step would use are refused.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample digits --steps 3 --later-sigmas 5", "expected 2 levels for 3 steps"),
        ("sample digits --steps 1 --later-sigmas 5", "expected 0 levels for 1 steps"),
        ("sample digits --sampler heun --later-sigmas 5", "multistep alone uses them"),
        ("eval digits --steps 1,4 --later-sigmas 5", "expected 2 among --steps, which is 1, 4"),
        ("eval digits --steps 2,4 --n 20 --later-sigmas 5", "expected 3 levels for 4 steps"),
    ],
)
def test_levels_of_the_wrong_number_are_refused(line, message, capsys):
    assert message in refusal(capsys, *line.split(), "--device", "cpu")


def test_levels_that_are_asked_for_are_used_and_decide_the_steps(tmp_path):
    def samples(*argv: str) -> np.ndarray:
        assert main(["sample", "digits", "--n", "4", "--quiet", *argv]) == 0
        return np.load(tmp_path / "x.npy")

    out = ("--out", str(tmp_path / "x.npy"))
    two = samples(*out, "--steps", "2", "--later-sigmas", "5")
    assert np.array_equal(samples(*out, "--later-sigmas", "5"), two)
    assert not np.array_equal(samples(*out, "--steps", "2"), two)
    assert not np.array_equal(samples(*out), two)


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
        fs.train(TINY, data, Conditional(), out=tmp_path / "run", progress=False, device="cpu")
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
    fs.train(TINY, data, Conditional(), out=tmp_path, progress=False, device="cpu")
    assert fs.load(tmp_path, network=Conditional()).facts.shape == (*[1] * 7, 2)


def test_weights_that_no_file_could_name_are_refused_before_the_first_step(tmp_path):
    many = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(7000))
    for modules, message in (({"m" * 600: nn.Linear(1, 1)}, "at most 512"), ({"m": many}, "20000")):
        network = Conditional()
        for name, module in modules.items():
            network.add_module(name, module)
        with pytest.raises(fs.errors.UserError, match=message):
            fs.train(TINY, network=network, out=tmp_path / "run", progress=False, device="cpu")
    assert not list(tmp_path.glob("run/checkpoints/*"))


# Ctrl-C without a folder loses nothing, and a run on arrays can be scored.


def test_ctrl_c_without_a_folder_gives_what_was_trained_so_far():
    def watch(state: Any) -> None:
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(fs.errors.Stopped, match=r"step 5 of 8: .*`generator`") as error:
        fs.train(TINY, progress=False, device="cpu", watch=watch)
    generator = error.value.generator
    assert generator.step == 5
    weights = {}
    fs.train(
        TINY,
        progress=False,
        device="cpu",
        watch=lambda state: weights.update(
            {state.step: copy.deepcopy(state.averages["ema"].state_dict())}
        ),
    )
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
    fs.train(TINY, x[:300], out=folder / "run", progress=False, device="cpu")
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


# Metrics take arrays of any kind, and say in one line what is wrong.

PAIRS: dict[str, Callable[..., Any]] = {
    "energy": fs.metrics.energy,
    "frechet": fs.metrics.frechet,
    "kid": fs.metrics.kid,
    "prdc": fs.metrics.prdc,
    "sliced_w2": fs.metrics.sliced_w2,
    "w2": fs.metrics.w2,
    "c2st": fs.metrics.c2st,
    "nearest_ratio": lambda x, y: fs.metrics.nearest_ratio(x, y, y + 0.1),
}


@pytest.mark.parametrize("name", PAIRS)
def test_metrics_take_arrays_and_tell_what_is_wrong(name):
    source = np.random.default_rng(0)
    x, y = source.normal(size=(2, 40, 3))
    metric = PAIRS[name]
    expected = metric(torch.from_numpy(x), torch.from_numpy(y))
    backwards = np.asfortranarray(x)[::-1][::-1]
    for rows in (x, backwards, x.astype(">f8")):
        value = metric(rows, y)
        assert value == (pytest.approx(expected, rel=1e-9) if name == "frechet" else expected)
    hole = x.copy()
    hole[7, 1] = np.nan
    wrong = {
        "1 of 40 samples of x hold NaN or infinity, the first is sample 7": hole,
        "x (40, 2) and .* (40, 3).*: expected samples of one shape": x[:, :2],
        "x of shape (0, 3): expected": x[:0],
        "x is an array of <U1: expected numbers": np.array(["a"] * 40),
    }
    for message, rows in wrong.items():
        pattern = message.replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(fs.errors.UserError, match=pattern):
            metric(rows, y)


def test_a_run_of_one_step_trains():
    run = fs.Run(**{**vars(TINY), "iterations": 1, "ema": 0.0})
    states = []
    generator = fs.train(run, progress=False, device="cpu", watch=states.append)
    fresh = fs.networks.mlp((2,), 0)
    assert [p.shape for p in fresh.parameters()] == [
        p.shape for p in generator.denoiser.parameters()
    ]
    assert states[0].optimizer.param_groups[0]["lr"] == run.lr
    start = fs.train(
        fs.Run(**{**vars(run), "lr": 1e-30}), progress=False, device="cpu"
    ).denoiser.state_dict()
    assert any(
        not torch.equal(weight, start[name])
        for name, weight in generator.denoiser.state_dict().items()
    )


# A finished run, foreign weights and misleading words.


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "run"
    fs.train(TINY, out=folder, progress=False, device="cpu")
    return folder


def test_a_longer_run_of_a_finished_one_is_named(toy_run):
    longer = fs.Run(**{**vars(TINY), "iterations": 16})
    with pytest.raises(fs.errors.UserError, match=f"--init {toy_run} --out NEW, which is a new"):
        fs.train(longer, out=toy_run, resume=True, progress=False, device="cpu")
    again = fs.train(longer, init=str(toy_run), progress=False, device="cpu")
    assert again.step == 16


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "ema.", "net.module."])
def test_foreign_weights_are_found_behind_their_prefix(prefix, toy_run, tmp_path, caplog):
    own = {
        name.removeprefix("network."): weight.clone()
        for name, weight in fs.load(toy_run).denoiser.state_dict().items()
    }
    file = tmp_path / "foreign.safetensors"
    others = {f"other.{name}": weight + 1 for name, weight in own.items()}
    save_file({prefix + name: weight for name, weight in own.items()} | others, file)
    results = [
        fs.train(TINY, init=str(source), progress=False, device="cpu").fingerprint
        for source in (file, toy_run)
    ]
    assert results[0] == results[1]
    assert f"those named {prefix}... are taken; {len(own)} others are not" in caplog.text
    save_file({"map_augment.weight": torch.ones(2), "a.b": torch.ones(2)}, file)
    with pytest.raises(
        fs.errors.UserError,
        match=rf"of the network's {len(own)} weights, lacks {len(own)}, first '.*', has 2 others,"
        r" first 'a\.b'",
    ):
        fs.train(TINY, init=str(file), progress=False, device="cpu")


def test_pickles_are_named_and_a_network_of_ours_is_not_imported(tmp_path, capsys):
    file = tmp_path / "x.pkl"
    file.write_bytes(b"\x80\x04N.")
    for line in (
        f"doctor {file} --network song_unet",
        f"train toy --init {file} --out {tmp_path}/r",
    ):
        message = refusal(capsys, *line.split())
        assert "is a pickle" in message
        assert "safetensors.torch.save_file(weights, 'x.safetensors')" in message
    message = refusal(capsys, "sample", "digits", "--network", "song_unet")
    assert "expected package.module:function of your own" in message


def test_data_that_do_not_exist_are_named(tmp_path, capsys):
    message = refusal(capsys, "train", "toy", "--data", "photos", "--out", str(tmp_path / "r"))
    assert "no file or folder photos here" in message
    assert "glyphs?" not in message


def test_arrays_of_any_order_are_the_same_data():
    x = np.random.default_rng(0).normal(size=(64, 3))
    expected = fs.data.from_tensors(x).fingerprint()
    flipped = x[::-1].copy()[::-1]
    assert flipped.strides[0] < 0
    for array in (flipped, x.astype(">f8"), np.asfortranarray(x)):
        assert fs.data.from_tensors(array).fingerprint() == expected
    with pytest.raises(fs.errors.UserError, match="data is an array of <U1: expected numbers"):
        fs.data.from_tensors(np.array([["a"], ["b"]]))


def test_labels_of_another_shape_are_told_their_way():
    x, labels = torch.randn(64, 2), torch.arange(64) % 3
    one_hot = torch.eye(3, dtype=torch.long)[labels]
    for cond, hint in (
        ({"label": labels[:, None]}, r"label\[:, 0\]"),
        ({"label": one_hot}, r"label.argmax\(1\) of these one-hot rows"),
        (labels[:, None], r"labels are whole numbers \[N\]"),
        (one_hot, r"argmax\(1\) of one-hot rows"),
    ):
        with pytest.raises(fs.errors.UserError, match=hint):
            fs.train(TINY, {"x0": x, "cond": cond}, progress=False, device="cpu")


def test_numpy_numbers_are_numbers():
    plain = fs.Run(**{**vars(TINY), "seed": 3, "lr": 0.5, "network_options": {"width": 16}})
    numbers = {"seed": np.int64(3), "iterations": np.int32(8), "lr": np.float32(0.5)}
    run = fs.Run(**{**vars(plain), **numbers, "network_options": {"width": np.int64(16)}})
    assert run == plain
    assert run.to_json() == plain.to_json()
    generator = fs.load("digits", device="cpu")
    x = generator.sample(np.int64(4), seed=np.uint8(2), steps=np.int16(2), cond=np.int64(7))
    assert torch.equal(x, generator.sample(4, seed=2, steps=2, cond=7))


def test_a_factory_without_features_gets_its_condition():
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x: Tensor, noise_label: Tensor, cond: Tensor) -> Tensor:
            return self.layer(torch.cat([x, noise_label[:, None].to(x.dtype), cond], 1))

    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        return Small()

    data = {"x0": torch.randn(64, 2), "cond": torch.randn(64, 2)}
    generator = fs.train(TINY, data, factory, progress=False, device="cpu")
    assert generator.sample(3, cond=torch.zeros(2)).shape == (3, 2)
    run = fs.Run(**{**vars(TINY), "network": "song_unet"})
    with pytest.raises(fs.errors.UserError, match=r"both sides divisible by 4 .* dit takes any"):
        fs.train(run, torch.randn(64, 1, 8, 18), progress=False, device="cpu")


# A picture shows black as black, and what it leaves out is said.


def line_of_sample(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(["sample", *argv, "--device", "cpu"]) == 0
    return capsys.readouterr().out


def test_black_and_white_of_float_pictures_are_their_lowest_and_highest_value(tmp_path, capsys):
    x = torch.rand(64, 1, 8, 8) ** 4  # mostly dark
    run = fs.Run(**{**vars(TINY), "iterations": 2})
    folder = tmp_path / "run"
    generator = fs.train(run, x, out=folder, progress=False, device="cpu")
    out = tmp_path / "x.png"
    line = line_of_sample(capsys, str(folder), "--n", "4", "--out", str(out))
    drawn = generator.sample(4)
    low, high = drawn.min().item(), drawn.max().item()
    assert f"black is {low:.4g} and white {high:.4g}" in line
    for picture in (out, folder / "samples" / "step-2.png"):
        pixels = np.asarray(Image.open(picture))
        assert (pixels.min(), pixels.max()) == (0, 255)
    # Of bytes the ends are 0 and 255, whatever is drawn.
    assert "black is" not in line_of_sample(capsys, "digits", "--n", "4", "--out", str(out))


def test_of_curves_it_is_said_how_many_are_shown(tmp_path, capsys):
    folder = tmp_path / "run"
    fs.train(TINY, torch.randn(64, 12), out=folder, progress=False, device="cpu")
    out = ("--out", str(tmp_path / "x.png"))
    assert "16 of 100 samples are shown" in line_of_sample(capsys, str(folder), *out)
    assert "shown" not in line_of_sample(capsys, str(folder), *out, "--n", "16")


# Help, and what is checked before anything takes long.


@pytest.mark.parametrize("verb", ["train", "sample", ""])
def test_help_whose_reader_has_gone_ends_quietly(verb):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        words = [sys.executable, "-m", "fewstep", *filter(None, [verb]), "--help"]
        result = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert result.stderr == b""


def test_help_of_a_run_has_a_text_for_each_field(capsys):
    text = inspect.getdoc(fs.Run)
    for field in fields(fs.Run):
        assert f"\n{field.name}: " in text
    assert "Samples of a step." in text
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    screen = capsys.readouterr().out
    for name in ("--method", "--network"):
        line = next(line for line in screen.splitlines() if line.strip().startswith(f"{name} "))
        assert "package.module:function" in line


WITHOUT_TORCH = """
import sys
from fewstep.cli import main
code = main(sys.argv[1:])
sys.exit(9 if "torch" in sys.modules else code)
"""


def test_cheap_checks_come_before_torch(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text("{}")
    for line, message in (
        ("train toy --data nowhere.npy", "no file or folder nowhere.npy"),
        ("train toy --data photos", "no file or folder photos here"),
        ("train toy --precision fp8", "invalid choice 'fp8'"),
        ("train toy --iterations 0", "iterations = 0"),
        ("train toy --out old", "already holds a run"),
    ):
        words = [sys.executable, "-c", WITHOUT_TORCH, *line.split()]
        result = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_the_names_of_data_are_those_that_are_checked():
    assert tuple(fs.data.DATASETS) == DATA_NAMES
    for name, make in fs.data.DATASETS.items():
        assert make.__name__ == name
