"""The verbs of pipelines, typed: what they write, and mistakes in one line."""

from __future__ import annotations

import json
from contextlib import suppress
from shutil import copytree

import pytest
from PIL import Image

from fewstep.cli import main
from fewstep.pipelines.task import read_task

SHORT = ["--iterations", "2", "--batch", "2", "--rank", "2", "--teacher-steps", "2", "--size", "16"]
SHORT += ["--weights", "fp32", "--precision", "fp32", "--device", "cpu", "--method.n", "4"]


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    copytree(tiny("sd"), folder / "my-sd")
    (folder / "prompts.txt").write_text("a cat\nthe sea\na tree\n")
    return folder


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def distill(*words):
    return main(["distill", "my-sd", "--prompts", "prompts.txt", *words])


def test_the_commands_of_the_readme_write_a_lora_and_a_picture(place, capsys):
    """With --guidance 7, in the convention where 0 is none; w = 8 is the same."""
    assert distill("--guidance", "7", "--out", "runs/sd", *SHORT) == 0
    out, said = capsys.readouterr()
    assert "next: fewstep sample runs/sd --prompt 'a cat'" in out
    assert "eps-prediction on the discrete process" in said
    assert (place / "runs/sd/pipeline/pytorch_lora_weights.safetensors").exists()
    task = read_task("runs/sd")
    assert (task.guidance, task.rank, task.folder) == (7.0, 2, str(place / "my-sd"))
    words = ["sample", "runs/sd", "--prompt", "a cat in the snow", "--out", "cat.png"]
    assert main([*words, "--device", "cpu"]) == 0
    assert size_of("cat.png") == (16, 16)
    assert main(["sample", "runs/sd", "--n", "2", "--seeds", "1,2", "--out", "grid.png"]) == 0
    assert size_of("grid.png") == (32, 32)
    assert main(["sample", "runs/sd", "--steps", "1", "--seeds", "3", "--out", "some"]) == 0
    entries = json.loads((place / "some/pictures.json").read_text())
    assert [(one["prompt"], one["seed"]) for one in entries] == [
        ("a cat", 3),
        ("the sea", 3),
        ("a tree", 3),
    ]
    assert size_of(place / "some" / entries[2]["file"]) == (16, 16)
    assert distill("--guidance", "7", "--out", "runs/sd", *SHORT) == 2
    assert "runs/sd already holds a run: continue it with --resume" in capsys.readouterr().err
    more = ["--resume", "--extend", "1"]
    assert distill("--guidance", "7", "--out", "runs/sd", *SHORT, *more) == 0
    assert "step 3" in capsys.readouterr().out
    assert distill("--w", "8", "--out", "runs/w", *SHORT) == 0
    assert read_task("runs/w") == task


def test_help_shows_the_options_and_recipes(capsys):
    for words, text in ((["distill"], "sdxl-direct-cm"), (["sample", "runs/sd"], "--prompt TEXT")):
        with suppress(SystemExit):
            assert main([*words, "--help"]) == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the pipeline's folder first"),
        (["nowhere"], "nowhere: no model_index.json there"),
        (["my-sd", "nothing"], "unknown recipe 'nothing'"),
        (["my-sd", "--rank", "2"], "prompts = None: expected either a file of prompts"),
        (["my-sd", "--prompts", "none.txt"], "none.txt"),
        (["my-sd", "--prompts", "prompts.txt", "--guidance", "2", "--w", "3"], "w = 3.0: expected"),
        (["my-sd", "--prompts", "prompts.txt", "--methd", "cd"], "--methd"),
        (["my-sd", "--prompts", "prompts.txt", "--method", "nothing"], "unknown method 'nothing'"),
    ],
)
def test_mistakes_are_one_line(capsys, words, message):
    code = main(["distill", *words])
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(said) == 1
    assert message in said[0]


def test_a_file_without_prompts_is_one_line(place, capsys):
    (place / "empty.txt").write_text("\n\n")
    assert main(["distill", "my-sd", "--prompts", "empty.txt", "--out", "runs/empty"]) == 2
    assert "empty.txt: the file holds none" in capsys.readouterr().err
    assert not (place / "runs/empty" / "run.json").exists()
