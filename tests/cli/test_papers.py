"""The papers' recipes from a zip and a published checkpoint to a score, at reduced width.

What is typed stands in docs/reproduce.md; the files, of the forms of EDM's and EDM2's, are made.
"""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fewstep import networks
from fewstep.base.randomness import fork_rng
from fewstep.cli import main
from fewstep.cli.train_options import last_value
from fewstep.run.recipes import PAPERS
from tests.analysis.test_metrics_extractors import export
from tests.cli.test_reproduce import REPRODUCE, TRAININGS
from tests.data.test_stored import png, write_zip
from tests.run.test_recipes_papers import NARROW
from tests.support.persistence import dump, module

FEW = ["--iterations", "2", "--batch", "2", "--block", "1", "--picture-every", "0"]
CPU = ["--quiet", "--device", "cpu"]
ZIPS = {"cifar10": (32, 40), "imagenet": (64, 1000), "imagenet128": (128, 1000)}  # side, pictures
FOLDERS = ("imagenet/train", "img_align_celeba", "church_outdoor_train")
# NVIDIA's wrapper, and what the network inside is made with, in its words and in ours.
SONG = (
    *("EDMPrecond", "song_unet", (3, 32, 32), 0, {**NARROW["song_unet"], "augment": 9}),
    {"model_type": "SongUNet", "model_channels": 8, "num_blocks": 1, "augment_dim": 9}
    | {"channel_mult": [2, 2, 2]},
)
EDM2 = (
    *("Precond", "edm2_unet", (3, 64, 64), 1000, NARROW["edm2_unet"]),
    {"model_channels": 8, "channels_per_head": 8, "num_blocks": 1},
)
LATENTS = (4, 16, 16)  # EDM2's are 64 x 64
EDM2_LATENTS = (*EDM2[:2], LATENTS, *EDM2[3:])
BUFFERS = ("resample_filter", "freqs", "phases", "u")
# Runs of the page whose whole way is gone, the first by `make test`, and their steps.
PATHS = {"ect": "1,2", "ect-s": "1,2", "cd4": "4"}


def lines(verb: str) -> list[list[str]]:
    """The page's commands of a verb, as words."""
    return [
        shlex.split(line)[1:]
        for line in REPRODUCE.splitlines()
        if line.startswith(f"fewstep {verb} ")
    ]


def picture(draw: np.random.Generator, *sides: int) -> bytes:
    """Coarse noise, which is soon packed."""
    coarse = draw.integers(0, 256, (8, 8, 3), np.uint8)
    return png(np.resize(coarse.repeat(sides[0] // 8, 0).repeat(sides[1] // 8, 1), (*sides, 3)))


def write_zips(sets: list[str]) -> None:
    """Zips as EDM's dataset_tool.py writes them; ImageNet's have a picture of each class."""
    draw = np.random.default_rng(0)
    for name in sets:
        side, count = ZIPS[name]
        names = [f"00000/img{i:08d}.png" for i in range(count)]
        pictures = {one: picture(draw, side, side) for one in names}
        path = Path(f"{name.removesuffix('128')}-{side}x{side}.zip")
        write_zip(path, pictures, [[one, i] for i, one in enumerate(names)])


def write_latents(path: Path) -> None:
    """A zip as EDM2's dataset_tool.py encode writes it: means before deviations."""
    channels, *sides = LATENTS
    names = [f"00000/img-mean-std-{i:08d}.npy" for i in range(1000)]
    draw = np.random.default_rng(0)
    arrays = {}
    for name in names:
        file = io.BytesIO()
        np.save(file, draw.uniform(0, 2, (2 * channels, *sides)).astype(np.float32))
        arrays[name] = file.getvalue()
    write_zip(path, arrays, [[name, i] for i, name in enumerate(names)])


def write_pickle(path: str, wrapper, name, shape, classes, options, words) -> None:
    """A checkpoint as NVIDIA publishes it."""
    with fork_rng(0, path):
        network: nn.Module = getattr(networks, name)(shape, classes, **options)
    size = {"img_resolution": shape[1], "img_channels": shape[0], "label_dim": classes}
    value = module(wrapper, network.state_dict(), BUFFERS, **size, **words)
    Path(path).write_bytes(dump({"ema": value}))


def prepare(words: list[str]) -> None:
    """Makes the runs and imports that a command begins with, by the page's commands."""
    for option in ("--init", "--teacher"):
        name = last_value(words, option)
        if name is None or Path(name).exists():
            continue
        if name.endswith(".safetensors"):
            (command,) = (line for line in lines("import") if line[2] == name)
            kinds = {"512": EDM2_LATENTS, "edm2": EDM2, "": SONG}
            write_pickle(command[1], *next(kinds[key] for key in kinds if key in name))
            assert main([*command, "--quiet"]) == 0
        else:
            (command,) = (line for line in lines("train") if last_value(line, "--out") == name)
            train(command)


def train(words: list[str]) -> None:
    """Two steps of a command, with a narrow network where it does not come with an import."""
    prepare(words)
    run = PAPERS[words[1]](method=last_value(words, "--method") or PAPERS[words[1]]().method)
    more = []
    if not (last_value(words, "--init") or "").endswith(".safetensors"):
        sizes = {**NARROW[run.network]}
        if run.network == "uvit":
            sizes["blocks"] = ",".join("1" * len(run.network_options["mult"]))
        more = [f"--network.{key.replace('_', '-')}={value}" for key, value in sizes.items()]
    if run.method_options.get("distance") == "lpips":  # its weights are not here
        more += ["--method.distance", "l2"]
    few = [*FEW, "--precision", "fp32"]
    if run.method == "cmt":  # trajectories of two points, a step of each stage
        few += ["--method.n", "2", "--method.reuse", "2", "--block", "2", "--split", "0.5"]
    assert main([*words, *more, *few, *CPU, "--cache", "cache"]) == 0


def score(data: str, run: str, side: int, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """The Frechet distances of a run by its numbers of steps, by the page's commands."""
    (reference,), (evaluation,) = lines("reference"), lines("eval")
    with fork_rng(0, "extractor"):
        layer = nn.Linear(3 * side * side, 5).requires_grad_(False)
    export(layer, Path("tiny.onnx"), ("n", 3, side, side))
    names = {"cifar10-32x32.zip": data, "ect": run, "inception-2015-12-05.pt": "tiny.onnx"}
    commands = [[names.get(word, word) for word in line] for line in (reference, evaluation)]
    assert main([*commands[0], "--quiet"]) == 0
    few = ["--n", "32", "--steps", PATHS[run]]
    assert main([*commands[1], *few, "--json", "--device", "cpu"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert {one["protocol"]["n"] for one in results} == {32}
    return [one["value"] for one in results if one["metric"].endswith("frechet")]


@pytest.mark.parametrize(
    "name", ["ect", *(pytest.param(one, marks=pytest.mark.long) for one in ("ect-s", "cd4"))]
)
def test_a_recipe_goes_from_the_files_to_a_score(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (words,) = (line for line in lines("train") if last_value(line, "--out") == name)
    data = last_value(words, "--data")
    kind = data.partition("-")[0]
    write_zips([kind])
    train(words)
    assert json.loads(Path(name, "run.json").read_text())["iterations"] == 2
    distances = score(data, name, ZIPS[kind][0], capsys)
    assert len(distances) == len(PATHS[name].split(","))
    assert all(0 < value < float("inf") for value in distances)


@pytest.mark.long
def test_every_command_of_the_page_takes_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_zips(list(ZIPS))
    for name in ("imagenet-256-sd.zip", "imagenet-512-sd.zip"):
        write_latents(Path(name))
    draw = np.random.default_rng(0)
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True)
        for i in range(40):
            Path(folder, f"{i}.png").write_bytes(picture(draw, 150, 140))
    for words in lines("train"):
        if not Path(last_value(words, "--out")).exists():
            train(words)
    assert len(lines("train")) == len(TRAININGS)
