"""Conditions of any kind reach the network unchanged; padding never does; labels are dropped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep import data
from fewstep.base.conditions import count_rows
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.cli import main
from fewstep.networks._mlp import ResidualMLP
from fewstep.run.build import build_method, with_defaults
from fewstep.run.facts import Facts
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from tests.support.toys import tiny_run

MIXED = {"label": data.LABELS, "features": ["float32", [4]]}


def normals(*shape: int, stream: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, stream))


def alive(classes: int = 0, features: int = 0) -> ResidualMLP:
    """A network whose every weight matters (zero initialisation would hide mistakes)."""
    network = ResidualMLP((4,), classes, features, width=8, depth=1, dropout=0.0)
    source = generator(0, "weights")
    for p in network.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=source)
    return network


def test_no_label_is_a_zero_embedding_and_labels_are_as_they_were():
    network, x, noise = alive(classes=3), normals(6, 4), normals(6, stream="noise")
    labels = torch.tensor([0, 1, 2, -1, 0, -1])
    out = network(x, noise, labels)
    assert torch.equal(
        network.embed(noise, labels.clamp_min(0))[:3], network.embed(noise, labels)[:3]
    )
    emb = network.time(network.noise(noise))
    assert torch.equal(network.embed(noise, labels)[3], torch.nn.functional.silu(emb)[3])
    out.square().sum().backward()
    gradient = network.label.weight.grad.abs().sum(1)
    without = alive(classes=3)
    without(
        x[:5][labels[:5] >= 0], noise[:5][labels[:5] >= 0], labels[:5][labels[:5] >= 0]
    ).square().sum().backward()
    # Rows without a label do not change it.
    torch.testing.assert_close(gradient, without.label.weight.grad.abs().sum(1))


def test_features_are_linear_in_the_embedding_and_dicts_add_up():
    network, noise = alive(classes=3, features=2), normals(5, stream="noise")
    features, label = normals(5, 2, stream="f"), torch.arange(5) % 3
    emb = (
        network.time(network.noise(noise))
        + network.label(label)
        + features @ network.given.weight.T
    )
    target = torch.nn.functional.silu(emb + network.given.bias)
    torch.testing.assert_close(
        network.embed(noise, {"features": features.reshape(5, 1, 2), "label": label}), target
    )
    for bad, message in (
        ({"label": label}, "needs 2 features"),
        ({"features": features}, "needs labels"),
        (None, "needs labels"),
    ):
        with pytest.raises(UserError, match=message):
            network.embed(noise, bad)
    with pytest.raises(UserError, match="takes no features"):
        alive()(normals(5, 4), noise, features)


def test_dropped_labels_have_their_share_and_change_nothing_else():
    dataset = data.from_tensors({"x0": normals(64, 3), "cond": torch.arange(64) % 4})
    batches = {}
    for share in (0.0, 0.25, 1.0):
        run = with_defaults(tiny_run(label_drop=share, batch=4096, block=32))
        method = build_method(run, Facts((3,), 4, 0.5, dataset.units, ""))
        batches[share] = draw_batch(Stage(run, method), dataset.train, 1)
    none, some, all_ = (batches[share].cond for share in (0.0, 0.25, 1.0))
    assert torch.equal(none, dataset.train.cond[batches[0.0].rows])
    assert (some == -1).double().mean().item() == pytest.approx(
        0.25, abs=4 * (0.25 * 0.75 / 4096) ** 0.5
    )
    assert torch.equal(some[some >= 0], none[some >= 0])
    assert bool((all_ == -1).all())
    for share in (0.25, 1.0):
        for name in ("rows", "x0", "z"):
            assert torch.equal(getattr(batches[share], name), getattr(batches[0.0], name))
        assert torch.equal(batches[share].times.t, batches[0.0].times.t)


def test_whether_a_label_is_dropped_does_not_depend_on_the_batch():
    dataset = data.from_tensors({"x0": normals(64, 3), "cond": torch.arange(64) % 4})
    run = with_defaults(tiny_run(label_drop=0.5, batch=64, block=4))
    method = build_method(run, Facts((3,), 4, 0.5, dataset.units, ""))
    small = [
        draw_batch(Stage(replace(run, batch=16), method), dataset.train, step).cond
        for step in range(4)
    ]
    assert torch.equal(draw_batch(Stage(run, method), dataset.train, 0).cond, torch.cat(small))


def test_no_label_can_be_asked_for_only_where_labels_were_dropped():
    samples = {"x0": normals(64, 3), "cond": torch.arange(64) % 4}
    dropping, plain = (
        fs.train(tiny_run(label_drop=s), samples, progress=False, device="cpu") for s in (0.3, 0.0)
    )
    assert dropping.conditions(2, -1).tolist() == [-1, -1]
    assert dropping.sample(3, cond=torch.tensor([-1, 0, 3])).shape == (3, 3)
    with pytest.raises(UserError, match=r"label -1: expected one of 0\.\.3.* label_drop above 0"):
        plain.sample(2, cond=-1)
    with pytest.raises(UserError, match=r"expected one of -1\.\.3"):
        dropping.sample(2, cond=-2)
    with pytest.raises(
        UserError, match=r"label_drop = 0\.5: expected 0, since data 'ring8' has no labels"
    ):
        fs.train(tiny_run(label_drop=0.5), progress=False, device="cpu")


KINDS = {
    "labels": torch.arange(40) % 3,
    "numbers": normals(40),
    "features": normals(40, 2, 3),
    "tokens": torch.arange(80).reshape(40, 2),
    "all": {
        "label": torch.arange(40) % 3,
        "features": normals(40, 2),
        "text": torch.arange(40),
        "deep": {"k": normals(40)},
    },
}


class Heard(torch.nn.Module):
    """A network of one's own that keeps the conditions it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.last = None

    def forward(self, x, noise, cond=None):
        self.last = cond
        return self.scale * x


@pytest.mark.parametrize("cond", KINDS.values(), ids=KINDS.keys())
def test_conditions_of_any_kind_reach_a_network_of_your_own(cond, tmp_path):
    g = fs.train(
        tiny_run(),
        {"x0": normals(40, 4), "cond": cond},
        Heard(),
        progress=False,
        device="cpu",
        out=tmp_path,
    )
    assert Facts.from_json(json.loads(json.dumps(g.facts.to_json()))) == g.facts
    user_cond = data.each(lambda part: part[:5], cond)
    target = data.change_cond(user_cond, g.facts.cond_units, fs.data.Units.to_model)
    g.sample(5, cond=user_cond)
    last = g.denoiser.network.last
    assert dict(data.leaves(last)).keys() == dict(data.leaves(target)).keys()
    for (_, a), (_, b) in zip(data.leaves(last), data.leaves(target), strict=True):
        assert torch.equal(a, b)
    g.sample(5, cond=data.each(lambda part: part[0], cond))  # one row for all
    for (_, a), (_, b) in zip(
        data.leaves(g.denoiser.network.last), data.leaves(target), strict=True
    ):
        assert all(torch.equal(row, b[0]) for row in a)


def test_the_networks_take_what_they_can_and_name_what_they_cannot():
    x0 = normals(40, 4)
    for name in ("numbers", "features"):
        g = fs.train(tiny_run(), {"x0": x0, "cond": KINDS[name]}, progress=False, device="cpu")
        assert g.sample(3, cond=KINDS[name][:3]).shape == (3, 4)
        for bad, message in (
            (None, "this generator needs float32 of shape"),
            (KINDS[name][:2], r"cond has 2 rows for 3 samples: expected as many \(--n 2\)"),
            (3 * [[[1.0]]], r"\(1, 1\), expected|needs float32 of shape"),
        ):
            with pytest.raises(UserError, match=message):
                g.sample(3, cond=bad)
    for name, message in (
        ("tokens", "features = ..int64"),
        ("all", "has text = labels|has text = ..int64"),
    ):
        with pytest.raises(UserError, match=f"the network 'mlp' takes .* {message}.* of your own"):
            fs.train(tiny_run(), {"x0": x0, "cond": KINDS[name]}, progress=False, device="cpu")


def plain_only(shape, classes=0):
    """A network of one's own that says what it takes."""
    return Heard()


plain_only.takes = ("label",)


def test_a_network_that_does_not_take_a_mask_names_those_that_do():
    samples = {"x0": normals(8, 4), "cond": {"mask": torch.ones(8, 4, dtype=torch.bool)}}
    with pytest.raises(UserError, match=r"takes label, .* has mask = .*adm_unet, dit, .* take it"):
        fs.train(tiny_run(), samples, plain_only, progress=False, device="cpu")
    fs.train(tiny_run(), samples["x0"], plain_only, progress=False, device="cpu")


@pytest.mark.parametrize(
    ("network", "shape", "options"),
    [
        ("dit", (2, 7), {"patch": [3], "width": 16, "depth": 1, "heads": 2}),
        ("edm2_unet", (1, 2, 4), {"width": 16, "mult": [1], "blocks": 1, "attention": []}),
    ],
)
def test_series_and_fields_with_labels_features_and_holes_are_trained_and_sampled(
    network, shape, options, tmp_path
):
    cond = {
        "label": torch.arange(16) % 3,
        "features": normals(16, 2, stream="f"),
        "mask": normals(16, *shape, stream="m") < 1,
    }
    run = tiny_run(network=network, network_options=options, iterations=1, method="sct")
    samples = {"x0": normals(16, *shape), "cond": cond}
    g = fs.train(run, samples, progress=False, device="cpu", out=tmp_path)
    draws = g.sample(16, cond=cond)
    assert not draws[~cond["mask"]].any()
    assert torch.equal(fs.load(tmp_path, device="cpu").sample(16, cond=cond), draws)
    # Features alone, and a tensor of them.
    samples["cond"] = cond["features"]
    assert fs.train(run, samples, progress=False, device="cpu").sample(2, cond=[0.5, 1]).any()


def test_the_fingerprint_sees_every_part_of_a_condition():
    x0, label, features = normals(8, 2), torch.arange(8) % 2, normals(8, 2, stream="f")
    other = features.clone()
    other[3, 1] += 1
    conds = [
        None,
        label,
        label.flip(0),
        features,
        other,
        {"label": label, "features": features},
        {"label": label, "features": other},
        {"label": label, "other": features},
        {"label": label, "features": features.reshape(8, 1, 2)},
    ]
    assert len(
        {data.from_tensors({"x0": x0, "cond": cond}).fingerprint() for cond in conds}
    ) == len(conds)
    swap = {"features": features, "label": label}
    same = [data.from_tensors({"x0": x0, "cond": c}).fingerprint() for c in (conds[5], swap)]
    assert same[0] == same[1]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=6, max_size=6).filter(lambda n: sum(n) > 1),
    st.sampled_from([0.0, 1e6, float("nan"), float("inf")]),
    st.booleans(),
)
def test_what_stands_in_the_padding_never_matters(lengths, junk, wide):
    """Loss, scale and fingerprint of a padded set are those of the same set with zeros there."""
    lengths[0] = max(lengths[0], 1)
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    x0 = 7 + normals(6, 4, 2)
    variants = [x0.masked_fill(~mask[:, :, None], value) for value in (0.0, junk)]
    cond = {"mask": mask[:, :, None].expand(6, 4, 2) if wide else mask}
    clean, dirty = (data.from_tensors({"x0": x, "cond": cond}) for x in variants)
    assert clean.fingerprint() == dirty.fingerprint()
    assert clean.units == dirty.units
    run = with_defaults(tiny_run())
    facts = Facts(dirty.shape, 0, 0.5, dirty.units, "", data.kind_of(dirty.train.cond))
    method = build_method(run, facts)
    dirtier = replace(dirty.train, samples=dirty.train.x0.masked_fill(~mask[:, :, None], junk))
    batches = [draw_batch(Stage(run, method), arrays, 0) for arrays in (clean.train, dirtier)]
    assert torch.equal(batches[0].x0, batches[1].x0)
    outside = ~batches[0].cond["mask"].reshape(len(batches[0].x0), 4, -1).any(2)
    assert not batches[0].z[outside].any()
    assert not batches[0].x0[outside].any()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("method", ["ect", "diffusion"])
def test_the_padding_of_samples_is_zero_whatever_the_network_says_there(method, steps):
    class Loud(torch.nn.Module):
        """Returns 1 everywhere, and records the largest value that was ever in the padding."""

        def __init__(self) -> None:
            super().__init__()
            self.level = torch.nn.Parameter(torch.ones(1))
            self.largest = 0.0

        def forward(self, x, noise, cond):
            self.largest = max(
                self.largest, x.masked_fill(cond["mask"][:, :, None], 0).abs().max().item()
            )
            return self.level * torch.ones_like(x) + 0 * x

    mask = torch.arange(5) < (1 + torch.arange(32) % 5)[:, None]
    training = {"x0": 100 + normals(32, 5, 2), "cond": {"mask": mask}}
    g = fs.train(tiny_run(method=method), training, Loud(), progress=False, device="cpu")
    draws = g.sample(7, steps=steps, cond={"mask": mask[:7]}, batch=3)
    assert not draws[~mask[:7]].any()
    assert bool((draws[mask[:7]] != 0).all())
    assert g.denoiser.network.largest == 0
    whole = g.sample(7, steps=steps, cond={"mask": torch.ones(5, dtype=torch.bool)})
    assert bool((whole != 0).all())


def test_conditions_come_from_files_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    label, features = np.arange(30) % 3, normals(30, 2, stream="f").numpy()
    np.savez("set.npz", x0=normals(30, 4).numpy(), label=label, features=features)
    small = [
        "--network.width",
        "8",
        "--network.depth",
        "1",
        "--iterations",
        "3",
        "--device",
        "cpu",
        "--out",
        "run",
    ]
    assert main(["train", "toy", "--data", "set.npz", *small]) == 0
    np.savez("five.npz", label=label[:5], features=features[:5])
    assert main(["sample", "run", "--cond", "five.npz", "--n", "5", "--out", "x.npy"]) == 0
    target = {"label": label[:5], "features": features[:5]}
    np.testing.assert_array_equal(np.load("x.npy"), fs.load("run").sample(5, cond=target))
    capsys.readouterr()
    np.save("one.npy", features[:5])
    np.save("wide.npy", np.zeros((5, 3), "float32"))
    np.save("none.npy", features[:0])
    np.savez("one.npz", label=label[:1], features=features[:1])
    np.save("row.npy", features[0])
    for name, text in (
        ("five.npz", "5 samples of shape (4,), one for each row of five.npz, in x.npy"),
        ("one.npy", "5 samples of shape (4,), one for each row of one.npy, in x.npy"),
        ("row.npy", "100 samples of shape (4,) in x.npy"),
        ("one.npz", "100 samples of shape (4,) in x.npy"),
    ):
        assert main(["sample", "run", "--cond", name, "--out", "x.npy"]) == 0
        assert capsys.readouterr().out == f"{text}\n"
    for words, message in (
        (["--cond", "five.npz", "--n", "6"], "features has 5 rows for 6 samples: expected as many"),
        (["--cond", "one.npy", "--n", "6"], "(--n 5), or one row for all"),
        (["--cond", "wide.npy"], "features has 3 numbers a row, expected 2"),
        (["--cond", "none.npy"], "features has no rows, expected 100, or one for all"),
        (["--label", "1"], "expected a dict with features, label"),
        (["--cond", "five.txt"], "expected .npy, .npz, .safetensors"),
        (["--cond", "five.npz", "--label", "1"], "expected one or the other"),
        ([], "expected a dict with features, label"),
    ):
        assert main(["sample", "run", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cond", "kind", "count"),
    [
        (np.zeros((5, 4)), ["float32", [4]], 5),
        (np.zeros(4), ["float32", [4]], None),
        (np.zeros((1, 4)), ["float32", [4]], None),  # one row for all
        (np.zeros(5), ["float32", []], 5),
        (np.zeros((5, 2)), data.LABELS, None),
        (np.zeros(5, int), data.LABELS, 5),
        (3, data.LABELS, None),
        (np.zeros(5), None, None),
        ({"label": np.zeros(5), "features": np.zeros((5, 4))}, MIXED, 5),
        ({"label": 3, "features": np.zeros((5, 4))}, MIXED, 5),
        ({"label": np.zeros(6), "features": np.zeros((5, 4))}, MIXED, None),
        (np.zeros((5, 4)), MIXED, 5),
    ],
)
def test_a_condition_says_for_how_many_samples_it_is(cond, kind, count):
    assert count_rows(cond, kind) == count


def test_the_only_part_beside_labels_may_stand_alone():
    """Labels take turns, as where the dict lacks them."""
    kind = {"label": data.LABELS, "features": ["float32", [2]]}
    rows = normals(6, 2)
    alone, named = (data.fit(cond, kind, 6, 3) for cond in (rows, {"features": rows}))
    assert torch.equal(alone["features"], named["features"])
    assert torch.equal(alone["label"], torch.arange(6) % 3)
    with pytest.raises(UserError, match="expected a dict with features, label"):
        data.fit(None, kind, 6, 3)
