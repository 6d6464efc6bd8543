"""One table of methods crossed with one list of properties: a new method is one row here."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

import fewstep as fs
from fewstep.analysis.verify import builtin, structure
from fewstep.analysis.verify.check import outcome
from fewstep.base.randomness import generator
from tests.support.toys import Gaussian, small_student, tiny_run

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
    "tcm huber edm": (
        "tcm",
        {"base": {"method": "ect", "c": 0.06, "weight": "edm"}, "realised": True},
    ),
    "tcm heun": ("tcm", {"base": {"method": "ect", "pairs": "heun"}}),
    "mcm": ("mcm", {}),
    "mcm 1": ("mcm", {"K": 1, "steps": 16, "steps_end": 128}),
    "mcm literal": (
        "mcm",
        {"space": "x0", "weight": "snr_plus_one", "steps": 16, "steps_end": 128},
    ),
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
# Its pairs are made within the batch, so a row is not what it is alone, nor is it on a device.
BATCHED = {"ect ot"}
# Its gaps end at 1e-4 of t, of whose squared error float32 keeps two digits.
FINE = {"ect edm"}

pytestmark = pytest.mark.parametrize(("name", "options"), METHODS.values(), ids=METHODS.keys())


def leave_out(rows: set[str], name: str, options: dict, reason: str) -> None:
    """Skips a property for some rows of the table."""
    if (name, options) in [METHODS[row] for row in rows]:
        pytest.skip(reason)


def models(student, method: fs.Method) -> fs.Models:
    """All the networks that a method can ask for; the balance leaves losses as they are."""
    truth = Gaussian(process=method.process)
    teacher = lambda x, t, cond=None: truth(x, t)  # noqa: E731
    return fs.Models(
        student, ema=student, teacher=teacher, frozen=student, balance=torch.zeros_like
    )


def build(name: str, options: dict) -> fs.Method:
    return getattr(fs.methods, name)(**options)


def batch(
    method: fs.Method,
    rows: int = 6,
    shape: tuple[int, ...] = (2, 3),
    dtype=torch.float64,
    progress: float = 0.6,
):
    source = generator(0, "batch")
    x0, z = (
        torch.randn(rows, *shape, generator=source, dtype=torch.float64).to(dtype) for _ in range(2)
    )
    u = torch.rand(rows, 2, generator=source, dtype=torch.float64)
    return x0, z, method.times(u, progress, torch.arange(rows))


@pytest.mark.parametrize(
    "text", [*(text for text, *_ in structure.PROPERTIES), "options survive JSON"]
)
def test_what_verify_asks_of_every_method(name, options, text):
    """The properties that `fewstep verify` checks of our methods and of users' own."""
    checks = [
        check
        for check in builtin.of("it", name, options, quick=True)
        if check.name == f"it: {text}"
    ]
    if not checks:
        assert (name, options) in [METHODS[row] for row in BATCHED]
        pytest.skip("its rows belong together")
    result = outcome(checks[0])
    rounding = text.startswith("float32") and (name, options) in [METHODS[row] for row in FINE]
    assert result.passed or (rounding and result.error < 0.02), (result.error, result.problem)


def test_loss_is_per_sample_finite_and_moves_only_the_student(name, options):
    method = build(name, options)
    student, other = small_student((2, 3)), small_student((2, 3), seed=1)
    networks = fs.Models(student, ema=other, teacher=other, frozen=other, balance=torch.zeros_like)
    loss = method.loss(networks, *batch(method))
    loss.mean().backward()
    assert loss.shape == (6,)
    assert (loss > 0).all()
    assert torch.isfinite(loss).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())
    assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (2, 3, 2, 2)])
def test_any_shape_and_dtype(name, options, shape, dtype):
    method, student = build(name, options), small_student(shape).to(dtype)
    loss = method.loss(models(student, method), *batch(method, shape=shape, dtype=dtype))
    assert loss.dtype == dtype
    assert loss.shape == (6,)


def test_nothing_waits_for_the_device(name, options):
    """On the meta device, which has shapes and no numbers; times are on the host, as always."""
    leave_out(BATCHED, name, options, "the assignment is found on the host")
    method, student = build(name, options), small_student((2, 3), classes=3).to("meta")
    x0, z, times = batch(method)
    cond = torch.tensor([0, 1, 2, 0, 1, 2], device="meta")
    everyone = fs.Models(
        student, ema=student, teacher=student, frozen=student, balance=torch.zeros_like
    )
    loss = method.loss(everyone, x0.to("meta"), z.to("meta"), times, cond)
    loss.mean().backward()
    assert loss.device.type == "meta"
    assert loss.shape == (6,)


def test_the_composition_fits_in_fifteen_lines(name, options):
    source = inspect.getsource(getattr(fs.methods, name))
    body = source.split('"""', 2)[2].strip().splitlines()
    assert len(body) <= 15
    assert repr(build(name, options)).startswith("Method(times=")


def test_training_resumed_is_training_uninterrupted(name, options, tmp_path):
    """From every checkpoint, to the last bit of weights, average, optimizer and log."""
    run = tiny_run(method=name, method_options=options, checkpoint_every=1, seed=3)
    method = build(name, options)
    teacher = Gaussian(process=method.process) if "teacher" in method.needs else None
    whole = fs.train(run, teacher=teacher, out=tmp_path / "whole", progress=False, device="cpu")
    folder = tmp_path / "parted"
    fs.train(run, teacher=teacher, out=folder, progress=False, device="cpu")
    for file in (folder / "checkpoints" / "step-6").iterdir():
        file.unlink()
    (folder / "checkpoints" / "step-6").rmdir()
    assert fs.load(folder).step == 5
    after = fs.train(run, teacher=teacher, out=folder, resume=True, progress=False, device="cpu")
    assert after.fingerprint == whole.fingerprint
    logs = [
        [json.loads(line) for line in (tmp_path / f / "metrics.jsonl").read_text().splitlines()]
        for f in ("whole", "parted")
    ]
    clocks = {"seconds", "samples_per_second"}
    without = [[{k: v for k, v in row.items() if k not in clocks} for row in rows] for rows in logs]
    assert without[0] == without[1]
    assert [row["step"] for row in logs[1]] == [1, 2, 3, 4, 5, 6]
