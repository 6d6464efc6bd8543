"""Checkpoints of other projects give the numbers of their own code: built here, never executed."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core import scalings
from fewstep.core.denoiser import Preconditioned
from fewstep.foreign.edm import network_for
from fewstep.foreign.reading import read_foreign
from fewstep.foreign.recognised import Recognised, Said
from fewstep.foreign.recognition import complete, outline_of, recognise
from fewstep.foreign.snapshots import reconstruct
from fewstep.networks.openai_weights import to_openai
from tests.support.agree_unets import labels_of
from tests.support.cases import Case
from tests.support.persistence import dump, module

CASES = Path(__file__).parents[1] / "conformance"
BUFFERS = ("resample_filter", "freqs", "phases", "u")
EDM = ("edm_songunet_ddpmpp", "edm_songunet_ncsnpp_cond", "edm_dhariwal_cond")


def case_of(name: str) -> Case:
    return Case.read(CASES / f"{name}.json")


def wrap(case: Case, name: str, **options: Any) -> Any:
    """The case's network as NVIDIA pickles it."""
    return module(name, case.weights, BUFFERS, **{**case.about["config"], **options})


def written(path: Path, value: Any, how: str = "pickle") -> Path:
    path.write_bytes(dump(value, how))
    return path


def denoiser_of(one: Recognised) -> Preconditioned:
    network = getattr(fs.networks, one.network)(one.shape, one.classes, **one.network_options)
    network.load_state_dict(one.weights)
    return Preconditioned(network.eval(), one.convention)


def agree(case: Case, one: Recognised) -> None:
    with torch.no_grad():
        ours = denoiser_of(one)(case["x"], case["sigma"].double(), labels_of(case))
    torch.testing.assert_close(ours, case["D"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "how"), [(EDM[0], "pickle"), (EDM[1], "zip"), (EDM[2], "old"), (EDM[2], "pickle")]
)
def test_edm_snapshots_in_every_format(tmp_path, name, how):
    case = case_of(name)
    path = written(tmp_path / "x.pkl", {"ema": wrap(case, "EDMPrecond"), "augment_pipe": None}, how)
    tree = read_foreign(path)
    assert any(one.endswith("_reconstruct_persistent_obj") for one in tree.names)
    one = recognise(tree)
    agree(case, one)
    assert (one.is_student, one.shift, one.convention.prediction) == (False, 0.0, "edm")
    assert "EDMPrecond" in one.kind


@pytest.mark.parametrize("name", EDM)
def test_a_state_dict_of_edm_tells_its_network(tmp_path, name):
    """What ECT, TCM and GC store: names and shapes alone."""
    case = case_of(name)
    path = tmp_path / "model.pth"
    torch.save({f"module.{key}": one for key, one in case.weights.items()}, path)
    tree = read_foreign(path)
    with pytest.raises(UserError, match="--is-student"):
        recognise(tree)
    one = recognise(tree, Said(is_student=False))
    agree(case, one)
    # The same as from the arguments, but for what leaves no trace.
    told = recognise(read_foreign(written(tmp_path / "x.pkl", wrap(case, "EDMPrecond"))))
    unlike = {k for k, v in told.network_options.items() if one.network_options[k] != v}
    assert unlike <= {"dropout"}
    assert one.shape == told.shape
    assert one.classes == told.classes


def test_edm2_in_half_precision(tmp_path):
    case = case_of("edm2_unet_cond")
    half = {name: one.half() for name, one in case.weights.items()}
    value = module("Precond", half, BUFFERS, **case.about["config"])
    one = recognise(read_foreign(written(tmp_path / "x.pkl", {"ema": value})))
    assert {w.dtype for w in one.weights.values()} == {torch.float32}
    assert "logvar_linear.weight" in one.left_out
    reference = replace(one, weights={n: case.weights[f"unet.{n}"] for n in one.weights})
    for name, weight in one.weights.items():
        torch.testing.assert_close(weight, case.weights[f"unet.{name}"].half().float())
    agree(case, reference)
    # Without arguments the widths' common divisor stands for the width: the function is the same.
    save_file(case.weights, tmp_path / "x.safetensors")
    bare = recognise(
        read_foreign(tmp_path / "x.safetensors"), Said(network_options={"head_channels": 16})
    )
    agree(case, bare)


def test_a_snapshot_of_another_average_is_a_sum(tmp_path):
    case = case_of("edm2_unet_cond")
    for number, std in ((1, "0.050"), (1, "0.100"), (2, "0.050"), (2, "0.100"), (3, "0.050")):
        factor = float(number) + float(std)
        weights = {
            n: w if n.endswith(("freqs", "phases")) else w * factor for n, w in case.weights.items()
        }
        value = {"ema": module("Precond", weights, BUFFERS, **case.about["config"])}
        written(tmp_path / f"network-snapshot-{number:07d}-{std}.pkl", value)

    def shares(times, deviations, time, std):
        assert list(zip(times, deviations, strict=True)) == [
            (1, 0.05),
            (1, 0.1),
            (2, 0.05),
            (2, 0.1),
        ]
        assert (time, std) == (2, 0.07)
        return [0.1, 0.2, 0.3, 0.4]

    one = reconstruct(tmp_path, 0.07, shares, kimg=2)
    factor = 0.1 * 1.05 + 0.2 * 1.1 + 0.3 * 2.05 + 0.4 * 2.1
    name = "enc.16x16_conv.weight"
    torch.testing.assert_close(one.weights[name], case.weights[f"unet.{name}"] * factor)
    freqs = case.weights["unet.emb_fourier.freqs"]
    assert torch.equal(one.weights["emb_fourier.freqs"], freqs)
    with pytest.raises(UserError, match="kimg = 7"):
        reconstruct(tmp_path, 0.07, shares, kimg=7)


def scalars(case: Case, one: Recognised, sigma: Tensor) -> list[Tensor]:
    return list(one.convention(fs.process.edm(), sigma.double()))


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_the_wrappers_of_ddpmpp_and_ncsnpp(tmp_path, kind):
    case, reference = case_of(EDM[0]), case_of(f"edm_precond_{kind}")
    value = wrap(case, f"{kind.upper()}Precond")
    one = recognise(read_foreign(written(tmp_path / "x.pkl", {"ema": value})))
    assert one.convention.prediction == kind
    found = dict(
        zip(("skip", "out", "in", "noise"), scalars(case, one, reference["sigma"]), strict=True)
    )
    for name, ours in found.items():
        truth = reference[f"c_{name}"]
        torch.testing.assert_close(ours.to(truth.dtype), truth, rtol=2e-5, atol=2e-3)


def test_iddpm_is_noise_prediction_on_its_own_table(tmp_path):
    """Its table has labels M - 1 - j at the levels u_j; the variance's channels are left out."""
    case = case_of(EDM[2])
    m, levels = 50, [0.0]
    power = [torch.tensor(0.5 * torch.pi * j / m / 1.008).sin().item() ** 2 for j in range(m + 1)]
    for j in range(m, 0, -1):
        levels.append(((levels[-1] ** 2 + 1) / max(power[j - 1] / power[j], 0.001) - 1) ** 0.5)
    u = torch.tensor(levels[::-1])
    weights = dict(case.weights)
    for name in ("model.out_conv.weight", "model.out_conv.bias"):
        weights[name] = torch.cat([weights[name], torch.full_like(weights[name], 7.0)])
    value = module("iDDPMPrecond", {**weights, "u": u}, BUFFERS, **case.about["config"], M=m)
    one = recognise(read_foreign(written(tmp_path / "x.pkl", {"ema": value})))
    assert torch.equal(one.weights["out_conv.bias"], case.weights["model.out_conv.bias"])
    for j in (0, 7, m - 1):
        c = one.convention(fs.process.edm(), u[j : j + 1].double())
        s = u[j].double()
        torch.testing.assert_close(
            torch.stack(list(c))[:, 0],
            torch.stack(
                [torch.ones_like(s), -s, 1 / (s**2 + 1).sqrt(), torch.full_like(s, m - 1 - j)]
            ),
            rtol=1e-5,
            atol=1e-4,
        )


def test_consistency_models_of_nvidia_and_gc(tmp_path):
    case = case_of(EDM[2])
    ect = recognise(read_foreign(written(tmp_path / "a.pkl", {"ema": wrap(case, "ECMPrecond")})))
    assert (ect.is_student, ect.shift) == (True, 0.0)
    state = {"net": wrap(case, "ECMPrecond"), "optimizer_state": {"state": {0: {"step": 3}}}}
    assert recognise(read_foreign(written(tmp_path / "b.pt", state, "zip"))).is_student
    agree(case, ect)
    # GC stores an average beside its network, in one state dict.
    ema = {
        f"{who}.module.{n}": w
        for who in ("ema_model", "online_model")
        for n, w in case.weights.items()
    }
    path = tmp_path / "best_model.pt"
    torch.save(
        {"model_state_dict": dict(case.weights), "model_ema_state_dict": ema, "training_step": 7},
        path,
    )
    gc = recognise(read_foreign(path))
    assert (gc.is_student, gc.shift) == (True, 0.002)
    assert gc.left_out == ("online_model.*",)
    reference = case_of("gc_precond")
    for rescaling, file in ((False, "gc_precond"), (True, "gc_precond_song")):
        reference = case_of(file)
        value = wrap(case, "ConsistencyPrecond", sigma_min=0.002, song_rescaling=rescaling)
        options = {**case.about["config"], "model_type": "DhariwalUNet"}
        value.meta["state"]["_init_kwargs"] |= options
        one = recognise(read_foreign(written(tmp_path / "c.pkl", {"ema": value})))
        ours = scalings.Edm(sigma_data=one.convention.sigma_data, shift=one.shift)
        c = ours(fs.process.edm(), reference["sigma"].double())
        label = one.convention(fs.process.edm(), reference["sigma"].double()).noise
        for key, value in (("skip", c.skip), ("out", c.out), ("in", c.in_), ("noise", label)):
            truth = reference[f"c_{key}"]
            torch.testing.assert_close(value.to(truth.dtype), truth, rtol=2e-6, atol=1e-5)


def test_their_defaults_are_the_published_sizes():
    """EDM's FFHQ and ImageNet networks and EDM2-S, in millions of weights (both papers' tables)."""
    faces = {"img_resolution": 64, "img_channels": 3, "model_type": "SongUNet", "augment_dim": 9}
    imagenet = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "augment_dim": 9}
    latents = {"img_resolution": 64, "img_channels": 4, "label_dim": 1000}
    sizes = []
    for config, kind in ((faces, None), (imagenet, None), (latents, "UNet")):
        weights = outline_of(complete(network_for(config, kind), Said()))
        buffers = ("resample_filter", "freqs", "phases")
        sizes.append(sum(w.numel() for n, w in weights.items() if not n.endswith(buffers)) / 1e6)
    assert [round(size, 1) for size in sizes] == [61.8, 295.9, 280.2]


def test_tcm_has_a_learned_scale_of_its_frequencies(tmp_path):
    case = case_of(EDM[1])
    weights = dict(case.weights)
    weights["model.map_noise.freqs"] = weights["model.map_noise.freqs"] / 0.2
    weights["model.map_noise.scale"] = torch.tensor(0.02)
    options = {"learnable_scale": True, "scale": 0.02, "emb_norm": False, "label_dropout": 0.1}
    value = module("ECMPrecond", weights, BUFFERS, **case.about["config"], **options)
    one = recognise(read_foreign(written(tmp_path / "x.pkl", {"ema": value})))
    agree(case, one)
    assert (one.is_student, one.label_drop) == (True, 0.1)
    value = module("ECMPrecond", weights, BUFFERS, **case.about["config"], emb_norm=True)
    with pytest.raises(UserError, match="emb_norm"):
        recognise(read_foreign(written(tmp_path / "x.pkl", {"ema": value})))


SIZED = Said(shape=(3, 16, 16), network_options={"head_channels": 16})


def test_openai_consistency_models_by_their_weights(tmp_path):
    case = case_of("cm_unet")
    path = tmp_path / "cd_imagenet.pt"
    torch.save(OrderedDict(case.weights), path)
    tree = read_foreign(path)
    with pytest.raises(UserError, match="--shape 3,64,64"):
        recognise(tree)
    one = recognise(tree, SIZED)
    network = denoiser_of(one).network
    with torch.no_grad():
        case.agree("out", network(case["x"], case["timesteps"], None))
    assert (one.is_student, one.shift, one.convention.label) == (True, 0.002, "250 ln(level)")
    with pytest.raises(UserError, match=r"weight .* is"):
        recognise(tree, replace(SIZED, network_options={"head_channels": 16, "width": 16}))


def test_guided_diffusion_with_its_variance_and_its_order(tmp_path):
    """The same network with six output channels and the older order of q, k and v."""
    case = case_of("cm_unet")
    weights = {}
    for name, weight in case.weights.items():
        if ".qkv." in name:  # (q|k|v, head, dim) -> (head, q|k|v, dim)
            heads = weight.shape[0] // 3 // 16
            weight = weight.unflatten(0, (3, heads, -1)).movedim(1, 0).flatten(0, 2)
        if name.startswith("out.2"):
            weight = torch.cat([weight, torch.ones_like(weight)])
        weights[name] = weight
    path = tmp_path / "model.pt"
    torch.save(weights, path)
    one = recognise(read_foreign(path), replace(SIZED, process="ddpm"))
    with torch.no_grad():
        case.agree("out", denoiser_of(one).network(case["x"], case["timesteps"], None))
    assert (one.convention.prediction, one.convention.label) == ("eps", "t - 1")
    assert one.convention.process_name == "ddpm"
    assert not one.is_student


def test_a_lightning_checkpoint_and_networks_of_ours(tmp_path):
    network = fs.networks.mlp((5,), width=8, depth=1)
    weights = {f"model.{name}": one for name, one in network.state_dict().items()}
    path = tmp_path / "last.ckpt"
    torch.save(
        {"state_dict": {**weights, "loss.scale": torch.ones(1)}, "hyper_parameters": {"lr": 1}},
        path,
    )
    tree = read_foreign(path)
    assert recognise(tree).network is None
    said = Said(
        network="mlp", network_options={"width": 8, "depth": 1}, shape=(5,), is_student=True
    )
    one = recognise(tree, said)
    assert one.weights.keys() == network.state_dict().keys()
    assert one.left_out == ("loss.scale",)
    json.dumps(one.network_options)
    with pytest.raises(UserError, match="--shape"):
        recognise(tree, replace(said, shape=None))


REFUSALS = {
    "a list of averages": (
        {"ema": {"shadow_params": [torch.ones(2)], "decay": 0.9}},
        "shadow_params",
    ),
    "no network": ({"a": 1}, "holds no network: there is a"),
    "two networks": (
        {"teacher": {"a.b": torch.ones(1)}, "other": {"a.b": torch.ones(1)}},
        "--part",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_no_network_is_one_line(tmp_path, what):
    value, text = REFUSALS[what]
    out = io.BytesIO()
    torch.save(value, out)
    path = tmp_path / "x.pt"
    path.write_bytes(out.getvalue())
    with pytest.raises(UserError, match=text):
        recognise(read_foreign(path))


def test_part_chooses_among_networks(tmp_path):
    value = {"teacher": {"a.b": torch.ones(1)}, "other": {"a.b": torch.zeros(1)}}
    path = tmp_path / "x.pt"
    torch.save(value, path)
    assert recognise(read_foreign(path), Said(part="teacher")).weights["a.b"] == 1


@pytest.mark.parametrize("options", [
    {"resample": "conv", "heads": 4, "scale_shift": False, "mult": (1, 2), "attention": (8, 4)},
    {"resample": "block", "head_channels": 64, "heads": None, "mult": (2, 1, 2), "attention": (2,)},
    {"resample": "block", "heads": None, "mult": (2,), "blocks": 2, "attention": ()},
])  # fmt: skip
def test_openai_networks_of_other_depths(tmp_path, options):
    """Levels, blocks, attention and kinds of resampling come back from names and shapes alone."""
    wide = {"width": 32, "blocks": 1, "group": 1, "scale_shift": True, "dropout": 0.0, **options}
    network = fs.networks.adm_unet((1, 8, 8), 3, **wide)
    path = tmp_path / "edm_cat.pt"
    torch.save(to_openai(network, network.state_dict()), path)
    one = recognise(read_foreign(path), Said(shape=(1, 8, 8)))
    for name, weight in network.state_dict().items():
        assert torch.equal(one.weights[name], weight), name
    low = 8 >> len(wide["mult"]) - 1
    wide["attention"] = tuple(side for side in wide["attention"] if side >= low)
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in wide.items()}
    assert {name: one.network_options[name] for name in wide} == plain
    assert (one.classes, one.is_student) == (3, False)
