"""The floor of a step makes its own passes: the same rows, dropout, derivatives, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fewstep as fs
from fewstep import networks
from fewstep.bench.passes import record, repeat
from fewstep.core import derivatives
from fewstep.core.denoiser import Models, Preconditioned
from fewstep.core.method import Method


def a_student(ends: int = 0, dropout: float = 0.3) -> Preconditioned:
    torch.manual_seed(0)
    network = networks.mlp((6,), width=16, depth=2, dropout=dropout, ends=ends)
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return Preconditioned(network, fs.scalings.Edm())


def a_loss(method: Method, student: Preconditioned) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    x0, z = torch.randn(2, 32, 6, generator=source)
    times = method.times(torch.rand(32, method.uniforms, generator=source).double(), 0.5)
    models = Models(student=student, ema=student)
    return method.loss(models, x0, z, times, None, [3, 4])


def test_what_is_repeated_is_what_was_passed() -> None:
    """In value: the outputs of the repeated passes are those of the loss, under the same masks."""
    student = a_student()
    outputs: list[torch.Tensor] = []
    handle = student.network.register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    with record({"student": student.network}) as passes:
        a_loss(fs.methods.ect(), student)
    assert [(one.rows, one.learns) for one in passes] == [(32, False), (32, True)]
    before = [*outputs]
    outputs.clear()
    live: list[torch.Tensor] = []
    student.network.register_forward_hook(lambda *call: live.append(call[2]))
    repeat(passes, {"student": student.network})
    handle.remove()
    assert all(map(torch.equal, before, outputs))
    assert len(before) == len(outputs) == 2
    assert [one.grad_fn is not None for one in live] == [False, True]
    assert all(p.grad is not None for p in student.network.parameters())


def test_masks_are_drawn_anew_once_for_passes_that_share_them(monkeypatch: Any) -> None:
    """As in a step: of ECT's two passes the second takes the first one's masks."""
    student = a_student()
    with record({"student": student.network}) as passes:
        a_loss(fs.methods.ect(), student)
    masks = type(passes[0].arguments[0][3])
    own, drawn = masks._all, []
    monkeypatch.setattr(masks, "_all", lambda *a: drawn.append(a[1]) or own(*a))
    for _ in range(2):
        drawn.clear()
        repeat(passes, {"student": student.network})
        assert len(drawn) == len(set(drawn)) > 0


@pytest.mark.parametrize("engine", ["jvp", "difference"])
def test_a_derivative_is_repeated_as_one(engine: str, monkeypatch: Any) -> None:
    """A jvp by a jvp along the same direction; a difference by its two sides in one batch."""
    student = a_student(ends=1, dropout=0.0)
    slopes: list[torch.Tensor] = []
    own = torch.func.jvp

    def watched(*arguments: Any, **options: Any) -> Any:
        result = own(*arguments, **options)
        slopes.append(result[1].detach())
        return result

    monkeypatch.setattr(torch.func, "jvp", watched)
    with record({"student": student.network}) as passes:
        a_loss(fs.methods.meanflow(derivative=engine), student)
    monkeypatch.setattr(torch.func, "jvp", own)
    derived = [one for one in passes if one.tangents is not None]
    learning = [one.rows for one in passes if one.learns]
    assert learning == [32]
    if engine == "difference":
        assert derived == []
        (sides,) = [one.rows for one in passes if not one.learns]
        assert sides % 2 == 0
        assert sides < 64
        return
    (one,) = derived
    repeated: list[torch.Tensor] = []
    monkeypatch.setattr(torch.func, "jvp", lambda *a: repeated.append(own(*a)[1]) or own(*a))
    repeat(passes, {"student": student.network})
    # The network's own derivative along the step's direction, by differences.
    label, dlabel = one.arguments[0][1], one.tangents[0][1]
    x, dx = one.arguments[0][0], one.tangents[0][0]
    kwargs, dkwargs = one.arguments[1], one.tangents[1]
    h = derivatives.step_of(torch.float32)

    def side(sign: int) -> torch.Tensor:
        end = kwargs["end"] + sign * h * dkwargs["end"]
        return student.network(x + sign * h * dx, label + sign * h * dlabel, None, end=end)

    with torch.no_grad():
        slope = (side(1) - side(-1)) / (2 * h)
    assert derivatives.relative(repeated[0], slope) < 1e-2
    assert len(slopes) == len(repeated) == 1


def test_a_pass_in_low_precision_is_repeated_in_it() -> None:
    student = a_student(dropout=0.0)
    with record({"student": student.network}) as passes:
        with torch.autocast("cpu", torch.bfloat16):
            student(torch.randn(2, 6), torch.tensor(1.0))
        student(torch.randn(2, 6), torch.tensor(1.0))
    assert [one.autocast for one in passes] == [torch.bfloat16, None]
    kinds = []
    student.network.register_forward_hook(lambda *call: kinds.append(call[2].dtype))
    repeat(passes, {"student": student.network})
    assert kinds == [torch.bfloat16, torch.float32]
