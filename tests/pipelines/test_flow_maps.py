"""Two-time students of pipelines: their embedding, runs, files, and stock code with these."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from shutil import copytree

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from fewstep.base.errors import StorageError, UserError
from fewstep.cli import main
from fewstep.core import abilities, sampling
from fewstep.pipelines import recipes
from fewstep.pipelines.distill import distill
from fewstep.pipelines.folder import open_folder
from fewstep.pipelines.out import END, call_options, times_of
from fewstep.pipelines.prompts import Prompts
from fewstep.pipelines.roles import roles_of
from fewstep.pipelines.sampling import SHIPPED, open_student
from fewstep.pipelines.scores import score
from fewstep.pipelines.task import Task
from fewstep.run.config import Run

PROMPTS = ("a cat", "the sea", "9")
SIZE = 16
CLASSES = ("sd", "sd-v", "sdxl", "sd3", "flux-dev")
TABLES = CLASSES[:3]
QUIET = {"device": "cpu", "progress": False}
# One of each class in every run of the tests, all of them in long ones.
QUICK = [("meanflow", "sd"), ("shortcut", "sdxl"), ("meanflow", "sd3"), ("ayf", "flux-dev")]
EACH = [(method, name) for method in ("meanflow", "ayf", "shortcut") for name in CLASSES]
MORE = [(method, "sd-v") for method in ("lsd", "psd", "lmd", "emd", "soflow")]
CASES = [
    *(pytest.param(*case) for case in QUICK),
    *(pytest.param(*case, marks=pytest.mark.long) for case in EACH + MORE if case not in QUICK),
]


def run_of(method, name, **fields):
    options = recipes.lora("discrete" if name in TABLES else "linear", method).run.method_options
    values = {"iterations": 2, "batch": 8, "block": 1, "lr": 1e-2, "ema": 0.5, "sigma_data": 1.0}
    values |= {"optimizer": "adamw", "picture_every": 0, "checkpoint_every": 1}
    return Run(recipe="lora", method=method, method_options=options, **values | fields)


@pytest.fixture(scope="module")
def task_of(tiny, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))

    def task(name, **fields):
        values = {"prompts": str(prompts), "rank": 3, "weights": "fp32", "size": SIZE}
        values |= {"teacher_steps": 3, "guidance": 0.0 if name == "flux-dev" else 1.5}
        return Task(folder=str(tiny(name)), **values | fields)

    return task


@pytest.fixture(scope="module")
def distilled(task_of, tmp_path_factory):
    """(method, class) -> the run folder of two updates, and its generator."""
    top, made = tmp_path_factory.mktemp("distilled"), {}

    def one(method, name):
        if (method, name) not in made:
            settings = {"out": top / f"{method}-{name}", "cache": top / f"cache-{name}"}
            generator = distill(run_of(method, name), task_of(name), **settings, **QUIET)
            made[method, name] = settings["out"], generator
        return made[method, name]

    return one


def cond_of(name, count, label=1):
    cond = {"label": torch.full((count,), label)}
    if name == "sdxl":
        cond["micro"] = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]]).expand(count, 6)
    return cond


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", CLASSES)
def test_a_student_begins_as_its_teacher_whatever_its_end(task_of, opened, name, rank):
    """To the bit; then its embedding moves what it gives, and not what the teacher gives."""
    task, folder = task_of(name, rank=rank), open_folder(task_of(name).folder)
    rows = opened(name)[1].network.rows
    prompts = Prompts(
        {key: row[:2] for key, row in rows.items() if key != "guidance"},
        {key: row[-1] for key, row in rows.items() if key != "guidance"},
        PROMPTS[:2],
    )
    roles = roles_of(folder, task, prompts, 0, ends=1)
    assert (abilities.ends(roles.student), abilities.ends(roles.teacher)) == (1, 0)
    x = torch.randn(2, folder.channels, 4, 4, generator=torch.Generator().manual_seed(0))
    time, cond = torch.tensor([900.0, 10.0]), cond_of(name, 2)
    end = torch.tensor([[0.3], [1.5]])
    with torch.no_grad():
        plain = roles.teacher(x, time, cond)
        if rank == 0:  # has its own weights, elsewhere in memory
            torch.testing.assert_close(roles.student(x, time, cond), plain)
            plain = roles.student(x, time, cond)
        assert torch.equal(roles.student(x, time, cond, end=end), plain)
        average = copy.deepcopy(roles.student)
        own = roles.student.own["end"] if rank else roles.student.end
        own.body[2].bias += 0.1
        own.body[2].weight += 0.1
        moved = roles.student(x, time, cond, end=end)
        assert not torch.equal(moved, plain)
        assert not torch.equal(roles.student(x, time, cond, end=end + 0.1), moved)
        if rank:
            assert torch.equal(roles.teacher(x, time, cond), plain)
        assert torch.equal(average(x, time, cond, end=end), plain)
    again = roles_of(folder, task, prompts, 0, ends=1)
    pairs = zip(again.student.parameters(), average.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(("method", "name"), CASES)
def test_two_updates_move_changes_and_embedding(distilled, method, name):
    out, generator = distilled(method, name)
    role = generator.denoiser.network
    assert all(torch.isfinite(p).all() for p in role.parameters())
    outer = [p.detach() for key, p in role.named_parameters() if key.endswith(".b")]
    assert sum(bool(p.any()) for p in outer) > 0.9 * len(outer)
    assert bool(role.own["end"].body[2].weight.any())
    shipped = load_file(out / SHIPPED / END)
    assert torch.equal(shipped["outer.weight"], role.own["end"].body[2].weight)
    options = generator.run.method_options
    assert options.get("derivative") != "auto"  # the trial has chosen


def ours(generator, folder, name, steps):
    """Our sampler's latents from the noise of seed 7, at the times of the stock pipeline."""
    own, process = generator.method, folder.convention.process
    times = torch.tensor(times_of(folder, own, steps), dtype=torch.float64)
    grid = [*own.process.time_at(process.level(times)).tolist(), 0.0]
    z = torch.randn(1, folder.channels, 8, 8, generator=torch.Generator().manual_seed(7))
    step = sampling.sampler(own.sampler).step
    with torch.no_grad():
        start = own.process.prior(z, grid[0])
        return sampling.sample(own.process, generator.denoiser, start, grid, step, cond_of(name, 1))


def unpack(latents):
    """FLUX's packed latents as `[B, C, h, w]`."""
    if latents.ndim == 4:
        return latents
    side = round(latents.shape[1] ** 0.5)
    x = latents.transpose(1, 2).unflatten(2, (side, side))
    return torch.nn.functional.pixel_shuffle(x, 2)


def theirs(pipeline, folder, method, steps, **more):
    options = {**call_options(folder, method, steps), "height": SIZE, "width": SIZE, **more}
    start = torch.Generator().manual_seed(7)
    return unpack(pipeline(PROMPTS[1], generator=start, output_type="latent", **options).images)


@pytest.mark.parametrize(("method", "name"), CASES)
def test_stock_diffusers_samples_as_ours_do(distilled, method, name):
    """By its pipeline and scheduler, with our LoRA and the file that tells where a step leads."""
    out, generator = distilled(method, name)
    student = open_student(out, device="cpu")
    folder = student.folder
    for steps in (1, 2, 4):
        x = ours(generator, folder, name, steps)
        y = theirs(student.pipeline, folder, generator.method, steps)
        torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-5 * float(x.abs().max()))
    network = getattr(student.pipeline, folder.family.network)
    network.end_embedding.active = False
    assert not torch.allclose(theirs(student.pipeline, folder, generator.method, 4), y, atol=1e-4)


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_the_lines_of_the_readme_load_it_without_fewstep(distilled, task_of, name, monkeypatch):
    """As they stand there, from the run's folder; the shipped module imports nothing of ours."""
    out, generator = distilled("meanflow", name)
    folder = open_folder(task_of(name).folder)
    text = (out / SHIPPED / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    source = (out / SHIPPED / "end_embedding.py").read_text()
    assert "fewstep" not in source
    here = f'Pipeline.from_pretrained("{folder.path.name}")'
    assert here in code
    lines = code.replace(here, f"Pipeline.from_pretrained({str(folder.path)!r})").splitlines()
    call = next(line for line in lines if line.startswith("picture"))
    assert str(call_options(folder, generator.method, 4)[call.partition("=[")[0].split()[-1]])
    monkeypatch.chdir(out)
    monkeypatch.setattr(sys, "path", [*sys.path])
    there = {}
    exec("\n".join(line for line in lines if line is not call), there)
    pipe = there["pipe"]
    pipe.set_progress_bar_config(disable=True)
    assert there["end_embedding"].__file__.startswith(str(out)) or name != "sd"
    x = ours(generator, folder, name, 4)
    y = theirs(pipe, folder, generator.method, 4)
    torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-5 * float(x.abs().max()))
    if name == "sd3":  # diffusers' own scheduler of flow maps makes the same steps
        pipe.scheduler = diffusers.FlowMapEulerDiscreteScheduler()
        torch.testing.assert_close(theirs(pipe, folder, generator.method, 4), y)


class Killed(Exception):
    pass


def test_a_run_that_is_killed_goes_on_to_the_same_bits(task_of, tmp_path):
    run, task = run_of("meanflow", "sd", iterations=4), task_of("sd")
    whole = distill(run, task, out=tmp_path / "whole", **QUIET)
    out = tmp_path / "run"

    def kill(state):
        if state.step == 3:  # the newest checkpoint is of step 2
            raise Killed

    with pytest.raises(Killed):
        distill(run, task, out=out, watch=kill, **QUIET)
    again = distill(run, task, out=out, resume=True, **QUIET)
    assert again.fingerprint == whole.fingerprint
    names = [path.relative_to(out) for path in (out / SHIPPED).rglob("*") if path.is_file()]
    assert any(str(name).endswith(END) for name in names)
    assert all((out / x).read_bytes() == (tmp_path / "whole" / x).read_bytes() for x in names)


def test_all_weights_and_the_embedding_are_trained_by_the_same_path(task_of, tmp_path):
    generator = distill(
        run_of("meanflow", "sd"), task_of("sd", rank=0), out=tmp_path / "run", **QUIET
    )
    student = open_student(tmp_path / "run", device="cpu")
    x = ours(generator, student.folder, "sd", 2)
    y = theirs(student.pipeline, student.folder, generator.method, 2)
    torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-5 * float(x.abs().max()))


def test_the_verbs_take_such_runs_with_any_steps(distilled, tmp_path, capsys):
    """And the teacher beside it is not told where it leads."""
    out, _ = distilled("meanflow", "sd")
    picture = tmp_path / "cat.png"
    for steps in ("3", "16"):
        words = ["sample", str(out), "--prompt", "a cat", "--steps", steps, "--out", str(picture)]
        assert main([*words, "--device", "cpu"]) == 0
    assert "16 steps, of 1 prompts" in capsys.readouterr().out
    student = open_student(out, device="cpu")
    scores = score(student, PROMPTS[:1], steps=(1, 3), teacher_steps=3)
    assert {one.steps for one in scores.scores if one.model == "student"} == {1, 3}
    with pytest.raises(UserError, match="steps = 500: expected fewer, so that each is one of"):
        student.steps(500)


@pytest.mark.parametrize(
    ("method", "options", "fields", "message"),
    [
        (
            "shortcut",
            {},
            {"prompts": None, "images": "nowhere"},
            "guidance = 1.5: expected 0 with --images, since this method learns from them",
        ),
        (
            "imf",
            {"most": 8.0},
            {},
            "with guidance that its student is told.*guidance is the teacher's, --guidance",
        ),
        ("meanflow", {"omega": 2.0}, {}, "omega, kappa = .*a teacher is given under guidance"),
    ],
)
def test_what_does_not_fit_is_one_line(task_of, tmp_path, method, options, fields, message):
    run = run_of(method, "sd")
    run = replace(run, method_options={**run.method_options, **options})
    with pytest.raises(UserError, match=message):
        distill(run, task_of("sd", **fields), out=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_the_file_of_the_embedding_is_named_where_it_is_damaged(distilled, tmp_path):
    out = copytree(distilled("meanflow", "sd")[0], tmp_path / "run")
    (out / SHIPPED / END).write_bytes(b"nothing")
    with pytest.raises(StorageError, match=r"end_embedding.safetensors cannot be read"):
        open_student(out, device="cpu")
