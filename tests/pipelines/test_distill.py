"""Distillation of the four classes by every method, resumed, shipped, and sampled by stock code."""

from __future__ import annotations

import json
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.base.errors import UserError
from fewstep.base.randomness import fork_rng
from fewstep.core import sampling
from fewstep.pipelines.distill import distill
from fewstep.pipelines.folder import open_folder
from fewstep.pipelines.out import call_options, levels_of
from fewstep.pipelines.sampling import LATER, SHIPPED, open_student
from fewstep.pipelines.task import FILE, Task, read_task
from fewstep.run.config import Run

PROMPTS = ("a cat", "the sea", "9")
SIZE = 16
CLASSES = ("sd", "sd-v", "sdxl", "sd3", "flux")
TABLES = ("sd", "sd-v", "sdxl")


def process_of(name):
    return "discrete" if name in TABLES else "linear"


def options_of(method, name):
    """Of two quick updates."""
    process = process_of(name)
    return {
        "direct_cm": {"n": 4, "process": process},
        "cd": {"n": 6, "solver": "ddim"},
        "mcm": {"K": 2, "pairs": "addim", "process": process, "steps": 20, "steps_end": 20},
        "tcm": {"base": {"method": "ect", "pairs": "ddim"}},
        "scd": {},
    }[method]


def run_of(method, name, **fields):
    values = {"iterations": 2, "batch": 2, "block": 1, "lr": 1e-2, "ema": 0.5}
    values |= {"optimizer": "adamw", "sigma_data": 1.0, "picture_every": 0, "checkpoint_every": 1}
    options = options_of(method, name)
    return Run(recipe="lora", method=method, method_options=options, **values | fields)


@pytest.fixture(scope="module")
def task_of(tiny, tmp_path_factory):
    """The task of a class, with three prompts."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))

    def task(name, **fields):
        values = {"prompts": str(prompts), "rank": 3, "weights": "fp32", "size": SIZE}
        values |= {"teacher_steps": 3, "guidance": 1.5}
        return Task(folder=str(tiny(name)), **values | fields)

    return task


@pytest.fixture(scope="module")
def distilled(task_of, tmp_path_factory):
    """(method, class) -> the run folder of two updates, and its generator."""
    top, made = tmp_path_factory.mktemp("distilled"), {}

    def one(method, name):
        if (method, name) not in made:
            out = top / f"{method}-{name}"
            settings = {"out": out, "cache": top / f"cache-{name}"}
            generator = distill(run_of(method, name), task_of(name), **settings, **QUIET)
            made[method, name] = out, generator
        return made[method, name]

    return one


QUIET = {"device": "cpu", "progress": False}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("method", ["direct_cm", "cd", "mcm", "tcm", "scd"])
def test_every_method_moves_the_changes_of_every_class(distilled, method, name):
    out, generator = distilled(method, name)
    role = generator.denoiser.network
    outer = [p.detach() for key, p in role.named_parameters() if key.endswith(".b")]
    assert all(torch.isfinite(p).all() for p in role.parameters())
    assert sum(bool(p.any()) for p in outer) > 0.9 * len(outer)
    assert {path.name for path in (out / SHIPPED).iterdir()} >= {"README.md", "scheduler"}


@pytest.mark.parametrize("name", CLASSES)
def test_stock_diffusers_loads_the_changes(distilled, name):
    """Its network with our LoRA gives what the student's does, and without what the teacher's."""
    out, generator = distilled("direct_cm", name)
    student = open_student(out, device="cpu")
    role = generator.denoiser.network
    part = student.folder.family.network
    theirs = getattr(student.pipeline, part)
    source = torch.Generator().manual_seed(0)
    x = torch.randn(2, student.folder.channels, 8, 8, generator=source)
    label = {"label": torch.tensor([0, 2])}
    if name == "sdxl":
        label["micro"] = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]]).expand(2, 6)
    time = torch.tensor([900.0, 10.0])

    def ask(network):
        rows = role.base.prompts.value.rows(label["label"])
        if student.folder.embedded_guidance is not None:
            rows["guidance"] = torch.full((2,), student.folder.embedded_guidance)
        with torch.no_grad():
            return student.folder.family.ask(network, x, time, rows, label.get("micro"))

    with torch.no_grad():
        ours = role(x, time, label)
    torch.testing.assert_close(ask(theirs), ours, rtol=1e-5, atol=1e-5)
    student.pipeline.unload_lora_weights()
    plain = ask(getattr(student.pipeline, part))
    torch.testing.assert_close(plain, role.base(x, time, label).detach(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, ours, atol=1e-4)


def noises(seed, shape, count, own):
    """What diffusers draws: the start, then for each later step, of flow from torch's generator."""
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(1, *shape, generator=source)
    with fork_rng(seed, LATER):
        return z, [torch.randn(1, *shape, generator=None if own else source) for _ in range(count)]


def unpack(latents, channels):
    """FLUX's packed latents as `[B, C, h, w]`."""
    if latents.ndim == 4:
        return latents
    side = round(latents.shape[1] ** 0.5)
    x = latents.transpose(1, 2).unflatten(2, (side, side))
    return torch.nn.functional.pixel_shuffle(x, 2)


CASES = [
    *(("direct_cm", name, steps) for name in CLASSES for steps in (1, 2, 4)),
    *(("mcm", name, 2) for name in CLASSES),
    *((method, name, 2) for method in ("cd", "tcm", "scd") for name in TABLES),
]


@pytest.mark.parametrize(("method", "name", "steps"), CASES)
def test_stock_diffusers_samples_as_ours_do(distilled, method, name, steps):
    """From the same noise by our sampler and denoiser, and by its pipeline and scheduler."""
    out, generator = distilled(method, name)
    student = open_student(out, device="cpu")
    folder, own = student.folder, generator.method
    by = sampling.sampler(own.sampler)
    is_flow = name not in TABLES
    z, later = noises(7, (folder.channels, 8, 8), steps, is_flow)
    if is_flow and folder.family.name == "flux":  # which draws packed latents
        later = [unpack(x.reshape(1, 16, 64), 16) for x in later]
    grid = by.times(own.process, steps, levels_of(folder, own, steps))
    cond = {"label": torch.tensor([1])}
    if name == "sdxl":
        cond["micro"] = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]])
    noise = (lambda i: later[i]) if by.noisy else None
    # What the network gets first is the noise itself, as diffusers has it.
    scale = generator.denoiser.scaling(own.process, torch.tensor([own.process.t_max])).in_
    with torch.no_grad():
        x = sampling.sample(
            own.process, generator.denoiser, (z / scale).float(), grid, by.step, cond, noise
        )
    options = {**call_options(folder, own, steps), "height": SIZE, "width": SIZE}
    start = torch.Generator().manual_seed(7)
    with fork_rng(7, LATER):
        theirs = student.pipeline(PROMPTS[1], generator=start, output_type="latent", **options)
    theirs = unpack(theirs.images, folder.channels)
    torch.testing.assert_close(theirs, x, rtol=1e-4, atol=1e-5 * float(x.abs().max()))


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["direct_cm", "tcm"])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(task_of, tmp_path, method):
    run, task = run_of(method, "sd", iterations=4), task_of("sd")
    whole = distill(run, task, out=tmp_path / "whole", **QUIET)
    out = tmp_path / "run"

    def kill(state):
        if state.step == 3:  # the newest checkpoint is of step 2
            raise Killed

    with pytest.raises(Killed):
        distill(run, task, out=out, watch=kill, **QUIET)
    assert not (out / SHIPPED).exists()
    with pytest.raises(UserError, match=r"has no pipeline yet: .*--resume"):
        open_student(out)
    other = replace(task, rank=2)
    with pytest.raises(UserError, match=r"rank = 2: expected 3, with which .* was begun"):
        distill(run, other, out=out, resume=True, **QUIET)
    again = distill(run, task, out=out, resume=True, **QUIET)
    assert again.fingerprint == whole.fingerprint
    names = [path.relative_to(out) for path in (out / SHIPPED).rglob("*") if path.is_file()]
    assert all((out / x).read_bytes() == (tmp_path / "whole" / x).read_bytes() for x in names)


def test_another_teacher_is_refused(task_of, tmp_path):
    """The folder's weights were exchanged under a run."""
    folder = copytree(task_of("sd").folder, tmp_path / "pipeline")
    run, task = run_of("direct_cm", "sd"), replace(task_of("sd"), folder=str(folder))
    distill(run, task, out=tmp_path / "run", **QUIET)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, path)
    longer = replace(run, extend=1)
    with pytest.raises(UserError, match=r"teacher|data"):
        distill(longer, task, out=tmp_path / "run", resume=True, **QUIET)


def test_all_weights_are_trained_by_the_same_path(task_of, tmp_path):
    task = task_of("sd", rank=0)
    generator = distill(run_of("direct_cm", "sd"), task, out=tmp_path / "run", **QUIET)
    network = generator.denoiser.network.network
    base = open_folder(task.folder).load("unet")
    moved = [
        not torch.equal(p, q) for p, q in zip(network.parameters(), base.parameters(), strict=True)
    ]
    assert sum(moved) > 0.9 * len(moved)
    student = open_student(tmp_path / "run", device="cpu")
    for name, tensor in student.pipeline.unet.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])
    [(prompt, seed, picture)] = student.pictures(PROMPTS[:1], steps=2, seeds=(3,))
    assert (prompt, seed, picture.size) == (PROMPTS[0], 3, (SIZE, SIZE))


def test_pictures_depend_on_their_prompt_and_seed_alone(distilled):
    for name in ("sd", "sd3"):
        student = open_student(distilled("direct_cm", name)[0], device="cpu")

        def pixels(prompts, seeds, batch, student=student):
            made = student.pictures(prompts, steps=2, seeds=seeds, batch=batch)
            return {
                (prompt, seed): np.asarray(picture).astype(int) for prompt, seed, picture in made
            }

        some = pixels(PROMPTS, (0, 5), 4)
        assert len(some) == 6
        one = pixels([PROMPTS[2]], (5,), 1)
        assert abs(one[PROMPTS[2], 5] - some[PROMPTS[2], 5]).max() <= 1
        assert abs(some[PROMPTS[0], 0] - some[PROMPTS[0], 5]).max() > 1


def test_steps_that_a_student_was_not_trained_for_are_refused(distilled):
    student = open_student(distilled("mcm", "sd")[0], device="cpu")
    assert student.steps() == 2
    with pytest.raises(UserError, match="steps = 4: expected 2: it was trained for these alone"):
        student.steps(4)
    student = open_student(distilled("tcm", "sd")[0], device="cpu")
    low = student.steps()
    with pytest.raises(UserError, match=f"steps = 40: expected .*at most {low}"):
        student.steps(40)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": None}, "prompts = None: expected either a file of prompts, or --images"),
        ({"rank": -1}, "rank = -1: expected at least 0"),
        ({"weights": "int8"}, "unknown weights 'int8'"),
        ({"buckets": True}, "buckets = True: expected none without --images"),
    ],
)
def test_a_task_that_cannot_be_is_one_line(task_of, fields, message):
    with pytest.raises(UserError, match=message):
        replace(task_of("sd"), **fields)


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("direct_cm", {"layers": ("nothing",)}, "layers of .*: expected ends of names"),
        ("diffusion", {}, "method = 'with the sampler heun': expected one whose students jump"),
    ],
)
def test_a_run_that_cannot_be_is_one_line(task_of, tmp_path, method, fields, message):
    run = replace(run_of("cd", "sd"), method=method, method_options={})
    with pytest.raises(UserError, match=message):
        distill(run, task_of("sd", **fields), out=tmp_path / "run", **QUIET)


def test_a_task_is_read_again(distilled):
    out, _ = distilled("cd", "sd")
    task = read_task(out)
    assert json.loads((out / FILE).read_text())["rank"] == task.rank == 3


def test_a_command_that_is_refused_changes_nothing(distilled, task_of):
    """A finished run stays the run of its own task."""
    out, _ = distilled("direct_cm", "sd")
    before = (out / FILE).read_bytes()
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        distill(run_of("direct_cm", "sd"), task_of("sd", rank=2), out=out, **QUIET)
    assert (out / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "fields", "values", "message"),
    [
        ({"guidance": 2.0}, {}, {}, "method.guidance = 2.0: expected 0: say it as --guidance"),
        ({}, {"weights": "fp16"}, {}, "weights = 'fp16': expected bf16 or fp32"),
        ({}, {"size": 15}, {}, "size = 15: expected a multiple of 2 pixels"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_takes_long(
    task_of, tmp_path, options, fields, values, message
):
    run = run_of("direct_cm", "sd", **values)
    run = replace(run, method_options={**run.method_options, **options})
    with pytest.raises(UserError, match=message):
        distill(run, task_of("sd", **fields), out=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_half_precision_learns_what_full_precision_does(task_of, tmp_path, name, half):
    """The changes of the first update point where those in float32 do."""

    def changes(precision):
        run = run_of("direct_cm", name, iterations=1, ema=0.0, precision=precision, lr=1e-3)
        task = task_of(name, weights=precision)
        out = tmp_path / precision
        generator = distill(replace(run, optimizer="adam"), task, out=out, **QUIET)
        role = generator.denoiser.network
        assert {p.dtype for p in role.parameters()} == {torch.float32}
        shipped = load_file(out / SHIPPED / "pytorch_lora_weights.safetensors")
        assert {tensor.dtype for tensor in shipped.values()} == {
            {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        }
        return torch.cat([p.flatten() for key, p in role.named_parameters() if key[-2:] == ".b"])

    full, low = changes("fp32"), changes(half)
    # Adam's first update is the sign of the gradient, which is near 0 in some places.
    assert float((full.sign() == low.sign()).float().mean()) > 0.9


def test_times_of_flux_are_not_rounded(tiny):
    """In bfloat16 the times of 250 steps would be 160."""
    folder = open_folder(tiny("flux"))
    network = folder.load("transformer", torch.bfloat16)
    x = torch.ones(1, folder.channels, 4, 4, dtype=torch.bfloat16)
    rows = {"tokens": torch.ones(1, 3, 16), "pooled": torch.ones(1, 8)}
    seen = []
    embed = network.time_text_embed.time_proj
    embed.register_forward_pre_hook(lambda _, args: seen.append(float(args[0])))
    for time in (900.0, 901.0):
        folder.family.ask(network, x, torch.tensor([time]), rows, None)
    assert seen == [900.0, 901.0]


def test_a_folder_of_half_precision_files_is_sampled_too(task_of, tmp_path):
    """As the hub has them: only *.fp16.safetensors, and a checker of pictures that is not there."""
    folder = copytree(task_of("sd").folder, tmp_path / "pipeline")
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    task = replace(task_of("sd"), folder=str(folder))
    distill(run_of("direct_cm", "sd"), task, out=tmp_path / "run", **QUIET)
    student = open_student(tmp_path / "run", device="cpu")
    assert len(list(student.pictures(PROMPTS[:1], steps=1))) == 1
    assert ', variant="fp16")' in (tmp_path / "run" / SHIPPED / "README.md").read_text()


def test_latents_are_drawn_anew_where_the_scheduler_says_otherwise(task_of, tmp_path):
    """The usual repair of a fine-tune: what its network predicts."""
    folder = copytree(task_of("sd").folder, tmp_path / "pipeline")
    task, run = replace(task_of("sd"), folder=str(folder)), run_of("direct_cm", "sd")
    first = distill(run, task, out=tmp_path / "a", cache=tmp_path / "cache", **QUIET)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"v_prediction"'))
    second = distill(run, task, out=tmp_path / "b", cache=tmp_path / "cache", **QUIET)
    assert first.facts.data != second.facts.data


def test_a_teacher_without_changes_is_one_network(task_of):
    """Also where all weights learn: copies of the teacher share its weights."""
    import copy

    from fewstep.pipelines.roles import roles_of

    for rank in (0, 2):
        task = task_of("sd", rank=rank)
        roles = roles_of(open_folder(task.folder), task, None, 0)
        assert copy.deepcopy(roles.teacher).common.value is roles.teacher.common.value
        assert not list(roles.teacher.parameters())
