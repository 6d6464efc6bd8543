"""The command line: exit codes, one line per mistake, signals, and no torch before it is needed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fewstep as fs
from fewstep import data
from fewstep.base import progress
from fewstep.cli import main
from fewstep.cli.parse import one_line
from fewstep.run import places
from fewstep.training import loop
from tests.support.toys import TINY


@pytest.fixture
def run(tmp_path):
    assert main(["train", "toy", "--out", str(tmp_path / "run"), *TINY]) == 0
    return tmp_path / "run"


def message(capsys) -> str:
    """What the command wrote on stderr, without the progress: one line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewstep:")]
    assert len(lines) == 1
    return lines[0]


def size(file) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


MISTAKES = {  # the command, and words of its line
    "train digit": "unknown recipe 'digit': did you mean 'digits'?",
    "train": "name a recipe, for example 'fewstep train digits'",
    "plan nothere": "expected one of: auto, digits, digits-unet, digits-dit, digits-mixture,"
    " glyphs, hanzi, hanzi16, toy; `fewstep recipes` lists all",
    "sweep": "(small ones: auto, digits, digits-unet, digits-dit, digits-mixture, glyphs, hanzi,"
    " hanzi16, toy; `fewstep recipes` lists all)",
    "serve digits --port 99999": "--port = 99999: expected 0 to 65535, where 0 takes a free one",
    "train nowhere.at:all": "No module named 'nowhere'",
    "train toy --iteration 3": "did you mean --iterations?",
    "train toy --method.stage 3": "did you mean --method.stages?",
    "train toy --iterations many": "Error parsing --iterations: invalid literal for int()",
    "train toy --method.weight heavy": "Expected one of ('inverse_gap', 'edm')",
    "train toy --lr -1": "lr = -1.0: expected above 0",
    "train toy --method etc": "unknown method 'etc': did you mean 'ect'?",
    "train toy --network mlq": "unknown network 'mlq': did you mean 'mlp'?",
    "train toy --data ring": "unknown data set 'ring': did you mean 'ring8'?",
    "train toy --device tpu": "device 'tpu' is not here",
    "train toy --lr": "Missing value for argument '--lr'",
    "trian": "unknown verb 'trian': did you mean 'train'?",
    "sample nowhere": "no run folder nowhere",
    "eval nowhere": "no run folder nowhere",
    "inspect nowhere": "no run folder nowhere",
    "sample digits --out x.gif": "a name that ends in .png, .npy, .safetensors",
    "sample digits --n 0": "--n 0: expected at least 1",
    "sample digits --label 10": "label 10: expected one of 0..9",
    "sample digits --sampler heun --steps 4": "steps = 4",
    "eval digits --steps one": "--steps one: expected numbers",
    "eval digits --split train": "invalid choice 'train'",
    "sample digits --steps few": "expected INT, got 'few'",
    "train toy --later-sigmas 100": "below t_max",
    "train toy --out=": "--out = '': expected a folder",
    "sample digits --ema fast": "no weights 'fast'",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_takes_one_line_and_exit_code_2(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 2
    assert MISTAKES[command] in message(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_run_folder_is_a_storage_error(tmp_path, capsys):
    for verb in ("sample", "eval", "inspect"):
        assert main([verb, str(tmp_path)]) == 4
        assert "holds no checkpoint" in message(capsys)


def test_nan_in_the_data_stops_before_anything_is_written(tmp_path, capsys, monkeypatch):
    x0 = torch.zeros(100, 2)
    x0[42, 0] = float("nan")
    part = data.Arrays(x0)
    monkeypatch.setitem(data.DATASETS, "ring8", lambda: data.Dataset("ring8", part, part, part))
    assert main(["train", "toy", "--out", str(tmp_path / "run"), *TINY]) == 2
    assert "the first is sample 42" in message(capsys)
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_exits_3_and_keeps_what_it_had(tmp_path, capsys, monkeypatch):
    whole = loop.train_step

    def breaks_at_4(stage, state, batch):
        factor = float("inf") if state.step == 4 else 1
        return whole(stage, state, batch._replace(x0=batch.x0 * factor))

    monkeypatch.setattr(loop, "train_step", breaks_at_4)
    assert main(["train", "toy", "--out", str(tmp_path / "run"), *TINY]) == 3
    assert "step 4: the loss of 16 of 16 rows is not finite" in message(capsys)
    assert fs.load(tmp_path / "run").step == 4


def test_damage_exits_4(run, capsys):
    for folder in (run / "checkpoints").iterdir():
        (folder / "state.json").unlink()
    assert main(["train", "toy", "--out", str(run), "--resume"]) == 4
    assert "no valid checkpoint" in message(capsys)
    assert main(["sample", str(run)]) == 4


@pytest.mark.pictures
def test_a_run_folder_holds_what_it_should(run, capsys):
    assert json.loads((run / "run.json").read_text())["recipe"] == "toy"
    assert [
        json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-4", "step-6"]
    assert size(run / "samples" / "step-6.png")[0] > 600
    assert main(["train", "toy", "--out", str(run), *TINY]) == 2
    assert "already holds a run" in message(capsys)


def test_resume_needs_no_repeated_options_and_refuses_other_ones(run, capsys):
    before = (run / "run.json").read_text()
    assert main(["train", "toy", "--out", str(run), "--resume"]) == 0
    assert (run / "run.json").read_text() == before
    capsys.readouterr()
    for other in (
        ["--iterations", "9"],
        ["--method.stages", "2"],
        ["--network.width", "32"],
        ["--method", "diffusion"],
    ):
        assert main(["train", "toy", "--out", str(run), "--resume", *other]) == 2
        refusal = message(capsys)
        assert "was started with" in refusal
        assert other[0].strip("-") in refusal
    assert main(["train", "digits", "--out", str(run), "--resume"]) == 2
    assert "holds a run of recipe 'toy'" in message(capsys)
    assert main(["train", "toy", "--out", str(run), "--resume", "--picture-every", "4"]) == 0


def test_a_lost_or_broken_run_json_is_read_from_the_checkpoint(run, capsys):
    content = json.loads((run / "run.json").read_text())
    for damage in ("", "[1]", "{}", None):
        (run / "run.json").unlink()
        if damage is not None:
            (run / "run.json").write_text(damage)
        assert main(["train", "toy", "--out", str(run), "--resume"]) == 0
        assert json.loads((run / "run.json").read_text()) == content


def test_resume_finds_the_default_folder_with_its_own_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toy", "--seed", "5", *TINY]) == 0
    assert main(["train", "toy", "--seed", "5", "--resume"]) == 0
    assert main(["train", "toy", "--seed", "5", "--resume", "--network.width", "8"]) == 2
    assert "network.width = 8" in message(capsys)


def test_an_own_recipe_trains_resumes_and_its_mistakes_are_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "outside_recipes.py").write_text(
        "from tests.support.toys import tiny_run as mine\n"
        "def number(): return 3\n"
        "def breaks(): raise KeyError('boom')\n"
    )
    assert main(["train", "outside_recipes:mine", "--device", "cpu"]) == 0
    assert main(["train", "outside_recipes:mine", "--device", "cpu", "--resume"]) == 0
    assert (tmp_path / "runs" / "outside_recipes.mine-ect-0" / "run.json").exists()
    capsys.readouterr()
    for name, words in (
        ("number", "returned int"),
        ("breaks", "KeyError: 'boom'"),
        ("none", "no attribute 'none'"),
    ):
        assert main(["train", f"outside_recipes:{name}"]) == 2
        assert words in message(capsys)


def test_resume_where_nothing_is_starts_and_says_so(tmp_path, caplog):
    assert main(["train", "toy", "--out", str(tmp_path / "new"), "--resume", *TINY]) == 0
    assert "starting from step 0" in caplog.text


def test_without_out_the_folder_is_named_after_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toy", "--method", "diffusion", "--seed", "4", *TINY]) == 0
    assert (tmp_path / "runs" / "toy-diffusion-4" / "run.json").exists()


@pytest.mark.parametrize("suffix", [".png", ".npy", ".safetensors"])
def test_samples_are_written_in_each_format(run, tmp_path, suffix, capsys):
    file = tmp_path / "deep" / f"x{suffix}"
    words = ["--n", "7", "--seed", "3", "--steps", "2", "--out", str(file)]
    assert main(["sample", str(run), *words]) == 0
    samples = fs.load(run, device="cpu").sample(7, seed=3, steps=2)
    if suffix == ".npy":
        assert torch.equal(torch.from_numpy(np.load(file)), samples)
    elif suffix == ".safetensors":
        assert torch.equal(load_file(file)["samples"], samples)
    else:
        assert size(file)[0] > 600


def test_reports_are_one_json_object(run, capsys):
    assert main(["inspect", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["step"], facts["recipe"], len(facts["fingerprint"])) == (6, "toy", 64)
    words = shlex.split("--n 4000 --steps 1 --metrics pixel_frechet --json")
    assert main(["eval", str(run), *words]) == 0
    report = json.loads(capsys.readouterr().out)
    for row in report["results"]:
        assert row.keys() >= {"metric", "steps", "value", "error", "floor", "protocol"}
    assert main(["recipes", "--json"]) == 0
    assert {"recipes", "methods", "networks"} <= json.loads(capsys.readouterr().out).keys()
    assert main(["eval", str(run), "--n", "400", "--metrics", "pixel_frechet"]) == 0
    assert "floor" in capsys.readouterr().out


def test_the_shipped_digits_sample_before_any_training(tmp_path, capsys):
    assert main(["sample", "digits", "--out", str(tmp_path / "x.npy"), "--n", "20"]) == 0
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (20, 1, 8, 8)
    assert np.abs(x).max() <= 1
    folder = places.find("digits").path
    assert (folder / "ema.safetensors").stat().st_size < 3_000_000


def test_help_does_not_import_torch():
    """Of all verbs, one after the other, in one process."""
    code = """
import contextlib, io, sys
from fewstep.cli import VERBS, main
for argv in ['--help'], ['--version'], *([verb, '--help'] for verb in VERBS):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            main(argv)
    except SystemExit as stop:
        assert not stop.code, argv
    assert 'torch' not in sys.modules, argv
    assert 'numpy' not in sys.modules, argv
    assert argv == ['--version'] or 'example' in said.getvalue(), argv
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_process_ends_with_the_exit_code():
    process = subprocess.run([sys.executable, "-m", "fewstep", "trian"], stderr=subprocess.PIPE)
    assert process.returncode == 2
    assert process.stderr.startswith(b"fewstep: unknown verb 'trian'")


def test_the_package_imports_no_torch_and_samples_no_compiler():
    code = """
import sys, fewstep
assert 'torch' not in sys.modules
fewstep.load('digits').sample(50)
assert 'torch' in sys.modules
assert 'torch._dynamo' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_face_shows_its_names_and_no_others():
    names = ["__version__", *(name for name in dir(fs) if name[0] != "_")]
    assert sorted(names) == sorted(dir(fs))
    assert not {"Any", "import_module", "annotations"} & set(dir(fs))
    for name in fs.__all__:
        assert getattr(fs, name) is not None


def test_quiet_prints_nothing(run, tmp_path, capsys):
    capsys.readouterr()
    assert main(["train", "toy", "--out", str(tmp_path / "other"), *TINY, "--quiet"]) == 0
    assert main(["sample", str(run), "--out", str(tmp_path / "x.npy"), "--quiet"]) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "")


@pytest.mark.parametrize(
    ("command", "unit"),
    [
        ("verify --target tests.support.own_parts:Small --json", "checks/s"),
        ("doctor exact:ring8", "measures/s"),
        ("scan pictures", "pictures/s"),
    ],
)
def test_quiet_hides_how_far_it_is(command, unit, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        picture = Image.new("L", (4, 4), 12 * number)
        picture.save(tmp_path / "pictures" / f"{number}.png")
    assert main(command.split()) == 0
    output = capsys.readouterr()
    assert unit in output.err
    assert main([*command.split(), "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert len(quiet.out.splitlines()) == len(output.out.splitlines()) > 0


def test_quiet_scores_have_no_notes(run, capsys):
    words = ["eval", str(run), "--n", "40", "--steps", "1", "--metrics", "pixel_frechet"]
    assert main(words) == 0
    whole = capsys.readouterr().out.splitlines()
    assert main([*words, "--quiet"]) == 0
    quiet = capsys.readouterr().out.splitlines()
    assert quiet[:2] == whole[:2]
    assert len(quiet) == 3 < len(whole)


FRAMES = {
    "boxes": "╭─ Value error ──╮\n│ {} │\n│ ────── │\n│ For full helptext, see p │",
    "dashes": "Value error\n-----\n {}\n -----\n For full helptext",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_complaints_lose_their_frame_whatever_the_terminal_writes(frame):
    line = one_line(frame.format("Error parsing Train: ema = 1.0: expected less than 1"), "train")
    assert line == "ema = 1.0: expected less than 1: see 'fewstep train --help'"


def test_a_base_has_its_options_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(
        "--method gc --method.base tcm --method.base.base.c 0.03 --method.base.rho 0.5"
    )
    assert main(["train", "toy", *words, *TINY, "--out", "run"]) == 0
    options = json.loads((tmp_path / "run" / "run.json").read_text())["method_options"]
    base = options["base"]
    assert (base["method"], base["base"]["c"], base["rho"]) == ("tcm", 0.03, 0.5)
    again = ["train", "toy", "--method", "gc", *TINY, "--out", "run", "--resume"]
    assert main(again) == 0
    assert main([*again, "--method.base.rho", "0.25"]) == 2
