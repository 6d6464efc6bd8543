"""Several processes sample and score as one, and Slurm's script starts them as torchrun does."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

import fewstep as fs
from fewstep.base.memory import Room
from fewstep.base.surroundings import threads
from fewstep.cli import main
from fewstep.run import generator
from fewstep.training.ranks import connect
from tests.support import ranks
from tests.support.toys import TINY

SAMPLE = ["sample", "digits", "--n", "100", "--batch", "16", "--steps", "2", "--device", "cpu"]
SCORES = ["eval", "digits", "--n", "300", "--batch", "64", "--steps", "1", "--json"]
SCORES += ["--metrics", "feature_frechet,pixel_frechet", "--denoised", "0.5"]
SCORES += ["--device", "cpu"]


def output(argv: list[str], file: Path) -> int:
    """Runs a verb, what it prints in a file; its exit code."""
    with file.open("w") as text, redirect_stdout(text):
        return main(argv)


def test_two_processes_sample_and_score_as_one(tmp_path, monkeypatch):
    """To the bit, one after the other in the same processes; only the first writes and prints."""
    whole = generator.make
    calls: list[int] = []
    monkeypatch.setattr(generator, "make", lambda *parts: calls.append(1) or whole(*parts))

    def make_in(folder: Path) -> None:
        folder.mkdir()
        assert output([*SAMPLE, "--out", str(folder / "x.npy")], folder / "sample.txt") == 0
        assert len(calls) == {"0": 4, "1": 3}.get(os.environ.get("RANK", ""), 7)  # of 7 parts
        assert output(SCORES, folder / "eval.json") == 0

    outcomes = ranks.run(2, lambda: make_in(tmp_path / os.environ["RANK"]), tmp_path / "texts")
    assert [rank.code for rank in outcomes] == [0, 0], [rank.text for rank in outcomes]
    with threads(1):
        make_in(tmp_path / "one")
    one, first, second = (tmp_path / name for name in ("one", "0", "1"))
    assert (first / "x.npy").read_bytes() == (one / "x.npy").read_bytes()
    scores, truth = (json.loads((f / "eval.json").read_text()) for f in (first, one))
    assert scores.pop("speed")
    assert truth.pop("speed")
    assert scores == truth
    assert not (second / "x.npy").exists()
    assert all(file.read_text() == "" for file in second.iterdir())


def test_a_process_that_dies_while_sampling_ends_the_others(tmp_path, monkeypatch):
    whole = generator.make
    calls: list[int] = []

    def make(*arguments):
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)

    monkeypatch.setattr(generator, "make", make)
    out = tmp_path / "x.npy"
    words = ["sample", "digits", "--n", "4000", "--batch", "16", "--out", str(out)]
    first, second = ranks.run(2, lambda: main([*words, "--device", "cpu"]), tmp_path / "texts")
    assert (first.code, second.code) == (5, -signal.SIGKILL)
    assert "rank 1 is lost: process" in first.text
    assert first.text.endswith("killed, or out of memory; start again\n")
    assert not out.exists()


def test_where_memory_ends_on_one_of_them_all_take_less(tmp_path):
    def work() -> None:
        sizes: list[int] = []

        def few(rows: range) -> torch.Tensor:
            sizes.append(len(rows))
            if len(rows) > 5 and world.rank == 1:
                raise MemoryError
            return torch.arange(rows.start, rows.stop)

        with connect("cpu") as (world, _):
            parts = list(Room(world=world).parts(33, few, 12))
        assert torch.equal(torch.cat(parts), torch.arange(33))
        assert [len(part) for part in parts] == [3] * 11
        assert sizes == [[12, 6, *[3] * 6], [12, 6, *[3] * 5]][world.rank]

    outcomes = ranks.run(2, work, tmp_path)
    assert [rank.code for rank in outcomes] == [0, 0], [rank.text for rank in outcomes]


SCRIPT = Path(__file__).parents[2] / "examples" / "slurm.sh"
STAND_INS = {
    "scontrol": """
if sys.argv[1] == "show":
    print(f"127.0.0.1\\nof {sys.argv[3]}")
else:
    open("requeued", "a").write(f"{sys.argv[2]}\\n")
""",
    # Two tasks on one machine; it passes a signal on to them, and the highest exit code back.
    "srun": """
words = [word for word in sys.argv[1:] if not word.startswith("--cpus-per-task")]
own = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
common = {**os.environ, "SLURM_STEP_NUM_TASKS": "2", "OMP_NUM_THREADS": "1"}
tasks = [subprocess.Popen(words, env={**common, **one}) for one in own]
while os.environ.get("STOP_AT") and not os.path.exists(os.environ["STOP_AT"]):
    time.sleep(0.05)
for task in tasks if os.environ.get("STOP_AT") else []:
    task.send_signal(signal.SIGUSR1)
sys.exit(max(task.wait() for task in tasks))
""",
    "fewstep": "os.execv(sys.executable, [sys.executable, '-m', 'fewstep', *sys.argv[1:]])",
}
RUN = ["toy", *TINY, "--network.dropout", "0.1"]


def sbatch(folder: Path, words: list[str], **environment: str) -> int:
    """Runs the script as Slurm would, in a folder whose `bin` holds the stand-ins."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in STAND_INS.items():
        file = folder / "bin" / name
        start = f"#!{sys.executable}\nimport os, signal, subprocess, sys, time\n"
        file.write_text(start + text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    # 20000 + the job's number is the port.
    job = {"SLURM_JOB_ID": str(ranks.free_port() - 20000), "SLURM_JOB_NODELIST": "here"}
    job |= {"PATH": path, "PYTHONPATH": str(Path(fs.__file__).parents[1]), **environment}
    return subprocess.run(
        ["bash", str(SCRIPT), *words], cwd=folder, env={**os.environ, **job}, timeout=300
    ).returncode


@pytest.mark.long
def test_the_script_for_slurm_trains_what_torchruns_processes_train(tmp_path):
    def work() -> None:
        assert main(["train", *RUN, "--out", str(tmp_path / "torchrun"), "--quiet"]) == 0

    assert sbatch(tmp_path, [*RUN, "--out", "slurm", "--quiet"]) == 0
    outcomes = ranks.run(2, work, tmp_path / "texts")
    assert [rank.code for rank in outcomes] == [0, 0], [rank.text for rank in outcomes]
    slurm, torchrun = (fs.load(tmp_path / name, device="cpu") for name in ("slurm", "torchrun"))
    assert slurm.fingerprint == torchrun.fingerprint
    assert not (tmp_path / "requeued").exists()


@pytest.mark.long
def test_a_job_that_is_stopped_is_saved_queued_again_and_goes_on(tmp_path):
    words = [*RUN, "--out", "run", "--quiet", "--iterations", "800", "--checkpoint-every", "100"]
    assert sbatch(tmp_path, words, STOP_AT="run/checkpoints/step-100") == 75
    assert len((tmp_path / "requeued").read_text().split()) == 1
    assert 100 <= fs.load(tmp_path / "run", device="cpu").step < 800
    assert sbatch(tmp_path, words) == 0
    assert fs.load(tmp_path / "run", device="cpu").step == 800
