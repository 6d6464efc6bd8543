"""Properties of every network: true derivatives, rows that do not mix, labels that are names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fewstep.base.errors import UserError
from fewstep.base.randomness import generator


def alive(network: nn.Module, seed: int = 0, std: float = 0.3) -> nn.Module:
    """The network in float64 with new random parameters: zero initialisation hides mistakes."""
    source = generator(seed, "parameters")
    for p in network.parameters():
        p.data = std * torch.randn(p.shape, generator=source, dtype=torch.float64)
    return network.double()


def inputs(shape: tuple[int, ...], rows: int = 3) -> tuple[Tensor, Tensor]:
    source = generator(1, "inputs")
    return tuple(
        torch.randn(rows, *size, generator=source, dtype=torch.float64) for size in (shape, ())
    )


def has_true_derivatives(network: nn.Module, shape: tuple[int, ...], cond: Tensor | None) -> None:
    """The jvp in (x, noise label) by central differences, and the gradient of that jvp.

    With masks and without.
    """
    x, label = inputs(shape, 2)
    dx = torch.randn(x.shape, generator=generator(2, "tangents"), dtype=x.dtype)
    dlabel = torch.randn(label.shape, generator=generator(2, "tangents"), dtype=label.dtype)
    steps = (-1e-5, 1e-5)
    far = 1e-4
    weight = next(p for p in network.parameters() if p.ndim > 1)
    direction = torch.randn(weight.shape, generator=generator(3, "direction"), dtype=weight.dtype)
    for masks in (None, network.masks(2, [7])):

        def f(x, label, masks=masks):
            return network(x, label, cond, masks)

        out, slope = torch.func.jvp(f, (x, label), (dx, dlabel))
        # The two forms of attention agree.
        torch.testing.assert_close(out, f(x, label), rtol=1e-11, atol=1e-11)
        below, above = (f(x + h * dx, label + h * dlabel) for h in steps)
        scale = slope.abs().max().item()
        assert scale > 1e-3
        torch.testing.assert_close(slope, (above - below) / 2e-5, rtol=0, atol=1e-6 * scale)

        (gradient,) = torch.autograd.grad(slope.square().sum(), weight)
        with torch.no_grad():
            sides = []
            for h in (-far, far):
                weight += h * direction
                sides.append(torch.func.jvp(f, (x, label), (dx, dlabel))[1].square().sum())
                weight -= h * direction
        by_differences = (sides[1] - sides[0]) / (2 * far)
        along = (gradient * direction).sum()
        torch.testing.assert_close(along, by_differences, rtol=1e-4, atol=1e-8)


def rows_do_not_mix(network: nn.Module, shape: tuple[int, ...], cond: Tensor | None) -> None:
    """A batch with masks is its rows one by one; without masks, training equals evaluation."""
    x, label = inputs(shape)
    seeds = [5, 6, 7]
    whole = network(x, label, cond, network.masks(3, seeds))
    for i, seed in enumerate(seeds):
        one = None if cond is None else cond[i : i + 1]
        alone = network(x[i : i + 1], label[i : i + 1], one, network.masks(1, [seed]))
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-10, atol=1e-10)
    plain = network.train()(x, label, cond)
    assert torch.equal(plain, network.eval()(x, label, cond))
    assert (plain - whole).abs().max() > 1e-3
    sites = [part.site for part in network.modules() if hasattr(part, "site")]
    assert len(sites) == len(set(sites)) > 1


def labels_are_names(
    network: nn.Module, table: nn.Parameter, axis: int, shape: tuple[int, ...]
) -> None:
    """Renaming the classes changes nothing; label -1 uses no row; each class has its own effect."""
    x, label = inputs(shape)
    cond, order = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    plain, none = network(x, label, cond), network(x, label, torch.full((3,), -1))
    assert (plain - none).abs().amax(tuple(range(1, x.ndim))).min() > 1e-4
    assert (plain - network(x, label, order[cond])).abs().max() > 1e-4
    with torch.no_grad():
        table.copy_(table.index_select(axis, order.argsort()))
        torch.testing.assert_close(network(x, label, order[cond]), plain, rtol=1e-11, atol=1e-11)
        table.copy_(torch.randn(table.shape, generator=generator(4, "table"), dtype=table.dtype))
        torch.testing.assert_close(network(x, label, torch.full((3,), -1)), none, rtol=0, atol=0)
    some = network(x, label, torch.tensor([0, -1, 2]))
    torch.testing.assert_close(some[1], none[1], rtol=1e-11, atol=1e-11)


def conditions_must_fit(
    with_classes: nn.Module, without: nn.Module, shape: tuple[int, ...]
) -> None:
    x, label = inputs(shape)
    with pytest.raises(UserError, match=r"needs labels, integers 0\.\.2"):
        with_classes(x, label)
    with pytest.raises(UserError, match="takes no labels"):
        without(x, label, torch.zeros(3, dtype=torch.int64))


def low_precision_is_near(network: nn.Module, shape: tuple[int, ...], cond: Tensor | None) -> None:
    """bfloat16 weights and activations give the float64 output to a few percent."""
    x, label = inputs(shape)
    exact = network(x, label, cond)
    near = network.bfloat16()(x.bfloat16(), label.float(), cond)
    assert near.dtype == torch.bfloat16
    assert (near.double() - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()
