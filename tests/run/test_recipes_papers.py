"""The recipes of papers: sizes of networks, schedules by the codes' formulas, two steps, JSON."""

from __future__ import annotations

import json
from math import inf

import pytest
import torch

import fewstep as fs
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

SIZES = {  # millions of weights as the papers state them, GC's paper none; and how near ours are
    "cifar10-ict": (56.4, 0.001),
    "cifar10-ect": (55.7, 0.001),
    "cifar10-tcm": (55.7, 0.001),
    "imagenet64-ect-s": (280, 0.01),
    "imagenet64-ect-xl": (1119, 0.001),
    "imagenet64-tcm-s": (280, 0.01),
    "imagenet64-tcm-xl": (1119, 0.001),
    "imagenet64-mcm-small": (394, 0.001),
    "imagenet64-mcm-large": (1230, 0.011),
    "imagenet128-mcm-small": (397, 0.001),
    "imagenet128-mcm-large": (1250, 0.003),
}
NARROW = {
    "song_unet": {"width": 8},
    "edm2_unet": {"width": 8, "head_channels": 8, "blocks": 1},
    "uvit": {"width": 8, "head_channels": 8, "embedding": 8},
}


def side(name: str) -> int:
    """Of the recipe's pictures."""
    return {"cifar10": 32, "imagenet32": 32, "imagenet128": 128}.get(name.partition("-")[0], 64)


def full(name: str, **fields: object) -> tuple[Method, Preconditioned]:
    """The recipe's method and its student, at full size and without memory."""
    run = PAPERS[name](**fields)
    shape = (3, side(name), side(name))
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


@pytest.mark.parametrize("name", [name for name in PAPERS if "ect-" in name or "tcm-" in name])
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


def small(name: str, **fields: object) -> fs.Run:
    """The recipe with a narrow network, for two steps."""
    run = PAPERS[name](**fields)
    options = {**run.network_options, **NARROW[run.network]}
    if run.network == "uvit":
        options["blocks"] = (1,) * len(options["mult"])
    few = {"iterations": 2, "batch": 2, "block": 1, "picture_every": 0, "precision": "fp32"}
    return with_values(run, {**few, "network_options": options})


def pictures() -> dict[str, torch.Tensor]:
    """Noise of 32x32, with labels, which not all use."""
    shape = (8, 3, 32, 32)
    return {
        "x0": torch.randn(shape, generator=generator(0, "pictures")),
        "cond": torch.arange(8) % 3,
    }


# At reduced width the larger networks are the smaller ones.
@pytest.mark.parametrize("name", [name for name in PAPERS if not name.endswith(("-xl", "-large"))])
def test_two_steps_at_reduced_width(name):
    run = small(name)
    generator = fs.train(run, pictures(), progress=False, device="cpu")
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
def test_mcms_teachers_see_the_noise_levels_of_mcm(name):
    """Mean and deviation of ln(sigma / alpha) at uniform times, to the two digits given."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    levels = full(name)[0].process.level(t).log()
    options = PAPERS[name](method="diffusion").method_options
    assert options["p_mean"] == pytest.approx(levels.mean().item(), abs=0.006)
    assert options["p_std"] == pytest.approx(levels.std().item(), abs=0.006)


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
