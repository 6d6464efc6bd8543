"""`fewstep import`: checkpoints of others become generators that every verb takes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import fewstep as fs
from fewstep.cli import main
from fewstep.networks.openai_weights import adm_options
from fewstep.run.build import MOST_TOP
from tests.foreign.test_diffusers_folder import DDPM, save
from tests.support.agree_unets import labels_of
from tests.support.cases import Case
from tests.support.persistence import dump, module

CASES = Path(__file__).parents[1] / "conformance"
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
BUFFERS = ("resample_filter", "freqs", "phases", "u")
NAMES = ("edm_songunet_ddpmpp", "edm_dhariwal_cond", "edm2_unet_cond")


def case_of(name: str) -> Case:
    return Case.read(CASES / f"{name}.json")


def pickle_of(case: Case, path: Path, wrapper: str) -> Path:
    """The case's network as NVIDIA pickles it."""
    value = module(wrapper, case.weights, BUFFERS, **case.about["config"])
    path.write_bytes(dump({"ema": value}, "pickle"))
    return path


def denoise(generator: fs.Generator, case: Case) -> Tensor:
    with torch.no_grad():
        x0_hat: Tensor = generator.denoiser(case["x"], case["sigma"].double(), labels_of(case))
    return x0_hat


@pytest.mark.parametrize("out", ["teacher.safetensors", "teacher"])
@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_becomes_a_teacher(name, out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    case = case_of(name)
    path = pickle_of(case, Path("net.pkl"), "Precond" if "edm2" in name else "EDMPrecond")
    assert main(["import", str(path), out, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["predicts"].startswith("edm-prediction with sigma_data 0.5")
    generator = fs.load(out, device="cpu")
    assert generator.fingerprint == report["fingerprint"]
    torch.testing.assert_close(denoise(generator, case), case["D"], rtol=2e-5, atol=1e-5)
    assert generator.facts.units.clip
    assert main(["inspect", out, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["source"]["sha256"] == report["sha256"]
    assert main(["sample", out, "--n", "2", "--steps", "3", "--out", "x.png", "--quiet"]) == 0


def test_the_header_of_one_file_holds_its_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle_of(case_of(NAMES[0]), Path("net.pkl"), "EDMPrecond")
    assert main(["import", "net.pkl", "net.safetensors", "--quiet"]) == 0
    with safe_open("net.safetensors", "pt") as file:
        state = json.loads(file.metadata()["fewstep"])["state"]
        names = set(file.keys())
    assert state["run"]["convention"]["prediction"] == "edm"
    assert "enc.16x16_conv.weight" in names
    # A byte of its weights, changed.
    content = bytearray(Path("net.safetensors").read_bytes())
    content[-1] ^= 1
    Path("net.safetensors").write_bytes(content)
    assert main(["sample", "net.safetensors"]) == 4


def test_openais_state_dict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    case = case_of("cm_unet")
    torch.save(dict(case.weights), "cd.pt")
    words = ["--shape", "3,16,16", "--is-student", "true", "--network-options"]
    options = adm_options(case.about["config"])[2]
    text = json.dumps({name: options[name] for name in ("attention", "head_channels")})
    assert main(["import", "cd.pt", "cd.safetensors", *words, text]) == 0
    generator = fs.load("cd.safetensors", device="cpu")
    with torch.no_grad():
        raw = generator.denoiser.network(case["x"], case["timesteps"])
    torch.testing.assert_close(raw, case["out"], rtol=1e-5, atol=1e-5)
    assert generator.sample(1).shape == (1, 3, 16, 16)  # in one step
    assert not generator.method.denoises


def short(name: str, *more: str) -> list[str]:
    options = ["--iterations", "2", "--batch", "8", "--block", "8", "--picture-every", "0"]
    return ["train", "toy", "--data", "x.npy", "--device", "cpu", *options, "--out", name, *more]


def test_an_import_is_scored_on_bytes_and_not_on_other_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pickle_of(case_of(NAMES[0]), Path("net.pkl"), "EDMPrecond")
    assert main(["import", "net.pkl", "t.safetensors", "--quiet"]) == 0
    words = ["--steps", "1", "--n", "8", "--draw", "4", "--metrics", "energy", "--quiet"]
    np.save("x.npy", PIXELS)
    assert main(["eval", "t.safetensors", "--data", "x.npy", *words]) == 0
    np.save("y.npy", PIXELS.astype(np.float32) / 127.5 - 1)
    assert main(["eval", "t.safetensors", "--data", "y.npy", *words]) == 2
    assert "pictures are bytes" in capsys.readouterr().err
    # The doctor examines it as a run; a file of weights alone is a teacher's.
    assert main(["doctor", "t.safetensors", "--data", "x.npy", "--prediction", "eps"]) == 2
    assert "is a run" in capsys.readouterr().err


def test_a_papers_recipe_takes_an_import_with_no_further_word(tmp_path, monkeypatch):
    """Its own dropout, the file's network; the augmentation's labels stay behind."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", PIXELS)
    pickle_of(case_of(NAMES[0]), Path("net.pkl"), "EDMPrecond")
    assert main(["import", "net.pkl", "teacher.safetensors", "--quiet"]) == 0
    line = "train cifar10-ect --data x.npy --init teacher.safetensors --out ect --iterations 1"
    words = "--batch 8 --block 8 --accumulate 1 --picture-every 0 --device cpu --quiet"
    assert main([*line.split(), *words.split()]) == 0
    run = fs.load("ect", device="cpu").run
    options = {name: run.network_options[name] for name in ("width", "augment", "dropout")}
    assert options == {"width": 16, "augment": 0, "dropout": 0.2}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.long
def test_students_start_from_an_import_and_learn_from_it(tmp_path, monkeypatch, capsys):
    """With no further word: the network, what it predicts and the units come with the file."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", PIXELS)
    pickle_of(case_of(NAMES[0]), Path("net.pkl"), "EDMPrecond")
    assert main(["import", "net.pkl", "t.safetensors", "--quiet"]) == 0
    words = ["--method", "cd", "--init", "t.safetensors", "--teacher", "t.safetensors"]
    assert main(short("student", *words)) == 0
    assert "network: song_unet, of init: edm-prediction" in capsys.readouterr().err
    student = fs.load("student", device="cpu")
    assert (student.run.network, student.run.sigma_data) == ("song_unet", 0.5)
    assert main(short("student", *words, "--resume")) == 0


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_students_of_a_diffusers_folder_begin_where_noise_can_be_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", PIXELS)
    save(Path("pipeline"), "diffusers_unet2d_default", DDPM)
    words = ["--method", "cd", "--init", "pipeline", "--teacher", "pipeline"]
    assert main(short("other", *words)) == 0
    other = fs.load("other", device="cpu")
    assert other.run.network == "diffusers"
    # Where students in noise of so many numbers begin, at a step of the table.
    top = MOST_TOP * other.facts.sigma_data
    assert other.method.process.t_max == pytest.approx(top, rel=0.02)


@pytest.mark.parametrize(
    ("make", "argv", "message"),
    [
        (None, ["nothing.pkl", "out"], "nothing.pkl is not there"),
        (b"\x80\x04N.", ["x.pkl", "out"], "holds no network"),
        (b"junk", ["x.pkl", "out"], "x.pkl"),
        (b"junk", ["x.pkl", "x.pkl"], "there already"),
        (b"junk", ["x.pkl", "out", "--network-options", "["], "expected JSON"),
        ("folder", ["x.pkl", "out"], "expected a folder that diffusers saved"),
    ],
)
def test_a_mistake_is_one_line(make: Any, argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if make == "folder":
        Path("x.pkl").mkdir()
    elif make is not None:
        Path("x.pkl").write_bytes(make)
    assert main(["import", *argv]) in (2, 4)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_weights_of_an_unknown_network_are_for_init(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"model.body.weight": torch.ones(2, 2)}}, "mine.ckpt")
    assert main(["import", "mine.ckpt", "out"]) == 2
    assert "--network NAME" in capsys.readouterr().err
    assert main(["import", "mine.ckpt", "w.safetensors"]) == 0
    with safe_open("w.safetensors", "pt") as file:
        assert json.loads(file.metadata()["source"])["file"] == "mine.ckpt"


OWN = """
import torch


class Noise(torch.nn.Linear):
    def forward(self, x, t):
        return super().forward(x)


def network():
    torch.manual_seed(0)
    return Noise(2, 2)
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_of_a_network_of_ones_own_goes_on(tmp_path, monkeypatch, capsys):
    """By the same command and --resume; in Python by the same arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_noise.py").write_text(OWN)
    np.save("x.npy", np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))
    parts = ["--init", "own_noise:network", "--teacher", "own_noise:network"]
    words = ["--method", "cd", *parts, "--prediction", "eps", "--process", "ddpm"]
    assert main(short("whole", *words)) == 0
    assert main(short("whole", *words, "--resume")) == 0
    assert "unknown network" not in capsys.readouterr().err

    def stop(state):
        if state.step == 1:
            signal.raise_signal(signal.SIGINT)

    import own_noise

    own = fs.adapt(own_noise.network(), "eps", "ddpm")
    run = fs.recipes.toy(
        method="cd", teacher=None, iterations=2, batch=8, block=8, checkpoint_every=1
    )
    options: dict[str, Any] = {"init": own, "teacher": own, "progress": False, "device": "cpu"}
    x0 = torch.from_numpy(np.load("x.npy"))
    whole = fs.train(run, x0, **options)
    with pytest.raises(fs.errors.Stopped):
        fs.train(run, x0, out="run", watch=stop, **options)
    rest = fs.train(run, x0, out="run", resume=True, **options)
    assert rest.fingerprint == whole.fingerprint
    assert fs.train(run, x0, out="run", resume=True, **options).step == 2  # own is as it was
