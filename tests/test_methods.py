"""One table of methods crossed with one list of properties: a new method is one row here."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

import fewstep as fs
from fewstep.config import checked_options
from fewstep.randomness import generator
from tests.toys import Gaussian, small_student, tiny_run

METHODS = {
    "diffusion": ("diffusion", {}),
    "ect": ("ect", {}),
    "ect huber": ("ect", {"c": 0.06, "stages": 4}),
    "ect edm": ("ect", {"weight": "edm", "q": 4.0, "c": 0.06}),
    "cd": ("cd", {}),
    "cd euler": ("cd", {"solver": "euler", "n": 12, "weight": "edm"}),
    "ct": ("ct", {}),
    "ct l1": ("ct", {"distance": "l1", "weight": "edm", "s1": 20}),
    "ict": ("ict", {"s1": 160}),
    "ect ot": ("ect", {"pairs": "ot"}),
    "ect euler": ("ect", {"pairs": "euler"}),
    "gc": ("gc", {"base": {"method": "ict", "s1": 160}}),
    "gc ect": ("gc", {"base": "ect", "predictor": "student", "share": 0.7}),
    "gc ramp": ("gc", {"base": {"method": "ict", "s1": 160}, "share": 0.9, "share_end": 0.3}),
    "gc tcm": ("gc", {"base": "tcm"}),
    "tcm": ("tcm", {}),
    "tcm huber edm": ("tcm", {"base": {"method": "ect", "c": 0.06, "weight": "edm"}, "realised": True}),
    "tcm heun": ("tcm", {"base": {"method": "ect", "pairs": "heun"}}),
    "mcm": ("mcm", {}),
    "mcm 1": ("mcm", {"K": 1, "steps": 16, "steps_end": 128}),
    "mcm literal": ("mcm", {"space": "x0", "weight": "snr_plus_one", "steps": 16, "steps_end": 128}),
    "mcm addim": ("mcm", {"pairs": "addim", "steps": 16, "steps_end": 128}),
    "mcm squared": ("mcm", {"distance": "squared", "K": 2, "steps": 16, "steps_end": 128}),
    "direct": ("direct_cm", {}),
    "direct highest": ("direct_cm", {"n": 6, "starts": "highest", "c": 0.01}),
    "direct heun": ("direct_cm", {"n": 8, "solver": "heun"}),
    "direct student": ("direct_cm", {"n": 20, "goal": "student"}),
    "direct cosine": ("direct_cm", {"n": 12, "process": "cosine"}),
    "direct discrete": ("direct_cm", {"n": 10, "process": "discrete"}),
    "sct": ("sct", {}),
    "sct differences": ("sct", {"derivative": "difference", "label": "time", "norm": "rms"}),
    "scd": ("scd", {"balance": "none", "warmup": 0.75}),
}
BATCHED = {"ect ot"}  # its pairs are made within the batch, so a row is not what it is alone, nor is it on a device

pytestmark = pytest.mark.parametrize(("name", "options"), METHODS.values(), ids=METHODS.keys())


def leave_out(rows: set[str], name: str, options: dict, reason: str) -> None:
    """Skips a property for some rows of the table."""
    if (name, options) in [METHODS[row] for row in rows]:
        pytest.skip(reason)


def models(student, method: fs.Method) -> fs.Models:
    """All the networks that a method can ask for; a learned balance that has learned nothing leaves losses alone."""
    truth = Gaussian(process=method.process)
    teacher = lambda x, t, cond=None: truth(x, t)  # noqa: E731
    return fs.Models(student, ema=student, teacher=teacher, frozen=student, balance=torch.zeros_like)


def build(name: str, options: dict) -> fs.Method:
    return getattr(fs.methods, name)(**options)


def batch(
    method: fs.Method, rows: int = 6, shape: tuple[int, ...] = (2, 3), dtype=torch.float64, progress: float = 0.6
):
    source = generator(0, "batch")
    x0, z = (torch.randn(rows, *shape, generator=source, dtype=torch.float64).to(dtype) for _ in range(2))
    u = torch.rand(rows, 2, generator=source, dtype=torch.float64)
    return x0, z, method.times(u, progress, torch.arange(rows))


def test_loss_is_per_sample_finite_and_moves_only_the_student(name, options):
    method, student, other = build(name, options), small_student((2, 3)), small_student((2, 3), seed=1)
    given = fs.Models(student, ema=other, teacher=other, frozen=other, balance=torch.zeros_like)
    loss = method.loss(given, *batch(method))
    loss.mean().backward()
    assert loss.shape == (6,)
    assert (loss > 0).all()
    assert torch.isfinite(loss).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())
    assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_batch_is_its_items(name, options, dropout):
    """Row by row with the rows' own seeds gives the batch's loss and the batch's gradient."""
    leave_out(BATCHED, name, options, "its noise is dealt out anew within the batch")
    method, student = build(name, options), small_student((2, 3), dropout=dropout)
    x0, z, times = batch(method)
    parts, seeds = models(student, method), list(range(len(x0)))
    together = method.loss(parts, x0, z, times, seed=seeds)
    together.sum().backward()
    whole = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    for i in range(len(x0)):
        rows = fs.Times(*(part[i : i + 1] for part in times[:5]), progress=times.progress)
        alone = method.loss(parts, x0[i : i + 1], z[i : i + 1], rows, seed=[seeds[i]])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)
        alone.sum().backward()
    for p, expected in zip(student.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-8, atol=1e-10)


def test_labels_reach_the_rows_they_belong_to(name, options):
    method, student = build(name, options), small_student((2, 3), classes=3)
    x0, z, times = batch(method)
    cond = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = method.loss(models(student, method), x0, z, times, cond)
    other = method.loss(models(student, method), x0, z, times, torch.tensor([0, 1, 2, 0, 1, 1]))
    torch.testing.assert_close(loss[:5], other[:5])
    assert loss[5] != other[5]


def test_the_seed_decides_the_dropout_and_nothing_else_is_random(name, options):
    method, student = build(name, options), small_student((2, 3), dropout=0.5)
    given = batch(method)
    state = torch.get_rng_state()
    first, again, other = (method.loss(models(student, method), *given, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(method.loss(models(student, method), *given), method.loss(models(student, method), *given))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (2, 3, 2, 2)])
def test_any_shape_and_dtype(name, options, shape, dtype):
    method, student = build(name, options), small_student(shape).to(dtype)
    loss = method.loss(models(student, method), *batch(method, shape=shape, dtype=dtype))
    assert loss.dtype == dtype
    assert loss.shape == (6,)


def test_float32_agrees_with_float64(name, options):
    method, student = build(name, options), small_student((2, 3))
    exact = method.loss(models(student, method), *batch(method))
    quick = method.loss(models(student.float(), method), *batch(method, dtype=torch.float32))
    torch.testing.assert_close(quick.double(), exact, rtol=2e-3, atol=1e-5)


def test_a_plain_function_is_a_denoiser_and_knowing_the_data_costs_nothing(name, options):
    """Where the data is one point, the function that always says so is perfect: loss 0."""
    method = build(name, options)
    _, z, times = batch(method)
    point = torch.full_like(z, 0.7)
    knows = lambda x_t, t, cond=None: torch.full_like(x_t, 0.7)  # noqa: E731
    given = fs.Models(knows, ema=knows, teacher=knows, frozen=knows, balance=torch.zeros_like)
    loss = method.loss(given, point, z, times)
    torch.testing.assert_close(loss, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-11)


def test_where_r_is_the_anchor_the_network_at_r_is_not_asked(name, options):
    """The boundary condition is a consequence: at r = a a target of NaN changes nothing, nor is an endpoint made.

    The same for a tangent, which looks at t alone. It sees the output of a network but the guess of a plain
    function, whose last bits differ: both students here are plain functions.
    """
    method, student = build(name, options), small_student((2, 3))
    x0, z, times = batch(method)
    at_anchor = times._replace(r=times.a)

    def nan_at_the_anchor(x_t, t, cond=None):
        lower = torch.isin(t, torch.cat([times.r, times.a])) & ~torch.isin(t, times.t)
        return torch.where(lower.reshape(-1, 1, 1), torch.nan, student(x_t, t, cond))

    def plain(x_t, t, cond=None):
        return student(x_t, t, cond)

    expected = method.loss(models(plain, method), x0, z, at_anchor)
    assert torch.equal(method.loss(models(nan_at_the_anchor, method), x0, z, at_anchor), expected)


def test_nothing_waits_for_the_device(name, options):
    """On the meta device, which has shapes and no numbers, with the times on the host, as they always are."""
    leave_out(BATCHED, name, options, "the assignment is found on the host")
    method, student = build(name, options), small_student((2, 3), classes=3).to("meta")
    x0, z, times = batch(method)
    cond = torch.tensor([0, 1, 2, 0, 1, 2], device="meta")
    everyone = fs.Models(student, ema=student, teacher=student, frozen=student, balance=torch.zeros_like)
    loss = method.loss(everyone, x0.to("meta"), z.to("meta"), times, cond)
    loss.mean().backward()
    assert loss.device.type == "meta"
    assert loss.shape == (6,)


def test_the_config_survives_json(name, options):
    function = getattr(fs.methods, name)
    settings = checked_options("method", function, options)
    assert build(name, json.loads(json.dumps(settings))) == build(name, options)
    assert repr(build(name, options)).startswith("Method(times=")


def test_the_composition_fits_in_fifteen_lines(name, options):
    source = inspect.getsource(getattr(fs.methods, name))
    body = source.split('"""', 2)[2].strip().splitlines()
    assert len(body) <= 15


def test_training_resumed_is_training_uninterrupted(name, options, tmp_path):
    """From every checkpoint, to the last bit of weights, average, optimizer and log."""
    run = tiny_run(method=name, method_options=options, checkpoint_every=1, seed=3)
    method = build(name, options)
    teacher = Gaussian(process=method.process) if "teacher" in method.needs else None
    whole = fs.train(run, teacher=teacher, out=tmp_path / "whole", progress=False, device="cpu")
    parted = tmp_path / "parted"
    fs.train(run, teacher=teacher, out=parted, progress=False, device="cpu")
    for gone in (parted / "checkpoints" / "step-6").iterdir():
        gone.unlink()
    (parted / "checkpoints" / "step-6").rmdir()
    assert fs.load(parted).step == 5
    resumed = fs.train(run, teacher=teacher, out=parted, resume=True, progress=False, device="cpu")
    assert resumed.fingerprint == whole.fingerprint
    logs = [
        [json.loads(line) for line in (tmp_path / f / "metrics.jsonl").read_text().splitlines()]
        for f in ("whole", "parted")
    ]
    clocks = {"seconds", "samples_per_second"}
    without = [[{k: v for k, v in row.items() if k not in clocks} for row in rows] for rows in logs]
    assert without[0] == without[1]
    assert [row["step"] for row in logs[1]] == [1, 2, 3, 4, 5, 6]
