"""Extractors and reference statistics of the user's: what they compute, record and refuse."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import fewstep as fs
from fewstep import data
from fewstep.analysis.metrics import (
    CALIBRATION,
    METRICS,
    Extractor,
    Input,
    Statistics,
    evaluate,
    extractors,
    file_sha256,
    frechet,
    meters_of,
    moments,
    open_extractor,
    read_statistics,
)
from fewstep.base.errors import UserError
from fewstep.base.randomness import fork_rng
from fewstep.cli import main
from fewstep.data import Dataset, Units
from tests.analysis.test_metrics import normals
from tests.support.toys import tiny_run


def export(layer: nn.Linear, path, inputs=("n", 64), outputs=1) -> None:
    """relu(flatten(x) W^T + b) as an ONNX file; a second output is before the relu."""
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 5])
        for name in ("features", "hidden")
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["features"]),
    ]
    weights = [
        numpy_helper.from_array(p.detach().numpy(), name)
        for p, name in ((layer.weight, "w"), (layer.bias, "b"))
    ]
    entries = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(inputs))]
    graph = helper.make_graph(nodes, "tiny", entries, results[:outputs], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )


@pytest.fixture
def layer():
    with fork_rng(0, "extractor"):
        return nn.Linear(64, 5).requires_grad_(False)


@pytest.fixture
def tiny(tmp_path, layer):
    export(layer, tmp_path / "tiny.onnx", ("n", 1, 8, 8))
    return tmp_path / "tiny.onnx"


def pictures(n: int, side: int = 8, channels: int = 1) -> torch.Tensor:
    x = (0.5 * normals(n, channels * side * side, 7)).clamp(-1, 1).float()
    return x.reshape(n, channels, side, side)


def test_an_onnx_file_gives_the_modules_features(tiny, layer, monkeypatch):
    x = pictures(70)
    extractor = open_extractor(tiny)
    torch.testing.assert_close(
        extractor.features(x), layer(x.flatten(1)).relu(), rtol=1e-5, atol=1e-6
    )
    assert extractor.sha256 == file_sha256(tiny)
    assert (extractor.name, extractor.output, extractor.published()) == ("tiny", "features", None)
    as_callable = Extractor("mine", lambda x: layer(x.flatten(1)).relu())
    assert frechet(extractor.features(x), as_callable.features(2 * x)) > 0
    assert frechet(extractor.features(x), as_callable.features(x)) == pytest.approx(0, abs=1e-6)


def test_class_probabilities_are_of_the_output_that_is_declared(tmp_path, tiny, layer):
    with pytest.raises(UserError, match="extractor tiny has no classes: name their output"):
        open_extractor(tiny).probabilities(pictures(3))
    file = tmp_path / "two.onnx"
    export(layer, file, ("n", 1, 8, 8), outputs=2)
    (tmp_path / "two.json").write_text(json.dumps({"output": "features", "classes": "hidden"}))
    extractor = open_extractor(file)
    x = pictures(70)
    torch.testing.assert_close(
        extractor.probabilities(x), layer(x.flatten(1)), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        extractor.features(x), layer(x.flatten(1)).relu(), rtol=1e-5, atol=1e-6
    )


def test_reference_statistics_leave_the_classifier_score(layer):
    digits = data.load("digits")
    own = Extractor(
        "mine",
        lambda x: layer(x.flatten(1)),
        classes=lambda x: layer(x.flatten(1)).softmax(1),
    )
    reference = moments(own.features(digits.train.x0))
    names = ["mine_frechet", "classifier_score"]
    how = {"extractor": own, "reference": reference}
    meters, _ = meters_of(digits, digits.test, 100, metrics=names, **how)
    assert [meter.metric for meter in meters] == names
    usual, _ = meters_of(digits, digits.test, 100, **how)
    assert [meter.metric for meter in usual] == names[:1]
    for name in ("classes", "pixel"):
        with pytest.raises(UserError, match="choose another name"):
            meters_of(digits, digits.test, 100, extractor=Extractor(name, own.network))


def test_output_range_and_hash_are_those_of_the_declaration(tmp_path, layer):
    file, beside = tmp_path / "two.onnx", tmp_path / "two.json"
    export(layer, file, ("n", 1, 8, 8), outputs=2)
    with pytest.raises(
        UserError, match=r"has outputs features, hidden: name one as output in two.json"
    ):
        open_extractor(file)
    beside.write_text(
        json.dumps(
            {"output": "hidden", "range": [0, 255], "sha256": file_sha256(file), "name": "old"}
        )
    )
    extractor = open_extractor(file)
    x = pictures(3)
    torch.testing.assert_close(
        extractor.features(x), layer((x + 1).flatten(1) * 127.5), rtol=1e-4, atol=1e-3
    )
    facts = extractor.facts()
    assert (facts["input"]["range"], facts["output"], extractor.name) == ([0, 255], "hidden", "old")
    for change, message in (
        ({"sha256": "0" * 64}, "and two.json declares 0000"),
        ({"output": "hiden"}, "unknown output of .*did you mean 'hidden'"),
        (
            {"output": "hidden", "rnge": [0, 1]},
            "unknown key of two.json 'rnge': did you mean 'range'",
        ),
        ({"output": "hidden", "range": [1, 0]}, r"range = \(1, 0\): expected low < high"),
        ({"output": "hidden", "range": 255}, r"range = 255: expected \[low, high\]"),
        ({"output": "hidden", "range": [1]}, r"range = \[1\]: expected \[low, high\]"),
        ({"output": "hidden", "size": "8"}, "size = '8': expected a whole number"),
        ({"output": "hidden", "size": 8}, "a size and a resize rule, or neither"),
        ({"output": "hidden", "resize": "lanczos", "size": 8}, "unknown resize 'lanczos'"),
        ({"output": "hidden", "mean": [0.5]}, "both mean and std, or neither"),
    ):
        beside.write_text(json.dumps(change))
        with pytest.raises(UserError, match=message) as refusal:
            open_extractor(file)
        assert "\n" not in str(refusal.value)
    beside.write_text("[]")
    with pytest.raises(UserError, match="holds no JSON object"):
        open_extractor(file)
    beside.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        open_extractor(file)


def test_wrong_shapes_ranges_and_files_are_refused(tiny, tmp_path):
    extractor = open_extractor(tiny)
    with pytest.raises(
        UserError, match=r"samples of shape \(1, 9, 9\): tiny.onnx takes \[1, 8, 8\]"
    ):
        extractor.features(pictures(2, side=9))
    with pytest.raises(UserError, match=r"samples of shape \(64,\)"):
        extractor.features(pictures(2).flatten(1))
    narrow = Extractor("ranged", extractor.network, input=Input(range=(0, 1)))
    with pytest.raises(
        UserError, match=r"samples between -2 and 2: this extractor takes pictures in \[-1, 1\]"
    ):
        narrow.features(torch.tensor([[-2.0], [2.0]]))
    in_colour = Extractor("coloured", extractor.network, input=Input(channels=3))
    for x, shape in (
        (pictures(2, channels=2), r"\(2, 8, 8\)"),
        (pictures(2).flatten(1), r"\(64,\)"),
    ):
        with pytest.raises(UserError, match=f"samples of shape {shape}: this extractor takes"):
            in_colour.features(x)
    with pytest.raises(
        UserError, match=r"extractor flat gives \(2,\) for 2 samples: expected \[N, F\]"
    ):
        Extractor("flat", lambda x: x.flatten(1).sum(1)).features(pictures(2))
    with pytest.raises(UserError, match="gives NaN or infinity"):
        Extractor("bad", lambda x: x.flatten(1) / 0).features(pictures(2))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match=r"text.onnx is no model that onnxruntime runs"):
        open_extractor(tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"cannot read .*nowhere.onnx"):
        open_extractor(tmp_path / "nowhere.onnx")


def test_features_do_not_depend_on_the_batch(tiny):
    one = open_extractor(tiny)
    x = pictures(70)
    few = Extractor("few", one.network, batch=9)
    torch.testing.assert_close(few.features(x), one.features(x), rtol=1e-5, atol=1e-6)


def test_pictures_are_resized_as_pillow_does():
    x = pictures(1, side=12, channels=3)
    levels = (x[0].permute(1, 2, 0) + 1).mul(127.5).round().to(torch.uint8).numpy()
    for rule, filter in (
        ("pillow-bicubic", Image.Resampling.BICUBIC),
        ("pillow-bilinear", Image.Resampling.BILINEAR),
    ):
        for side in (7, 30):
            ours = Input((0, 255), 256, 3, side, rule)(x)[0].permute(1, 2, 0).numpy()
            theirs = np.asarray(Image.fromarray(levels).resize((side, side), filter))
            assert np.abs(ours - theirs).max() < 1e-4
    with pytest.raises(
        UserError, match="levels = None: expected 256, which pillow-bicubic works on"
    ):
        Input(size=7, resize="pillow-bicubic")


def test_bilinear_is_exact_on_a_ramp():
    """A linear ramp stays one inside; the outer half pixel repeats the border."""
    ramp = torch.linspace(-0.7, 0.7, 8).expand(1, 1, 8, 8)
    wide = Input(size=16, resize="bilinear")(ramp)[0, 0, 5]
    assert torch.diff(wide[1:-1]).tolist() == pytest.approx([0.1] * 13)
    assert wide[0].item() == pytest.approx(-0.7)


def test_what_enters_is_rounded_spread_over_the_range_and_normalised():
    x = torch.tensor([-1.0, 0.0, 0.1, 1.0]).reshape(4, 1, 1, 1)
    grey = Input((0, 255), 256, 3)(x)
    assert grey.shape == (4, 3, 1, 1)
    assert grey[:, 0, 0, 0].tolist() == pytest.approx([0, 128, 140, 255], abs=1e-4)
    standard = Input((0, 1), channels=3, mean=(0.5, 0.0, 0.0), std=(0.5, 1.0, 2.0))(x)
    assert standard[3].flatten().tolist() == pytest.approx([1, 1, 0.5])


def test_published_names_are_for_published_weights_and_preprocessing(tmp_path, monkeypatch):
    entries = {k.name: k for k in extractors.KNOWN}
    for name, k in entries.items():
        assert Extractor("mine", nn.Identity(), weights=k.sha256, input=k.input).published() == name
        assert Extractor("mine", nn.Identity(), k.sha256, k.input).published() == name
        assert Extractor("mine", nn.Identity(), k.sha256).published() is None
        assert Extractor("mine", nn.Identity(), "0" * 64, k.input).published() is None
        ours = Extractor("mine", nn.Identity(), k.sha256, k.input)
        assert ours.published("classifier_score") == {"FID": "IS"}.get(name)
        assert ours.published("kid") is None


class Scripted(nn.Module):
    """Stands in for the TorchScript Inception: 8-bit pictures in, features or classes out."""

    def forward(
        self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        assert x.dtype == torch.uint8
        means = x.double().mean((2, 3)).float()
        return means if return_features else (means + 100 * int(not no_output_bias)).softmax(1)


def test_inceptions_own_file_is_known_by_its_hash_and_others_stay_closed(tmp_path, monkeypatch):
    file = tmp_path / "inception.pt"
    torch.jit.script(Scripted()).save(str(file))
    with pytest.raises(UserError, match="which is no known network"):
        open_extractor(file)
    first = extractors.KNOWN[0]
    monkeypatch.setattr(
        extractors, "KNOWN", (type(first)(first.name, file_sha256(file), first.input, True),)
    )
    extractor = open_extractor(file)
    x = pictures(5, channels=3)
    assert extractor.published() == "FID"
    features = (x + 1).mul(127.5).round().double().mean((2, 3)).float()
    torch.testing.assert_close(extractor.features(x), features, rtol=0, atol=1e-4)
    torch.testing.assert_close(extractor.probabilities(x), features.softmax(1))


def test_reference_statistics_come_back_from_npz(tmp_path):
    statistics = moments(normals(50, 4, 0), extractor="abc")
    statistics.write(tmp_path / "stats.npz")
    copy = read_statistics(tmp_path / "stats.npz")
    assert (copy.n, copy.extractor, copy.sha256) == (50, "abc", statistics.sha256)
    assert torch.equal(copy.cov, statistics.cov)
    with np.load(tmp_path / "stats.npz", allow_pickle=False) as file:
        assert np.array_equal(file["mu"], statistics.mean.numpy())
        assert np.array_equal(file["sigma"], statistics.cov.numpy())
    np.savez(tmp_path / "edm.npz", mu=statistics.mean.numpy(), sigma=statistics.cov.numpy())
    theirs = read_statistics(tmp_path / "edm.npz")
    assert (theirs.n, theirs.extractor, theirs.sha256) == (None, None, statistics.sha256)
    other = moments(normals(60, 4, 1))
    assert frechet(other, theirs) == frechet(other, statistics)


def test_other_npz_files_are_refused(tmp_path):
    file = tmp_path / "x.npz"
    mu, sigma = np.zeros(2), np.eye(2)
    for arrays, message in (
        ({"mu": mu}, "lacks sigma"),
        ({"mu": mu, "sigma": np.eye(3)}, r"mu \(2,\) and sigma \(3, 3\): expected"),
        ({"mu": mu, "sigma": sigma * np.nan}, "NaN"),
        ({"mu": mu, "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
        (
            {"mu": np.array([{}], dtype=object), "sigma": sigma},
            "no .npz file of reference statistics",
        ),
    ):
        np.savez(file, **arrays)
        with pytest.raises(UserError, match=message):
            read_statistics(file)
    file.write_text("no archive")
    with pytest.raises(UserError, match=r"no .npz file"):
        read_statistics(file)
    np.save(tmp_path / "x.npy", mu)
    with pytest.raises(UserError, match=r"no .npz file"):
        read_statistics(tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"no .npz file"):
        read_statistics(tmp_path / "nowhere.npz")


@pytest.fixture(scope="module")
def model():
    return fs.train(
        tiny_run(data="digits", network_options={"width": 8, "depth": 1}),
        progress=False,
        device="cpu",
    )


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_scores_by_an_extractor_against_reference_statistics(tiny, layer, model, digits):
    extractor = open_extractor(tiny)

    def features(x):
        return layer(x.flatten(1)).relu()

    reference = moments(features(digits.train.x0), extractor.sha256)
    options = {"steps": (1,), "n": 300, "extractor": extractor}
    (result,), _ = evaluate(model, digits, **options, reference=reference, candidates=4)
    assert (result.metric, result.protocol["extractor"]) == ("tiny_frechet", extractor.sha256)
    assert result.protocol["reference"] == reference.sha256
    assert result.protocol["n_reference"] == 1197
    assert result.protocol["candidates"] == 4
    assert result.floor == pytest.approx(frechet(features(digits.test.x0), reference), rel=1e-4)
    (same, _), _ = evaluate(model, digits, **options, metrics=("tiny_frechet", "tiny_kid"))
    assert same.value == pytest.approx(result.value, rel=1e-4)
    assert same.protocol["reference"] == digits.fingerprint()
    with pytest.raises(UserError, match="are of extractor abc, and this one is"):
        evaluate(model, digits, **options, reference=moments(features(digits.train.x0), "abc"))
    narrow = Statistics(torch.zeros(3).double(), torch.eye(3).double())
    with pytest.raises(UserError, match="features of 5 and 3 numbers"):
        evaluate(model, digits, **options, reference=narrow)
    with pytest.raises(UserError, match="unknown metric 'tiny_kid'"):
        evaluate(model, digits, **options, reference=reference, metrics=("tiny_kid",))
    with pytest.raises(UserError, match="unknown metric 'tiny_kidd': did you mean 'tiny_kid'"):
        evaluate(model, digits, **options, metrics=("tiny_kidd",))


def test_fid_is_called_so_only_by_its_own_weights(model, digits):
    entry = extractors.KNOWN[0]

    def network(x):
        return x.flatten(1)[:, :9] / 255

    for weights, name in ((entry.sha256, "FID"), ("0" * 64, "mine_frechet")):
        extractor = Extractor("mine", network, weights=weights, input=entry.input)
        results, _ = evaluate(model, digits, steps=(1,), n=60, extractor=extractor)
        assert [r.metric for r in results][:4] == [
            *(name, "pixel_frechet", "energy", "nearest_ratio")
        ]


def test_every_metric_scores_held_out_data_as_its_floor(model, digits, monkeypatch):
    """A 'model' that returns the held-out split scores the floor; draws of 100 give it an error."""
    x = digits.test.x0
    monkeypatch.setattr(type(model), "sample_parts", lambda self, n, **_: iter([x[:n]]))
    kinds = ("kid", "mmd", "precision", "recall", "density", "coverage", "sliced_w2", "w2", "c2st")
    names = [f"pixel_{kind}" for kind in kinds] + ["energy", "nearest_ratio"]
    results, _ = evaluate(model, digits, steps=(1,), n=300, draw=100, metrics=names)
    assert [r.metric for r in results] == names
    for r in results:
        floor = (r.floor, r.floor_error, *r.floor_interval)
        assert (r.value, r.error, *r.interval) == pytest.approx(floor, rel=1e-6, abs=1e-9)
        assert (r.protocol["n"], r.protocol["draws"], len(r.values)) == (100, 3, 3)
    by_name = {r.metric: r for r in results}
    assert by_name["nearest_ratio"].floor == pytest.approx(1)
    assert abs(by_name["pixel_c2st"].value - 0.5) < 0.2
    assert by_name["pixel_w2"].protocol["n_reference"] == 100
    assert by_name["pixel_kid"].protocol["n_reference"] == 1197


def test_draws_larger_than_the_held_out_split_have_no_floor(model, digits):
    (result,), _ = evaluate(model, digits, steps=(1,), n=900, draw=450, metrics=("pixel_frechet",))
    assert (result.floor, result.floor_error) == (None, None)
    assert (result.protocol["n"], result.protocol["draws"]) == (450, 2)
    bare = Dataset(
        "digits", digits.train, *[digits.test.rows(torch.arange(0))] * 2, 10, Units(clip=True)
    )
    (alone,), _ = evaluate(model, bare, steps=(1,), n=900, draw=450, metrics=("pixel_frechet",))
    assert alone.value == result.value
    with pytest.raises(UserError, match="none are left to compare with"):
        evaluate(model, bare, n=900)
    with pytest.raises(UserError, match="nearest_ratio is relative to held-out data"):
        evaluate(model, bare, n=900, draw=450, metrics=("nearest_ratio",))
    with pytest.raises(UserError, match="draw = 901: expected at most n = 900"):
        evaluate(model, digits, n=900, draw=901)


def test_the_command_takes_them(tiny, layer, digits, tmp_path, capsys):
    reference = tmp_path / "stats.npz"
    moments(layer(digits.train.x0.flatten(1)).relu()).write(reference)
    words = ["eval", "digits", "--steps", "1", "--n", "600", "--extractor", str(tiny)]
    assert main([*words, "--reference", str(reference), "--candidates", "3"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[1].startswith("tiny_frechet")
    assert "the best of 3" in output
    assert main([*words, "--metrics", "tiny_kid,pixel_coverage", "--draw", "150", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["results"]
    assert [(r["metric"], r["protocol"]["draws"], len(r["interval"])) for r in report] == [
        ("tiny_kid", 4, 2),
        ("pixel_coverage", 4, 2),
    ]
    assert main([*words, "--metrics", "tiny_kdi"]) == 2
    assert main([*words, "--metrics", "help"]) == 0
    help_lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in help_lines[1:]]
    of_any_data = [row for row in METRICS.values() if row.space is None]
    count = 3 * len(of_any_data) + 4 + len(CALIBRATION)
    assert len(names) == len(set(names)) == count
    assert {"roughness", "detection", "joint_kid"} <= set(names)  # and nothing of tables and sets
    assert not {"marginal", "pair_distance"} & set(names)
    assert any(line.startswith("tiny_kid") for line in help_lines)
    assert main(["eval", "digits", "--reference", str(tmp_path / "no.npz")]) == 2


INPUTS = {  # the type that the file takes, and the samples' error in it
    TensorProto.FLOAT: 1e-6,
    TensorProto.FLOAT16: 2e-3,
    TensorProto.DOUBLE: 1e-6,
    TensorProto.UINT8: 1e-6,
}


def export_typed(layer: nn.Linear, path, kind: int, batch="n", result=TensorProto.FLOAT) -> None:
    """As `export`, of pictures in another type; the first node casts them."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x32"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["h"], transB=1),
        helper.make_node("Cast", ["h"], ["features"], to=result),
    ]
    weights = [
        numpy_helper.from_array(p.detach().numpy(), name)
        for p, name in ((layer.weight, "w"), (layer.bias, "b"))
    ]
    entry = helper.make_tensor_value_info("x", kind, [batch, 1, 8, 8])
    output = helper.make_tensor_value_info("features", result, [batch, 5])
    graph = helper.make_graph(nodes, "typed", [entry], [output], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )


@pytest.mark.parametrize("batch", ["n", 1, 8, 100])
@pytest.mark.parametrize("kind", INPUTS)
def test_a_file_of_another_type_or_of_a_fixed_batch_gives_the_same_features(
    kind, batch, layer, tmp_path
):
    file = tmp_path / "typed.onnx"
    result = TensorProto.FLOAT if kind == TensorProto.UINT8 else kind
    export_typed(layer, file, kind, batch, result)
    x = pictures(70)
    expected = x.flatten(1)
    if kind == TensorProto.UINT8:
        (tmp_path / "typed.json").write_text(json.dumps({"range": [0, 255], "levels": 256}))
        expected = ((x + 1) * 127.5).round().flatten(1)
    features = open_extractor(file).features(x)
    assert features.dtype == torch.float32
    scale = layer(expected).abs().max().item()
    torch.testing.assert_close(features, layer(expected), rtol=0, atol=INPUTS[kind] * scale)


def test_samples_or_files_that_do_not_fit_are_told_in_one_line(layer, tmp_path):
    file = tmp_path / "typed.onnx"
    export_typed(layer, file, TensorProto.UINT8)
    with pytest.raises(UserError, match=r"takes bytes.*declare range \[0, 255\]"):
        open_extractor(file).features(pictures(3))
    export_typed(layer, file, TensorProto.INT64)
    with pytest.raises(UserError, match=r"takes tensor\(int64\)"):
        open_extractor(file)
    # The declared shape is not the one that its product takes.
    export(layer, file, ("n", 1, 4, 4))
    with pytest.raises(UserError, match=r"typed.onnx (fails for|is no model)"):
        open_extractor(file).features(pictures(3, side=4))
