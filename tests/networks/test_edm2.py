"""EDM2's U-Net: the reference's numbers, and what preserving magnitudes means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import fork_rng, generator
from fewstep.networks._edm2_unet import Block
from fewstep.networks.edm2_layers import MPConv, Uncertainty, mp_cat, mp_silu, mp_sum
from tests.support.network_properties import (
    alive,
    conditions_must_fit,
    inputs,
    is_its_transpose,
    labels_are_names,
)

SMALL = {"width": 16, "mult": (1, 2), "blocks": 1, "attention": (4,), "head_channels": 16}
SHAPE = (2, 8, 8)


def small(classes: int = 3, shape: tuple[int, ...] = SHAPE, **options: object) -> nn.Module:
    with fork_rng(0, "small"):  # its frequencies are random too
        network = fs.networks.edm2_unet(shape, classes, **{**SMALL, **options})
    return alive(network, std=1.0)


def fresh() -> nn.Module:
    with fork_rng(0, "parameters"):
        return fs.networks.edm2_unet((3, 16, 16), 3, **{**SMALL, "width": 32, "attention": (8,)})


def weights_of(network: nn.Module) -> list[torch.Tensor]:
    return [part.weight for part in network.modules() if isinstance(part, MPConv)]


def test_the_defaults_are_edm2_s():
    with torch.device("meta"):
        network = fs.networks.edm2_unet((3, 64, 64), 1000)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(280e6, rel=0.01)


def test_labels():
    network = small()
    labels_are_names(network, network.emb_label.weight, 1, SHAPE)
    conditions_must_fit(network, small(0), SHAPE)


def test_sums_and_concatenations_keep_unit_magnitude():
    a, b = (
        torch.randn(40, n, 200, generator=generator(n, "mp"), dtype=torch.float64) for n in (8, 24)
    )

    def rms(x):
        return x.square().mean().sqrt().item()

    for t in (0.0, 0.3, 0.5, 1.0):
        assert rms(mp_sum(a, b[:, :8], t)) == pytest.approx(1, abs=0.02)
        both = mp_cat(a, b, t)
        assert rms(both) == pytest.approx(1, abs=0.02)
        shares = [part.square().sum().item() for part in both.split([8, 24], 1)]
        assert shares[1] / sum(shares) == pytest.approx(t**2 / (t**2 + (1 - t) ** 2), abs=0.02)
    assert rms(mp_silu(a)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("gain", [0.0, 0.7])
def test_unit_in_is_unit_everywhere(gain):
    """Every block of a fresh network keeps its input's magnitude; the gain adds its own square."""
    network, record = fresh(), {}
    with torch.no_grad():
        network.out_gain.fill_(1.0)
        for name, block in network.named_modules():
            if isinstance(block, Block):
                block.emb_gain.fill_(gain)
                block.register_forward_hook(
                    lambda _m, _i, out, name=name: record.setdefault(name, out)
                )
        x, label = (part.float() for part in inputs((3, 16, 16), 8))
        record["out"] = network(x, label, torch.arange(8) % 3)
    assert len(record) == 1 + sum(isinstance(part, Block) for part in network.modules())
    for name, h in record.items():
        assert h.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.25), name


def test_activations_are_clipped():
    network, record = small(clip=0.5), []
    for part in network.modules():
        if isinstance(part, Block):
            part.register_forward_hook(lambda _m, _i, out: record.append(out.abs().max().item()))
    network(*inputs(SHAPE), torch.tensor([0, 1, 2]))
    assert set(record) == {0.5}


def test_a_pass_changes_no_weight():
    network = small().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(*inputs(SHAPE), torch.tensor([0, 1, 2])).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_length_of_a_weight_changes_nothing():
    """f(c w) = f(w) but for the norm's 1e-4; gradients are orthogonal to each output's weight."""
    network, x = small(), inputs(SHAPE)
    cond = torch.tensor([0, 1, 2])
    before = network(*x, cond)
    before.square().sum().backward()
    for w in weights_of(network):
        w, slope = w.detach().flatten(1), w.grad.flatten(1)
        assert slope.abs().max() > 0
        assert ((w * slope).sum(1).abs() < 1e-3 * w.norm(dim=1) * slope.norm(dim=1) + 1e-12).all()
    with torch.no_grad():
        for number, w in enumerate(weights_of(network)):
            w *= 1.5 + number % 3
    torch.testing.assert_close(
        network(*x, cond), before, rtol=0, atol=2e-3 * before.abs().max().item()
    )


def test_normalise_makes_unit_weights_and_changes_no_output():
    """Up to the 1e-4 in the norm in the first call, up to its square from the second on."""
    network, head, x = small(), alive(Uncertainty(8), std=3.0), inputs(SHAPE)
    cond = torch.tensor([0, 1, 2])
    outputs, weights = [], []
    for _ in range(4):
        outputs.append((network(*x, cond), head(x[1])))
        weights.append([w.detach().clone() for w in weights_of(network) + weights_of(head)])
        network.normalise_()
        head.normalise_()
    for first, second, third, fourth in zip(*weights, strict=True):
        rms = second.flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(rms, torch.ones_like(rms), rtol=0, atol=1e-3)
        assert not torch.allclose(first, second, rtol=1e-3)
        torch.testing.assert_close(third, fourth, rtol=1e-7, atol=0)
    for one, two, three, four in zip(*outputs, strict=True):
        for before, after, near in ((one, two, 2e-3), (two, three, 2e-3), (three, four, 1e-6)):
            torch.testing.assert_close(before, after, rtol=0, atol=near * before.abs().max().item())
    assert all(w.requires_grad for w in weights_of(network))


def test_dropout_is_kept_to_its_resolutions():
    x, cond = inputs(SHAPE), torch.tensor([0, 1, 2])
    record = {}
    for where in (None, (), (4,), (8,), (4, 8)):
        network = small(dropout=0.4, dropout_resolutions=where)
        record[where] = network(*x, cond, network.masks(3, [1]))
    assert torch.equal(record[()], network(*x, cond))
    assert torch.equal(record[None], record[4, 8])
    distinct = [record[key] for key in ((), (4,), (8,), (4, 8))]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(distinct) for b in distinct[:i])


def test_a_masked_border_is_the_outside_of_the_picture():
    """The first convolution sees there what it sees beyond the border: nothing, not even ones."""
    whole, part = small(0), small(0, (2, 4, 8))
    x, mask, seen = inputs(SHAPE)[0], torch.zeros(3, 1, 8, dtype=torch.bool), []
    mask[:, :, :4] = True
    for network in (whole, part):
        first = next(iter(network.enc.values()))
        first.register_forward_hook(lambda _m, _i, out: seen.append(out))
    whole(x, inputs(SHAPE)[1], {"mask": mask})
    part(x[:, :, :4], inputs(SHAPE)[1])
    torch.testing.assert_close(seen[0][:, :, :4], seen[1], rtol=1e-11, atol=1e-11)


def test_a_transposed_picture_has_the_transposed_output():
    wide, tall = (small(0, shape, attention=(shape[1],)) for shape in ((2, 4, 8), (2, 8, 4)))
    tall.emb_fourier.load_state_dict(wide.emb_fourier.state_dict())
    is_its_transpose(wide, tall, (2, 4, 8))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2,), {}, r"shape = \(2,\): expected \(channels, height, width\)"),
        ((1, 9, 8), {}, "divisible by 2"),
        (SHAPE, {"mult": ()}, "mult"),
        (SHAPE, {"blocks": 0}, "blocks = 0"),
        (SHAPE, {"dropout": 1.0}, "dropout = 1.0"),
        (SHAPE, {"head_channels": 10}, "head_channels = 10"),
    ],
)
def test_mistakes_are_told(shape, options, message):
    with pytest.raises(UserError, match=message):
        small(shape=shape, **options)
