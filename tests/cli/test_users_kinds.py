"""What users of other packages reported as wrong: words, levels, extractors, metrics, help."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fewstep as fs
from fewstep.cli import main
from tests.support.users import SHORT, refusal, samples, small_run


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Noise levels that no step would use are refused.


@pytest.fixture
def levels(capsys):
    """The option of these levels, as a user finds it in the help."""
    with suppress(SystemExit):
        main(["sample", "--help"])
    before = capsys.readouterr().out.partition("Noise levels of the later steps")[0]
    return re.findall(r"--[a-z-]+", before)[-1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample digits --steps 3 LEVELS 5", "expected 2 levels for 3 steps"),
        ("sample digits --steps 1 LEVELS 5", "expected 0 levels for 1 steps"),
        ("sample digits --sampler heun LEVELS 5", "multistep alone uses them"),
        ("eval digits --steps 1,4 LEVELS 5", "expected 2 among --steps, which is 1, 4"),
        ("eval digits --steps 2,4 --n 20 LEVELS 5", "expected 3 levels for 4 steps"),
    ],
)
def test_levels_of_the_wrong_number_are_refused(line, message, levels, capsys):
    words = line.replace("LEVELS", levels).split()
    assert message in refusal(capsys, *words, "--device", "cpu")


def test_levels_that_are_asked_for_are_used_and_decide_the_steps(levels):
    digits = ("digits", "--n", "4")
    two = samples(*digits, "--steps", "2", levels, "5")
    assert np.array_equal(samples(*digits, levels, "5"), two)
    assert not np.array_equal(samples(*digits, "--steps", "2"), two)
    assert not np.array_equal(samples(*digits), two)


# An extractor may take other numbers than floats, and a batch of its own.


def identity(kind: int, batch: int | str) -> Any:
    """An ONNX model whose features are the pixels it is given."""
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["floats"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Flatten", ["floats"], ["features"]),
    ]
    entry = onnx.helper.make_tensor_value_info("x", kind, [batch, 1, 8, 8])
    output = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [batch, 64])
    graph = onnx.helper.make_graph(nodes, "pixels", [entry], [output])
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)


def test_an_extractor_of_any_type_and_batch_scores_alike(capsys):
    pytest.importorskip("onnxruntime", reason="the metrics extra is not installed")
    Path("own.json").write_text('{"range": [0, 255], "levels": 256}')
    line = "eval digits --steps 1 --n 300 --metrics own_frechet --extractor own.onnx --json"
    values = []
    for kind, batch in (("FLOAT", "n"), ("FLOAT", 7), ("FLOAT16", 9), ("DOUBLE", 1), ("UINT8", 9)):
        onnx.save(identity(onnx.TensorProto.DataType.Value(kind), batch), "own.onnx")
        assert main([*line.split(), "--device", "cpu"]) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        values.append(result["value"])
    assert values == pytest.approx([values[0]] * 5, rel=1e-3)


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


# A finished run, foreign weights and misleading words.


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "run"
    fs.train(small_run(), out=folder, progress=False, device="cpu")
    return folder


def test_a_longer_run_of_a_finished_one_is_named(toy_run):
    longer = small_run(iterations=16)
    with pytest.raises(fs.errors.UserError, match=f"--extend 8; .* --init {toy_run} --out NEW"):
        fs.train(longer, out=toy_run, resume=True, progress=False, device="cpu")
    again = fs.train(longer, init=str(toy_run), progress=False, device="cpu")
    assert again.step == 16


def test_foreign_weights_are_found_behind_their_prefix(toy_run, caplog):
    start = fs.load(toy_run, device="cpu").denoiser.state_dict()
    own = {name.removeprefix("network."): weight.clone() for name, weight in start.items()}
    others = {f"other.{name}": weight + 1 for name, weight in own.items()}
    run = small_run(iterations=1)
    expected = fs.train(run, init=str(toy_run), progress=False, device="cpu").fingerprint
    for prefix in ("model.", "module.", "_orig_mod.", "ema.", "net.module."):
        save_file({prefix + name: w for name, w in own.items()} | others, "w.safetensors")
        result = fs.train(run, init="w.safetensors", progress=False, device="cpu")
        assert result.fingerprint == expected
        assert f"those named {prefix}... are taken; {len(own)} others are not" in caplog.text
    save_file({"map_augment.weight": torch.ones(2), "a.b": torch.ones(2)}, "w.safetensors")
    with pytest.raises(
        fs.errors.UserError,
        match=rf"of the network's {len(own)} weights, lacks {len(own)}, first '.*', has 1 others,"
        r" first 'a\.b'",
    ):
        fs.train(run, init="w.safetensors", progress=False, device="cpu")


def test_pickles_are_named_and_a_network_of_ours_is_not_imported(capsys):
    Path("x.pkl").write_bytes(b"\x80\x04N.")
    for line in ("doctor x.pkl --network song_unet", "train toy --init x.pkl --out r"):
        message = refusal(capsys, *line.split())
        assert "is a pickle" in message
        assert "'fewstep import x.pkl x.safetensors'" in message
    message = refusal(capsys, "sample", "digits", "--network", "song_unet")
    assert "expected package.module:function of your own" in message


def test_data_that_do_not_exist_are_named(capsys):
    message = refusal(capsys, "train", "toy", "--data", "photos")
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
            fs.train(small_run(), {"x0": x, "cond": cond}, progress=False, device="cpu")


def test_numpy_numbers_are_numbers():
    plain = small_run(seed=3, lr=0.5, network_options={"width": 16})
    numbers = {"seed": np.int64(3), "iterations": np.int32(8), "lr": np.float32(0.5)}
    run = replace(plain, **numbers, network_options={"width": np.int64(16)})
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
    own = small_run(network_options={})
    generator = fs.train(own, data, factory, progress=False, device="cpu")
    assert generator.sample(3, cond=torch.zeros(2)).shape == (3, 2)
    run = replace(own, network="song_unet")
    with pytest.raises(fs.errors.UserError, match=r"both sides divisible by 4 .* dit takes any"):
        fs.train(run, torch.randn(64, 1, 8, 18), progress=False, device="cpu")


def test_a_log_of_training_holds_no_bar(capsys):
    assert main(["train", "toy", "--out", "run", *SHORT]) == 0
    error = capsys.readouterr().err
    assert "\r" not in error
    assert "%" not in error


# Help, and what is checked before anything takes long.


@pytest.mark.parametrize("verb", ["train", ""])
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
import json, sys
from fewstep.cli import main
print(json.dumps([[main(line.split()), "torch" in sys.modules] for line in sys.argv[1:]]))
"""


def test_cheap_checks_come_before_torch():
    Path("old").mkdir()
    Path("old/run.json").write_text("{}")
    lines = {
        "train toy --data nowhere.npy": "no file or folder nowhere.npy",
        "train toy --precision fp8": "invalid choice 'fp8'",
        "train toy --iterations 0": "iterations = 0",
        "train toy --out old": "already holds a run",
    }
    words = [sys.executable, "-c", WITHOUT_TORCH, *lines]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [[2, False]] * len(lines)
    for message, line in zip(lines.values(), result.stderr.splitlines(), strict=True):
        assert message in line
