"""The recipes of papers: sizes of networks, schedules by the codes' formulas, two steps, JSON."""

from __future__ import annotations

import json
import math
from math import inf

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.cli import main
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import Method
from fewstep.data import Units
from fewstep.networks._song_unet import SongUNet
from fewstep.run.build import build_method, build_student, with_defaults
from fewstep.run.config import run_from_json, with_values
from fewstep.run.facts import Facts
from fewstep.run.recipes import PAPERS
from fewstep.training.optimizers import lr_factor

every_paper = pytest.mark.parametrize("name", PAPERS)

DDPMPP = (55.7, 0.001)
NCSNPP = (56.4, 0.001)
ADM = (295.9, 0.001)
SIZES = {  # millions of weights as the papers state them, GC's paper none; and how near ours are
    "cifar10-edm-ddpmpp": DDPMPP,
    "cifar10-edm-ncsnpp": NCSNPP,
    "cifar10-cd": NCSNPP,
    "cifar10-ct": NCSNPP,
    "cifar10-ict": NCSNPP,
    "cifar10-ict-deep": (97.6, 0.001),  # ours: twice the blocks; 112 in TCM's table, twice iCT's
    "cifar10-ect": DDPMPP,
    "cifar10-ect-hour": DDPMPP,
    "cifar10-ect-gc": DDPMPP,
    "cifar10-ect-gc-hour": DDPMPP,
    "cifar10-tcm": DDPMPP,
    "cifar10-sct": DDPMPP,
    "cifar10-scd": DDPMPP,
    "cifar10-meanflow": (55, 0.02),
    "cifar10-soflow": (56.1, 0.001),  # ours: DDPM++, and what is told of the end; not stated
    "cifar10-cmt": DDPMPP,
    "imagenet64-edm": ADM,
    "imagenet64-cd": ADM,
    "imagenet64-ct": ADM,
    "imagenet64-ict": (282.2, 0.001),  # ours: without AdaGN; TCM's table has ADM's 296
    "imagenet64-ict-deep": (472.8, 0.001),  # ours; 592 there
    "imagenet64-sct": (280, 0.01),
    "imagenet64-scd": (280, 0.01),
    "imagenet64-ect-s": (280, 0.01),
    "imagenet64-ect-xl": (1119, 0.001),
    "imagenet64-tcm-s": (280, 0.01),
    "imagenet64-tcm-xl": (1119, 0.001),
    "imagenet64-mcm-small": (394, 0.001),
    "imagenet64-mcm-large": (1230, 0.011),
    "imagenet128-mcm-small": (397, 0.001),
    "imagenet128-mcm-large": (1250, 0.003),
    "imagenet256-meanflow": (676, 0.001),
    "imagenet256-meanflow-b2": (131, 0.001),
    "imagenet256-imf": (676, 0.001),  # DiT's, MeanFlow's; 610 of iMF's own network
    "imagenet256-imf-b2": (131, 0.001),  # 89 of iMF's own
    "imagenet256-soflow": (676, 0.001),
}
NARROW = {
    "song_unet": {"width": 8, "blocks": 1},
    "edm2_unet": {"width": 8, "head_channels": 8, "blocks": 1},
    "uvit": {"width": 8, "head_channels": 8, "embedding": 8},
    "adm_unet": {"width": 8, "head_channels": 8, "blocks": 1},
    "dit": {"width": 16, "heads": 2, "depth": 1},
}
WITH_TEACHER = ("cd", "scd", "cmt")  # methods that have nothing to learn without one


def side(name: str) -> int:
    """Of the recipe's pictures."""
    return {"cifar10": 32, "imagenet32": 32, "imagenet128": 128}.get(name.partition("-")[0], 64)


def full(name: str, **fields: object) -> tuple[Method, Preconditioned]:
    """The recipe's method and its student, at full size and without memory."""
    run = PAPERS[name](**fields)
    shape = (4, 32, 32) if run.latents else (3, side(name), side(name))
    classes = 1000 if run.labels else 0
    assert run.sigma_data is not None
    facts = Facts(shape, classes, run.sigma_data, Units(), "")
    method = build_method(run, facts)
    with torch.device("meta"):
        return method, build_student(run, facts, method)


@every_paper
def test_networks_have_the_papers_sizes(name):
    millions, near = SIZES.get(name, (None, inf))
    size = sum(p.numel() for p in full(name)[1].network.parameters()) / 1e6
    if millions:
        assert size == pytest.approx(millions, rel=near)
    else:
        assert name.endswith("-gc")


BLOCKS = {
    "cifar10-gc": ({32: 3, 16: 3, 8: 3}, [8]),
    "imagenet32-gc": ({32: 3, 16: 5, 8: 7}, [16, 8]),
    "celeba64-gc": ({64: 3, 32: 3, 16: 4, 8: 5}, [8]),
    "lsun64-gc": ({64: 3, 32: 3, 16: 4, 8: 5}, [8]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_gcs_networks_have_blocks_and_attention_by_level(name):
    blocks, attending = BLOCKS[name]
    network = full(name)[1].network
    assert isinstance(network, SongUNet)
    for more, part in ((0, network.enc), (1, network.dec)):
        for resolution, count in blocks.items():
            prefix = f"{resolution}x{resolution}_block"
            assert sum(key.startswith(prefix) for key in part) == count + more
    names = [key.split(".")[1] for key, _ in network.named_parameters() if ".qkv." in key]
    resolutions = {int(name.partition("x")[0]) for name in names}
    assert sorted(resolutions, reverse=True) == attending


@pytest.mark.parametrize("name", [name for name in PAPERS if name.endswith(("-s", "-xl"))])
def test_edm2_drops_at_16_and_8(name):
    network = full(name)[1].network
    dropouts = {
        int(key.partition("x")[0]): block.dropout
        for part in (network.enc, network.dec)
        for key, block in part.items()
        if "conv" not in key
    }
    assert dropouts == {64: 0.0, 32: 0.0, 16: network.dropout, 8: network.dropout}
    assert network.dropout == (0.4 if name.endswith("-s") else 0.5)


def test_ict_drops_at_16_and_8_without_adagn():
    network = full("imagenet64-ict")[1].network
    for name, block in (*network.enc.items(), *network.dec.items()):
        if "conv" not in name:
            assert not block.style.scale_shift
            assert block.style.dropout == (0.2 if int(name.partition("x")[0]) <= 16 else 0.0)


def small(name: str, **fields: object) -> fs.Run:
    """The recipe with a narrow network, for two steps; lpips needs weights that are elsewhere."""
    run = PAPERS[name](**fields)
    if "distance" in run.method_options and run.network != "uvit":
        run = with_values(run, {"method_options": {**run.method_options, "distance": "l2"}})
    options = {**run.network_options, **NARROW[run.network]}
    if run.network == "uvit":
        options["blocks"] = (1,) * len(options["mult"])
    block = 1
    if run.method == "cmt":  # trajectories of two points
        run, block = (
            with_values(run, {"method_options": {**run.method_options, "n": 2, "reuse": 2}}),
            2,
        )
    few = {"iterations": 2, "batch": 2, "block": block, "split": 0.5, "picture_every": 0}
    return with_values(run, {**few, "precision": "fp32", "network_options": options})


def pictures(latents: str | None = None) -> dict[str, torch.Tensor]:
    """Noise of 32x32, with labels, which not all use; or moments of latents of 8x8."""
    shape = (8, 8, 8, 8) if latents else (8, 3, 32, 32)
    x0 = torch.randn(shape, generator=generator(0, "pictures"))
    return {"x0": x0.abs() if latents else x0, "cond": torch.arange(8) % 3}


# At reduced width recipes of one method and one kind of network are much the same; all of them are
# gone through in tests/cli/test_papers.py.
UNLIKE = {(run().network, run().method): name for name, run in reversed(PAPERS.items())}


# Derivatives of U-Nets take long, and of a transformer's flow maps one is like the others.
LONG = {
    *("imagenet64-scd", "imagenet64-sct", "cifar10-scd", "imagenet256-imf", "cifar10-soflow"),
    *("cifar10-meanflow", "cifar10-cmt", "imagenet64-cd", "imagenet64-ct"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.long] * (one in LONG)) for one in UNLIKE.values()],
)
def test_two_steps_at_reduced_width(name):
    run = small(name)
    data, teacher = pictures(run.latents), None
    if run.method in WITH_TEACHER:
        method = "diffusion"
        teacher = fs.train(small(name, method=method), data, progress=False, device="cpu")
    generator = fs.train(run, data, teacher=teacher, progress=False, device="cpu")
    assert generator.step == 2
    assert generator.facts.classes == (3 if run.labels else 0)
    fresh = build_student(generator.run, generator.facts, generator.method)
    assert generator.denoiser.state_dict().keys() == fresh.state_dict().keys()
    differences = [
        not torch.equal(p, q)
        for p, q in zip(generator.denoiser.parameters(), fresh.parameters(), strict=True)
    ]
    assert any(differences)
    assert all(torch.isfinite(p).all() for p in generator.denoiser.parameters())


@every_paper
def test_settings_are_values_that_survive_json(name):
    run = PAPERS[name]()
    assert run.recipe == name
    assert run == PAPERS[name]()
    run = with_defaults(
        run
    )  # the options are the method's and the network's own, and of their types
    assert with_defaults(run_from_json(json.loads(json.dumps(run.to_json())))) == run


@every_paper
def test_other_methods_take_the_recipes_setting(name):
    for method in ("diffusion", "ect", "ict", "gc", "tcm", "mcm"):
        run = with_defaults(PAPERS[name](method=method))
        assert run.method == method
        assert build_method(run, Facts((3, 8, 8), 0, 0.5, Units(), "")).scaling.sigma_data == 0.5


RATES = {  # iterations -> the code's learning rate of stage 1; of stage 2
    "imagenet64-ect-s": (lambda k: 1e-3 / max(k / 2000, 1) ** 0.5, None),
    "imagenet64-ect-xl": (lambda k: 7e-4 / max(k / 2000, 1) ** 0.5, None),
    "imagenet64-tcm-s": (
        lambda k: 1e-3 / max(k / 2000, 1) ** 0.5,
        lambda k: 5e-4 / max(k / 8000, 1) ** 0.5,
    ),
    "imagenet64-tcm-xl": (
        lambda k: 7e-4 / max(k / 2000, 1) ** 0.5,
        lambda k: 1e-4 / max(k / 8000, 1) ** 0.5,
    ),
    "cifar10-tcm": (lambda k: 1e-4, lambda k: 5e-5),
    "cifar10-ect": (lambda k: 1e-4, None),
    "cifar10-ict": (lambda k: 1e-4, None),
    "cifar10-cd": (lambda k: 4e-4 * min(k * 512 / 1e7, 1), None),
    "cifar10-edm-ncsnpp": (lambda k: 1e-3 * min(k * 512 / 1e7, 1), None),
    "imagenet64-sct": (lambda k: 1e-4 / max(k / 35_000, 1) ** 0.5, None),
    "cifar10-meanflow": (lambda k: 6e-4 * min(k / 10_000, 1), None),
    "cifar10-soflow": (lambda k: 1e-4, None),
    "imagenet256-meanflow": (lambda k: 1e-4, None),
    "imagenet256-imf": (lambda k: 1e-4 * min(k / (10 * (1_281_167 // 1024)), 1), None),
    "imagenet256-soflow": (lambda k: 1e-4, None),
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_are_the_codes_formulas(name):
    run = PAPERS[name]()
    first, second = RATES[name]
    switch = run.iterations if second is None else run.split * run.iterations
    for k in (0, 1, 1999, 2000, 2001, 9000, 99_999, 149_999, 150_001, 199_000, 251_000):
        if k < run.iterations:
            rate = run.lr * lr_factor(
                k / run.iterations, run.warmup, run.constant, run.final, run.decay
            )
            if second is not None and k >= switch:
                assert rate * run.stage_lr == pytest.approx(second(k), rel=1e-9)
            else:
                assert rate == pytest.approx(first(k), rel=1e-9)


STAGES = {  # iterations of the first stage, of one of its doublings, q, cap
    "cifar10-ect": (200_000, 25_000, 2, 0.9999),
    "cifar10-ect-gc": (100_000, 25_000, 2, 0.9999),
    "cifar10-tcm": (250_000, 25_000, 2, 0.999),
    "imagenet64-ect-s": (100_000, 25_000, 4, 0.9999),
    "imagenet64-tcm-s": (150_000, 10_000, 4, 0.9961),
    "imagenet64-tcm-xl": (150_000, 10_000, 4, 0.9961),
}


@pytest.mark.parametrize("name", STAGES)
def test_curricula_are_the_codes_formulas(name):
    """ratio = min(1 - q^-(floor(k / d) + 1), cap), which TCM's second stage keeps."""
    iterations, doubling, q, cap = STAGES[name]
    run = PAPERS[name]()
    method, _ = full(name)
    two = method.before is not None
    first = method.before or method
    assert iterations == (round(run.split * run.iterations) if two else run.iterations)
    for k in range(0, iterations, 5000):
        assert first.times.ratio((k + 0.5) / iterations) == min(1 - q ** -(k // doubling + 1), cap)
    if two:
        assert method.times.times.fixed_ratio == cap


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("name", [name for name in PAPERS if "mcm" in name])
def test_mcm_takes_k(name, k):
    run = PAPERS[name](K=k)
    method = build_method(run, Facts((3, side(name), side(name)), 1000, 1.0, Units(), ""))
    assert method.sampler.default == k
    assert [k * method.times.per_segment(progress) for progress in (0.0, 0.5, 1.0)] == [
        64,
        1280,
        1280,
    ]
    t = torch.tensor([0.02, 0.98], dtype=torch.float64)
    # Noise whose average over 32x32 is the cosine's.
    higher = method.process.level(t) / fs.process.cosine().level(t)
    assert higher.tolist() == pytest.approx(
        [(side(name) / 32) ** share for share in (0.98, 0.02)], rel=0.02
    )


@pytest.mark.parametrize("name", ["imagenet64-mcm-small", "imagenet128-mcm-large"])
def test_mcms_teachers_are_trained_on_the_noise_levels_of_mcm(name):
    """At uniform times of the cosine, with the v-loss: a squared error of x0 over sigma^2."""
    u = torch.rand(100, generator=generator(0, "u"), dtype=torch.float64)
    levels = full(name)[0].process.level(u)
    teacher = full(name, method="diffusion")[0]
    times = teacher.times(u[:, None], 0.0)
    torch.testing.assert_close(times.t, levels, rtol=1e-12, atol=0)
    sigma = levels / (1 + levels.square()).sqrt()  # of the process with alpha^2 + sigma^2 = 1
    torch.testing.assert_close(teacher.weight(teacher.process, times), sigma**-2)


@pytest.mark.parametrize(
    "options", [{"law": "cosine", "p_mean": 0.0}, {"shift": (1.0, 0.0)}], ids=["law", "shift"]
)
def test_diffusion_refuses_options_that_its_law_has_not(options):
    with pytest.raises(UserError, match="law = cosine"):
        fs.methods.diffusion(**options)


@pytest.mark.parametrize("name", ["cifar10-edm-ddpmpp", "imagenet64-edm"])
def test_edms_runs_are_counted_in_samples(name):
    """200 and 2,500 million, of which the rate rises over 10 million; half-lives too."""
    run = PAPERS[name]()
    millions, halflife = {"cifar10-edm-ddpmpp": (200, 0.5), "imagenet64-edm": (2500, 50)}[name]
    assert run.iterations * run.batch / 1e6 == pytest.approx(millions, rel=1e-5)
    assert run.warmup * millions == pytest.approx(10)
    assert run.ema ** (halflife * 1e6 / run.batch) == pytest.approx(0.5)
    assert run.averages == (f"halflife:{halflife * 1e6:.0f}",)


@pytest.mark.parametrize(("name", "label"), [("cifar10-cd", 0.25), ("imagenet64-ct", 250.0)])
def test_cms_networks_have_the_labels_of_their_codes(name, label):
    for method in (PAPERS[name]().method, "diffusion"):
        method, _ = full(name, method=method)
        noise = method.scaling(method.process, torch.tensor([2.0], dtype=torch.float64)).noise
        assert noise.item() == pytest.approx(label * math.log(2.0))


@pytest.mark.parametrize("name", ["cifar10-ect-hour", "cifar10-ect-gc-hour"])
def test_ect_in_an_hour_has_one_stage(name):
    method, _ = full(name)
    assert {method.times.ratio(progress) for progress in (0.0, 0.5, 1.0)} == {1 - 1 / 256}


def test_mcm_distils_a_teacher_of_its_own_recipe():
    """As in docs/reproduce.md: from the teacher's weights, by its aDDIM moves."""
    name = "imagenet64-mcm-small"
    teacher = fs.train(small(name, method="diffusion"), pictures(), progress=False, device="cpu")
    run = small(name, K=2)
    run = with_values(run, {"method_options": {**run.method_options, "pairs": "addim"}, "lr": 1e-9})
    student = fs.train(run, pictures(), init=teacher, teacher=teacher, progress=False, device="cpu")
    assert "teacher" in student.method.needs
    for p, q in zip(student.denoiser.parameters(), teacher.denoiser.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_a_run_without_labels_is_trained_and_scored_without_them(tmp_path, capsys):
    few = {
        "batch": 32,
        "picture_every": 0,
        "network_options": {"width": 16, "depth": 1},
        "labels": False,
    }
    run = fs.recipes.digits(iterations=2, **few)
    generator = fs.train(run, out=tmp_path / "run", progress=False, device="cpu")
    assert (generator.facts.classes, generator.facts.cond) == (0, None)
    options = ["--n", "90", "--metrics", "energy", "--json", "--device", "cpu"]
    assert main(["eval", str(tmp_path / "run"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["results"]


def test_every_recipe_is_listed_on_one_line(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in fs.recipes.RECIPES:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line) <= 130
