"""The convolutional U-Nets: derivatives, dropout, labels, precisions, sizes, weights, names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.networks.embedding import one_hot
from fewstep.networks.openai_weights import adm_options, from_openai, names, to_openai
from fewstep.networks.unet_blocks import Resample, down, up
from tests.support.network_properties import condition, is_its_transpose
from tests.support.toys import tiny_run

TINY = {"width": 8, "mult": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.3}
KINDS = {
    "ddpmpp": ("song_unet", {}),
    "ncsnpp": (
        "song_unet",
        {"embedding": "fourier", "encoder": "residual", "taps": (1, 3, 3, 1), "noise_mult": 2},
    ),
    "skips": ("song_unet", {"encoder": "skip", "decoder": "skip", "augment": 9}),
    "adm": ("adm_unet", {"head_channels": 4, "augment": 9}),
    "adm plain": ("adm_unet", {"heads": 2, "scale_shift": False, "resample": "conv", "group": 2}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def tiny(
    kind: str, classes: int = 0, shape: tuple[int, ...] = (2, 8, 8), **more: object
) -> nn.Module:
    """A float64 network for small images with weights that are all alive."""
    name, options = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(fs.networks, name)(shape, classes, **{**TINY, **options, **more})
        for p in network.parameters():
            p.data.add_(nn.init.normal_(torch.empty_like(p), std=0.1))
    return network.double()


def inputs(rows: int = 3, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(rows, channels, 8, 8, dtype=torch.float64, generator=source)
    return x, torch.linspace(-0.7, 0.6, rows, dtype=torch.float64)


def close(ours: torch.Tensor, reference: torch.Tensor, share: float) -> None:
    """Agreement up to a share of the largest entry."""
    torch.testing.assert_close(ours, reference, rtol=0, atol=share * reference.abs().max().item())


@every_kind
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_forward_derivatives_are_central_differences(kind, layout):
    """In (x, noise_label) together, under masks; the value beside it is the plain one."""
    network, (x, label), step = tiny(kind, 3, features=2), inputs(), 1e-5
    cond = condition((2, 8, 8))
    x = x.to(memory_format=layout)
    masks = network.masks(3, (7,))
    dx, dlabel = x.flip(0).cos(), torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)

    def f(x, label):
        return network(x, label, cond, masks)

    with torch.no_grad():
        value, tangent = torch.func.jvp(f, (x, label), (dx, dlabel))
        ahead, behind = (f(x + s * dx, label + s * dlabel) for s in (step, -step))
        close(tangent, (ahead - behind) / (2 * step), 1e-6)
        close(value, f(x, label), 1e-12)


@every_kind
def test_the_gradient_of_a_forward_derivative_is_its_difference_in_the_weights(kind):
    network, (x, label), step = tiny(kind, 3, features=2), inputs(2), 1e-5
    cond = condition((2, 8, 8), 2)
    weights = list(network.parameters())
    towards = [p.detach().cos() for p in weights]

    def f(x, label):
        return network(x, label, cond)

    def loss():
        tangent = torch.func.jvp(f, (x, label), (x.sin(), torch.ones_like(label)))[1]
        return tangent.square().sum()

    def loss_at(by):
        with torch.no_grad():
            torch._foreach_add_(weights, towards, alpha=by)
            value = loss().item()
            torch._foreach_add_(weights, towards, alpha=-by)
        return value

    # The weights of augment labels have no gradient.
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    slope = sum(
        (g * d).sum().item() for g, d in zip(gradients, towards, strict=True) if g is not None
    )
    assert slope == pytest.approx((loss_at(step) - loss_at(-step)) / (2 * step), rel=1e-5)


@every_kind
def test_a_batch_is_its_items_under_the_masks_of_each_block(kind):
    network, (x, label) = tiny(kind, classes=3), inputs(4)
    cond = torch.tensor([2, -1, 0, 1])
    with torch.no_grad():
        whole = network(x, label, cond, network.masks(4, (5, 6)))
        halves = [
            network(x[i : i + 2], label[i : i + 2], cond[i : i + 2], network.masks(2, (seed,)))
            for i, seed in ((0, 5), (2, 6))
        ]
        close(whole, torch.cat(halves), 1e-12)


@every_kind
def test_dropout_is_its_masks_alone(kind):
    network, (x, label) = tiny(kind), inputs()
    with torch.no_grad():
        calm = network.eval()(x, label)
        assert torch.equal(network.train()(x, label), calm)
        one, again, other = (
            network(x, label, None, network.masks(3, (seed,))) for seed in (1, 1, 2)
        )
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, rtol=1e-3)
    assert not torch.allclose(one, calm, rtol=1e-3)
    layers = [part.number for part in network.modules() if hasattr(part, "number")]
    assert len(layers) == len(set(layers)) >= 8
    assert tiny(kind, dropout=0.0).masks(3, (1,)) is None


@every_kind
def test_a_dropped_label_is_a_row_of_zeros(kind):
    """-1 gives what every label gives once the labels' weights are zero; other labels do not."""
    network, (x, label) = tiny(kind, classes=3), inputs()
    with torch.no_grad():
        without = network(x, label, torch.full((3,), -1))
        assert not torch.allclose(network(x, label, torch.tensor([0, 1, 2])), without, rtol=1e-3)
        network.map_label.weight.zero_()
        close(network(x, label, torch.tensor([0, 1, 2])), without, 1e-12)


@pytest.mark.parametrize("kind", ["skips", "adm"])
def test_augment_labels_add_to_the_features_and_none_are_zeros(kind):
    network, (x, label) = tiny(kind), inputs()
    with torch.no_grad():
        plain, zeros = network(x, label), network(x, label, {"augment": torch.zeros(3, 9)})
        assert torch.equal(plain, zeros)
        assert not torch.allclose(
            network(x, label, {"label": None, "augment": torch.ones(3, 9)}), plain, rtol=1e-3
        )


@every_kind
def test_precisions_agree(kind):
    network, (x, label) = tiny(kind), inputs()
    with torch.no_grad():
        exact = network(x, label)
        single = network.float()(x.float(), label.float())
        half = network.bfloat16()(x.bfloat16(), label.float())
        assert (single.dtype, half.dtype) == (torch.float32, torch.bfloat16)
        close(single.double(), exact, 1e-5)
        close(half.double(), exact, 0.1)


def test_fourier_frequencies_are_never_rounded():
    network = tiny("ncsnpp").float()
    frequencies = network.map_noise.freqs.clone()
    assert torch.equal(network.bfloat16().map_noise.freqs, frequencies)
    assert torch.equal(network.half().float().map_noise.freqs, frequencies)


PAPERS = {  # millions of weights, as the papers on EDM, ECT and ADM round them
    "ddpmpp": (55.7, "song_unet", (3, 32, 32), 0, {}),
    "ncsnpp": (56, "song_unet", (3, 32, 32), 0, KINDS["ncsnpp"][1]),
    "adm": (295.9, "adm_unet", (3, 64, 64), 1000, {}),
    "lsun": (
        552.8,
        "adm_unet",
        (3, 256, 256),
        0,
        {"width": 256, "mult": (1, 1, 2, 2, 4, 4), "blocks": 2},
    ),
}


@pytest.mark.parametrize("row", PAPERS)
def test_the_papers_networks_have_the_papers_sizes(row):
    millions, name, shape, classes, options = PAPERS[row]
    with torch.device("meta"):
        network = getattr(fs.networks, name)(shape, classes, **options)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


@every_kind
def test_a_transposed_picture_has_the_transposed_output(kind):
    """Resolutions go by the height: each network attends at its highest."""
    wide, tall = (
        tiny(kind, shape=shape, attention=(shape[1],), dropout_resolutions=(shape[1] // 2,))
        if KINDS[kind][0] == "song_unet"
        else tiny(kind, shape=shape, attention=(shape[1],))
        for shape in ((2, 4, 8), (2, 8, 4))
    )
    assert "4x8_block0" in wide.enc
    is_its_transpose(wide, tall, (2, 4, 8))


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    mult=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    blocks=st.integers(1, 2),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_every_size_fits_or_is_refused_in_one_line(height, width, mult, blocks, kind):
    name, options = KINDS[kind]
    options = {
        **TINY,
        **options,
        "mult": tuple(mult),
        "blocks": blocks,
        "attention": (height, height // 2),
    }
    options |= {"group": 4} if name == "adm_unet" else {}
    with torch.device("meta"):
        factor = 2 ** (len(mult) - 1)
        if height % factor or width % factor:
            need = f"divisible by {factor} for .*: dit takes any"
            with pytest.raises(UserError, match=need) as error:
                getattr(fs.networks, name)((1, height, width), **options)
            assert "\n" not in str(error.value)
        else:
            x = torch.empty(2, 1, height, width)
            network = getattr(fs.networks, name)((1, height, width), **options)
            assert network(x, torch.empty(2)).shape == x.shape


REFUSED = {
    "shape": ("song_unet", (3, 8), {}),
    "width": ("song_unet", (3, 8, 8), {"width": 6}),
    "groups": ("adm_unet", (3, 8, 8), {"width": 132}),
    "mult": ("adm_unet", (3, 8, 8), {"mult": ()}),
    "taps": ("song_unet", (3, 8, 8), {"taps": (1, 2, 1)}),
    "blocks": ("adm_unet", (3, 8, 8), {"blocks": 0}),
    "dropout": ("song_unet", (3, 8, 8), {"dropout": 1.0}),
    "heads": ("adm_unet", (3, 8, 8), {"heads": 3}),
    "level_blocks": ("song_unet", (3, 8, 8), {"level_blocks": (1, 1, 1)}),
    "at least 1 block": ("song_unet", (3, 8, 8), {"level_blocks": (1, 0)}),
    "fourier_scale": ("song_unet", (3, 8, 8), {"fourier_scale": 0.0}),
}


@pytest.mark.parametrize("word", REFUSED)
def test_options_that_cannot_be_are_one_line(word):
    name, shape, options = REFUSED[word]
    with pytest.raises(UserError, match=word) as error:
        getattr(fs.networks, name)(shape, **{**TINY, **options})
    assert "\n" not in str(error.value)


@every_kind
def test_conditions_that_do_not_fit_are_one_line(kind):
    x, label = inputs()
    with pytest.raises(UserError, match=r"needs labels, integers 0\.\.2 or -1"):
        tiny(kind, classes=3)(x, label)
    with pytest.raises(UserError, match="takes no labels"):
        tiny(kind)(x, label, torch.zeros(3, dtype=torch.int64))
    if "augment" not in KINDS[kind][1]:
        with pytest.raises(UserError, match="got augment"):
            tiny(kind)(x, label, {"augment": torch.zeros(3, 9)})


def test_resampling_is_pooling_and_repeating_and_one_is_the_others_adjoint():
    x, small = inputs()[0], inputs()[0][..., :4, :4]
    close(Resample(down, (1, 1)).double()(x), avg_pool2d(x, 2), 1e-12)
    close(Resample(up, (1, 1)).double()(x), interpolate(x, scale_factor=2), 1e-12)
    for taps in ((1, 1), (1, 3, 3, 1), (1, 2)):
        lower, higher = Resample(down, taps).double(), Resample(up, taps).double()
        assert (4 * lower(x) * small).sum().item() == pytest.approx(
            (x * higher(small)).sum().item(), rel=1e-9
        )


def test_song_starts_as_edm_does():
    torch.manual_seed(0)
    network = fs.networks.song_unet(
        (3, 8, 8), 5, **{**TINY, "width": 32, "embedding": "fourier", "noise_mult": 4}
    )
    block = network.enc["4x4_block0"]
    for weight, gain in (
        (block.conv0.weight, 1),
        (block.qkv.weight, 0.2**0.5),
        (block.conv1.weight, 1e-5),
    ):
        area = weight[0, 0].numel()
        bound = gain * (6 / (area * (weight.shape[0] + weight.shape[1]))) ** 0.5
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    assert network.map_noise.freqs.std().item() == pytest.approx(16, rel=0.25)
    gentle = fs.networks.song_unet(
        (3, 8, 8), **{**TINY, "embedding": "fourier", "noise_mult": 16, "fourier_scale": 0.02}
    )
    assert gentle.map_noise.freqs.std().item() == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "skips"])
def test_blocks_by_level(kind):
    """The same number at each level is that network; others have their own number, and run."""
    plain, same, other = (
        tiny(kind, **more) for more in ({}, {"level_blocks": (1, 1)}, {"level_blocks": (2, 1)})
    )
    x, label = inputs()
    assert torch.equal(plain(x, label), same(x, label))
    extra = {name for name, _ in other.named_modules()} - {
        name for name, _ in plain.named_modules()
    }
    assert {name for name in extra if name.count(".") == 1} == {"enc.8x8_block1", "dec.8x8_block2"}
    assert not torch.equal(other(x, label), plain(x, label))


def test_dropout_by_resolution():
    """Masks act in the blocks of the resolutions named, and there as they do where all are."""
    x, label = inputs()
    outputs = {}
    for sides in ((), (4,), (8,), (8, 4), None):
        network = tiny("ddpmpp", dropout_resolutions=sides)
        outputs[sides] = network(x, label, None, network.masks(3, (7,)))
    assert torch.equal(outputs[()], network(x, label))
    assert torch.equal(outputs[8, 4], outputs[None])
    assert len({outputs[sides].sum().item() for sides in ((), (4,), (8,), None)}) == 4


def test_adm_starts_as_edm_does():
    torch.manual_seed(0)
    network = fs.networks.adm_unet(
        (3, 8, 8), 50, **{**TINY, "width": 32, "head_channels": 8, "augment": 9}
    )
    block = network.enc["4x4_block0"]
    for part in (block.conv0, block.qkv, network.map_layer1, block.skip):
        bound = part.weight[0].numel() ** -0.5
        assert 0.98 * bound < part.weight.abs().max() <= bound
        assert 0 < part.bias.abs().max() <= bound
    assert network.map_label.weight.std().item() == pytest.approx(1, rel=0.05)
    assert not network.map_augment.weight.any()
    x, label = inputs(channels=3)
    assert not network(x.float(), label.float(), torch.tensor([0, 1, 2])).any()


def test_openai_names_where_convolutions_resample():
    """Their layout: an attention stands behind its residual block, and an `up` behind both."""
    shape, _, options = adm_options(
        {
            "image_size": 8,
            "num_channels": 32,
            "num_res_blocks": 1,
            "channel_mult": "1,2",
            "attention_resolutions": "4",
        }
    )
    network = fs.networks.adm_unet(shape, 10, **options)
    theirs = set(names(network).values())
    assert {
        "input_blocks.2.0.op.weight",
        "output_blocks.1.2.conv.weight",
        "input_blocks.3.1.qkv.weight",
    } <= theirs
    assert {
        "label_emb.weight",
        "middle_block.1.norm.weight",
        "middle_block.2.in_layers.0.bias",
    } <= theirs
    weights = network.state_dict()
    export = to_openai(network, weights)
    assert export["label_emb.weight"].shape == (10, 128)
    back = from_openai(network, export)
    assert all(torch.equal(back[name], value) for name, value in weights.items())
    assert back.keys() == weights.keys()
    del export["out.0.bias"]
    with pytest.raises(UserError, match=r"the first is out\.0\.bias"):
        from_openai(network, export)


def test_a_run_trains_one_and_samples_it():
    network_options = {
        "width": 8,
        "mult": [1, 2],
        "blocks": 1,
        "attention": [],
        "taps": [1, 1],
        "augment": 0,
    }
    run = tiny_run(network="song_unet", network_options=network_options, iterations=2, batch=8)
    x0 = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = fs.train(run, data={"x0": x0 * 2 - 1, "cond": torch.arange(16) % 2}, progress=False)
    first = generator.sample(2, steps=1, seed=0, cond=torch.tensor([0, 1]))
    assert torch.isfinite(first).all()
    assert torch.equal(first, generator.sample(2, steps=1, seed=0, cond=torch.tensor([0, 1])))


def test_labels_beyond_the_classes_are_refused_and_minus_one_is_none():
    assert torch.equal(
        one_hot(torch.tensor([-1, 0, 2]), 3, torch.float32), torch.eye(4)[[3, 0, 2], :3]
    )
    with pytest.raises(IndexError):
        one_hot(torch.tensor([3]), 3, torch.float32)
