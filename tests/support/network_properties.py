"""Properties of every network: true derivatives, rows that do not mix, labels that are names.

A condition is what a network takes: labels, or `condition`'s labels, features and mask.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond, each, mask_of
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


def condition(shape: tuple[int, ...], rows: int = 3) -> dict[str, Tensor]:
    """Labels of 3 classes, 2 features, and a mask that is the same for all channels."""
    source = generator(5, "condition")
    mask = torch.rand(rows, 1, *shape[1:], generator=source) < 0.7
    mask.flatten(1)[:, 0] = True
    return {
        "label": torch.tensor([1, -1, 0])[:rows],
        "features": torch.randn(rows, 2, generator=source, dtype=torch.float64),
        "mask": mask,
    }


def has_true_derivatives(network: nn.Module, shape: tuple[int, ...], cond: Cond) -> None:
    """The jvp in (x, noise label) by central differences, and the gradient of that jvp.

    With dropout, and without it and the condition's mask.
    """
    x, label = inputs(shape, 2)
    dx = torch.randn(x.shape, generator=generator(2, "tangents"), dtype=x.dtype)
    dlabel = torch.randn(label.shape, generator=generator(2, "tangents"), dtype=label.dtype)
    step = 3e-6
    far = 1e-4
    weight = next(p for p in network.parameters() if p.ndim > 1)
    direction = torch.randn(weight.shape, generator=generator(3, "direction"), dtype=weight.dtype)
    whole = {**cond, "mask": None} if isinstance(cond, dict) else cond
    for masks, given in ((None, whole), (network.masks(2, [7]), cond)):

        def f(x, label, masks=masks, given=given):
            return network(x, label, given, masks)

        out, slope = torch.func.jvp(f, (x, label), (dx, dlabel))
        # The two forms of attention agree.
        torch.testing.assert_close(out, f(x, label), rtol=1e-11, atol=1e-11)
        below, above = (f(x + h * dx, label + h * dlabel) for h in (-step, step))
        scale = slope.abs().max().item()
        assert scale > 1e-3
        torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=0, atol=1e-6 * scale)

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


def rows_do_not_mix(network: nn.Module, shape: tuple[int, ...], cond: Cond) -> None:
    """A batch with masks is its rows one by one; without masks, training equals evaluation."""
    x, label = inputs(shape)
    seeds = [5, 6, 7]
    whole = network(x, label, cond, network.masks(3, seeds))
    for i, seed in enumerate(seeds):
        one = each(lambda part, i=i: part[i : i + 1], cond)
        alone = network(x[i : i + 1], label[i : i + 1], one, network.masks(1, [seed]))
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-10, atol=1e-10)
    plain = network.train()(x, label, cond)
    assert torch.equal(plain, network.eval()(x, label, cond))
    assert (plain - whole).abs().max() > 1e-3
    names = ("site", "number")
    sites = [getattr(m, name) for m in network.modules() for name in names if hasattr(m, name)]
    assert len(sites) == len(set(sites)) > 1


def is_its_transpose(wide: nn.Module, tall: nn.Module, shape: tuple[int, ...]) -> None:
    """Of convolutions: transposed weights give the transposed output of the transposed input.

    wide, tall: for `shape` and for its transpose.
    """
    x, label = inputs(shape)
    weights = zip(tall.state_dict(), wide.state_dict().values(), strict=True)
    tall.load_state_dict({name: w.mT if w.ndim == 4 else w for name, w in weights})
    out = wide(x, label)
    torch.testing.assert_close(tall(x.mT, label), out.mT, rtol=1e-10, atol=1e-10)
    assert out.std() > 1e-3


def features_reach_their_rows(
    network: nn.Module, shape: tuple[int, ...], cond: dict[str, Tensor]
) -> None:
    """Other features change their own row alone; another number of them is refused."""
    x, label = inputs(shape)
    other = cond["features"].clone()
    other[1, 1] += 1
    change = network(x, label, {**cond, "features": other}) - network(x, label, cond)
    assert change[1].abs().max() > 1e-3
    torch.testing.assert_close(change[[0, 2]], torch.zeros_like(x[:2]), rtol=0, atol=1e-11)
    for bad, given in ((None, "none"), (other[:, :1], "1")):
        with pytest.raises(UserError, match=f"needs 2 features a sample: got {given}"):
            network(x, label, {**cond, "features": bad})
    with pytest.raises(UserError, match="takes label, features, mask of a condition: got text"):
        network(x, label, {**cond, "text": other})


def masked_elements_have_no_influence(
    network: nn.Module, shape: tuple[int, ...], cond: dict[str, Tensor]
) -> None:
    """Whatever stands where the mask is False, values and derivatives are the same to the bit."""
    x, label = inputs(shape)
    mask = mask_of(x, cond).expand_as(x)
    out = network(x, label, cond)
    for junk in (0.0, 1e9, torch.nan):
        assert torch.equal(network(x.masked_fill(~mask, junk), label, cond), out)
    ones = torch.ones_like(x).masked_fill(mask, 0)
    _, slope = torch.func.jvp(lambda x: network(x, label, cond), (x,), (ones,))
    assert not slope.any()

    # The mask's axes broadcast from the left, and one that is True everywhere is as good as none.
    assert torch.equal(network(x, label, {**cond, "mask": mask}), out)
    whole, none = (
        network(x, label, {**cond, "mask": one}) for one in (torch.ones(3, 1).bool(), None)
    )
    torch.testing.assert_close(whole, none, rtol=1e-11, atol=1e-11)
    assert (out - none)[mask].abs().max() > 1e-3


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


def low_precision_is_near(network: nn.Module, shape: tuple[int, ...], cond: Cond) -> None:
    """bfloat16 weights and activations give the float64 output to a few percent."""
    x, label = inputs(shape)
    exact = network(x, label, cond)
    near = network.bfloat16()(x.bfloat16(), label.float(), cond)
    assert near.dtype == torch.bfloat16
    assert (near.double() - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()
