"""The recipe auto: what the data decide, what stays the user's, and that a resume keeps it."""

import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fewstep as fs
from fewstep.cli import main
from fewstep.run import fitting
from fewstep.run.prepare import prepare

ROWS = 120
RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=(ROWS, 2, 12, 12)).astype(np.float32)
MASK = np.arange(12) < RANDOM.integers(2, 13, ROWS)[:, None]


def picture_bytes():
    return RANDOM.integers(0, 256, (ROWS, 3, 12, 12)).astype(np.uint8)


DATA = {
    "table": (lambda: {"x0": NORMAL[:, 0, 0]}, "mlp"),
    "posterior": (lambda: {"x0": NORMAL[:, 0, 0, :3], "cond": NORMAL[:, 1, 0]}, "mlp"),
    "series": (lambda: {"x0": NORMAL[:, :, 0], "labels": np.arange(ROWS) % 3}, "unet"),
    "sets": (lambda: {"x0": NORMAL[:, 0, :, :2], "mask": MASK}, "set_transformer"),
    "field": (lambda: {"x0": NORMAL, "cond": NORMAL[:, 0, 0, :1]}, "unet"),
    "pictures": (lambda: {"x0": picture_bytes()}, "unet"),
}


@pytest.fixture(params=DATA)
def case(request, tmp_path):
    """A file of each kind of data, and the network that it gets."""
    make, network = DATA[request.param]
    np.savez(tmp_path / "data.npz", **make())
    return str(tmp_path / "data.npz"), network


def test_each_kind_of_data_gets_its_network_trains_and_samples(case, tmp_path, capfd):
    path, network = case
    run = fs.recipes.auto(data=path, iterations=2, batch=32, picture_every=0)
    generator = fs.train(run, out=tmp_path / "run", device="cpu")
    assert generator.run.network == network
    assert generator.run.lr > 0
    told = capfd.readouterr().err
    assert "auto: 96 rows to learn" in told
    assert f"network {network}" in told
    assert "batch" not in told.split("auto: ")[1].split("\n")[0]  # the user's
    again = fs.load(tmp_path / "run")
    assert again.fingerprint == generator.fingerprint
    dataset = prepare(run).dataset
    samples = again.sample(12, cond=dataset.user_cond(dataset.test.cond), seed=0)
    assert samples.shape == (12, *np.load(path)["x0"].shape[1:])


@given(length=st.integers(1, 5000), most=st.integers(1, 64))
def test_patches_cover_the_length_with_no_more_than_so_many(length, most):
    patch = fitting.patch_of(length, most)
    assert patch & (patch - 1) == 0
    assert -(-length // patch) <= most
    assert patch == 1 or -(-length // (patch // 2)) > most


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 32), 1), ((1, 33), 2), ((1, 1000), 32), ((2, 8, 8), 1), ((1, 9, 40), (2, 8))],
)
def test_long_axes_enter_in_larger_patches(shape, patch):
    data = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
    assert prepare(fs.recipes.auto(), data).run.network_options["patch"] == patch


@pytest.mark.parametrize(("rows", "iterations"), [(100, 1000), (700, 3500), (9000, 16_000)])
def test_few_rows_are_learned_for_fewer_iterations(rows, iterations):
    data = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    assert prepare(fs.recipes.auto(), data).run.iterations == iterations


def test_what_the_user_sets_stays():
    own = {"iterations": 7, "batch": 64, "lr": 0.5, "network": "mlp"}
    options = {"width": 8, "depth": 1}
    data = torch.from_numpy(NORMAL[:, :, 0])
    fields = {"units": "robust", "method_options": {"stages": 3}}
    ready = prepare(fs.recipes.auto(**own, **fields, network_options=options), data)
    assert {name: getattr(ready.run, name) for name in own} == own
    assert ready.run.network_options["width"] == 8
    assert (ready.run.units, ready.run.method_options["stages"]) == ("robust", 3)
    assert ready.reason == ""
    network = torch.nn.Flatten()
    assert prepare(fs.recipes.auto(), data, network).run.network == "own"


def small(shape):
    return {"width": 8, "depth": 1}


def test_a_resumed_run_keeps_what_the_data_decided(tmp_path, monkeypatch):
    data = torch.from_numpy(NORMAL[:, 0, 0, :4])
    run = fs.recipes.auto(checkpoint_every=2, picture_every=0)

    def stop(state):
        if state.step == 2:
            signal.raise_signal(signal.SIGINT)

    settings = fitting.SETTINGS
    short = {kind: fitting.Settings("mlp", small, 32, 4, 1e-3, {}) for kind in settings}
    monkeypatch.setattr(fitting, "SETTINGS", short)
    whole = fs.train(run, data, progress=False, device="cpu")
    assert whole.step == 4
    with pytest.raises(fs.errors.Stopped):
        fs.train(run, data, out=tmp_path / "run", progress=False, device="cpu", watch=stop)
    # Another version would choose otherwise.
    longer = {kind: fitting.Settings("mlp", small, 32, 9, 1e-1, {"stages": 3}) for kind in settings}
    monkeypatch.setattr(fitting, "SETTINGS", longer)
    rest = fs.train(run, data, out=tmp_path / "run", resume=True, progress=False, device="cpu")
    assert (rest.step, rest.fingerprint) == (4, whole.fingerprint)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.exp(2 * RANDOM.normal(size=ROWS)), "variable 1 has kurtosis"),
        (np.maximum(RANDOM.normal(size=ROWS), 0), "variable 1 is one value in"),
        (RANDOM.normal(size=ROWS), ""),
        (np.arange(ROWS) % 3 * 1.0, ""),
    ],
)
def test_heavy_tails_and_repeated_values_are_learned_by_their_quantiles(values, says):
    data = np.stack([NORMAL[:, 0, 0, 0], values], 1)
    ready = prepare(fs.recipes.auto(), torch.from_numpy(data))
    assert ready.run.units == ("quantile" if says else "auto")
    assert says in ready.reason
    assert (ready.facts.units.quantiles != ()) == bool(says)
    # Of any other recipe the units stay.
    assert prepare(fs.recipes.toy(), torch.from_numpy(data)).run.units == "auto"


def test_a_table_with_categories_is_learned_by_means_and_one_without_by_medians():
    numbers = NORMAL[:, 0, 0]
    category = (np.arange(ROWS) % 2)[:, None]
    run = fs.recipes.auto()
    assert prepare(run, torch.from_numpy(numbers)).run.method_options["c"] == 0
    mixed = torch.from_numpy(np.concatenate([numbers, category], 1))
    assert prepare(run, mixed).run.method_options["c"] == 0.3
    own = prepare(fs.recipes.auto(method_options={"c": 0.1}), mixed).run.method_options
    assert (own["c"], own["stages"]) == (0.1, 8)
    other = prepare(fs.recipes.auto(method="ict"), mixed).run.method_options
    assert other == prepare(fs.recipes.toy(method="ict"), mixed).run.method_options


def test_options_of_the_method_that_are_typed_stay(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(ROWS)[:, None] % 3 * 1.0)
    words = ["train", "auto", "--data", str(tmp_path / "x.npy"), "--iterations", "1", "--quiet"]
    own = [["--method.c=0"], ["--method.stages", "7", "--method.p-mean", "-1"]]
    expected = [{"c": 0, "stages": 8, "p_mean": -1.1}, {"c": 0.3, "stages": 7, "p_mean": -1}]
    for number, (more, options) in enumerate(zip(own, expected, strict=True)):
        out = tmp_path / f"run{number}"
        assert main([*words, *more, "--batch", "32", "--out", str(out)]) == 0
        assert fs.load(out).run.method_options.items() >= options.items()


def test_a_constant_is_no_category():
    data = torch.cat([torch.from_numpy(NORMAL[:, 0, 0]), torch.ones(ROWS, 1)], 1)
    assert prepare(fs.recipes.auto(), data).run.method_options["c"] == 0


def test_more_axes_than_the_network_takes_are_learned_as_numbers():
    data = torch.randn(40, 2, 3, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    ready = prepare(fs.recipes.auto(), data)
    assert ready.run.network == "mlp"
    assert "more axes than" in ready.reason


def test_channels_that_may_be_last_are_asked_for():
    data = torch.from_numpy(NORMAL.transpose(0, 2, 3, 1))
    assert "are they last?" in prepare(fs.recipes.auto(), data).reason
    assert "are they last?" not in prepare(fs.recipes.auto(), torch.from_numpy(NORMAL)).reason


def test_channels_that_are_not_first_are_named():
    ready = prepare(fs.recipes.auto(channel_axis=2), torch.from_numpy(NORMAL[:, :, 0]))
    assert ready.run.network == "mlp"
    assert "channels are not the first axis" in ready.reason


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["auto", "--network.width", "8"], "--network.width: the data choose the network"),
        (["toy", "--network", "auto"], "auto"),
        (["toy", "--iterations", "0"], "iterations = 0: expected at least 1"),
        (["auto", "--iterations", "-1"], "iterations = -1: expected at least 1"),
        (["auto", "--batch", "33"], "batch = 33: expected a multiple of block=32"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, says, capsys):
    assert main(["train", *words, "--data", "ring8"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_the_command_says_what_it_chose(tmp_path, capfd):
    np.save(tmp_path / "x.npy", NORMAL[:, :, 0])
    words = ["train", "auto", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run")]
    assert main([*words, "--iterations", "1", "--batch", "32", "--network", "mlp"]) == 0
    out, told = capfd.readouterr()
    assert "step 1 of 1" in out
    assert "auto: 96 rows to learn, series 2 x 12, channels first: lr 0.001" in told
