"""What is written samples as the run does, says nothing of this machine, and comes whole or not."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import fewstep as fs
from fewstep.base.errors import NonFiniteError, UserError
from fewstep.cli import main
from fewstep.data import Units
from fewstep.data.columns import Names
from fewstep.export import onnx_file, python_file, torch_file, writing
from fewstep.export.card import CARD, card, check_scores
from fewstep.export.contents import Contents, example_condition, prepare
from fewstep.export.words import DRAW
from fewstep.run.checkpoint.format import fingerprint
from tests.export.generators import NETWORKS, of_name, small
from tests.export.test_graph import own_network

ROWS = 64
PLACES = (str(Path.cwd()), str(Path.home()), sys.prefix, "secret", ".py", "/src/")


def relative(contents: Contents, samples: torch.Tensor) -> float:
    cond = example_condition(contents.generator, ROWS)
    ours = contents.samples(ROWS, cond=cond)
    assert samples.dtype == ours.dtype
    return float(((samples - ours).double().abs() / contents.scales()).max())


def inputs(contents: Contents) -> dict[str, torch.Tensor]:
    return contents.inputs(ROWS, cond=example_condition(contents.generator, ROWS))


def names_no_place(file: Path) -> bool:
    content = file.read_bytes()
    return not [place for place in PLACES if place.encode() in content]


@pytest.fixture(scope="module")
def model():
    """A small generator with classes in two steps, traced once."""
    return prepare(small(classes=3), steps=2)


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """It as ONNX and as Python."""
    parent = tmp_path_factory.mktemp("exports")
    for to in ("onnx", "safetensors"):
        report = writing.export(model, parent / to, to, license="apache-2.0")
        assert report.difference < report.bound == 5e-6
    return parent


def test_onnx_has_the_samples_in_one_deterministic_graph(model, folders):
    file = folders / "onnx" / "generator.onnx"
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    graph = proto.graph
    assert [entry.name for entry in graph.input] == ["noise", "renoise", "label"]
    assert [entry.name for entry in graph.output] == ["sample"]
    assert 18 <= proto.opset_import[0].version <= 20
    assert not [node for node in graph.node if "Random" in node.op_type]
    assert not graph.value_info
    assert not [node for node in graph.node if node.metadata_props or node.doc_string]
    sizes = sum(len(entry.raw_data) for entry in graph.initializer)
    assert sizes < 4.1 * model.weights + 1000  # stored once
    assert file.stat().st_size < 4.1 * model.weights + 100_000
    about = json.loads({p.key: p.value for p in proto.metadata_props}["fewstep"])
    assert about == model.to_json()
    assert (about["steps"], about["sigmas"]) == (2, pytest.approx([80.0, 0.821]))
    assert (about["method"], about["fingerprint"]) == ("ect", "f" * 64)
    session = onnxruntime.InferenceSession(str(file))
    assert session.get_inputs()[0].shape == ["batch", 3]
    for rows in (1, ROWS):
        values = {name: value[:rows].numpy() for name, value in inputs(model).items()}
        (samples,) = session.run(["sample"], values)
        np.testing.assert_allclose(samples, model.samples(ROWS)[:rows].numpy(), atol=5e-6, rtol=0)


ALONE = """
import sys
sys.modules["fewstep"] = None
import torch
before = set(sys.modules)
sys.path.insert(0, "safetensors")
import generator
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not new & {"fewstep", "safetensors", "numpy", "onnx"}, new
w, parts = generator.load("safetensors/weights.safetensors"), generator.load("inputs.safetensors")
code = generator.sample(w, **parts)
program = torch.export.load("torch/generator.pt2").module()(**parts)
torch.testing.assert_close(code, program, rtol=0, atol=1e-6)
sys.stdout.buffer.write(code.numpy().tobytes())
"""


@pytest.mark.long
def test_python_and_torch_where_this_package_is_not(tmp_path):
    """`fewstep export` itself compares the Python so; here with all else that it could import."""
    digits = prepare(fs.load("digits", device="cpu"), steps=2)
    for to in ("safetensors", "torch"):
        writing.export(digits, tmp_path / to, to)
    parts = {name: value.contiguous() for name, value in inputs(digits).items()}
    save_file(parts, tmp_path / "inputs.safetensors")
    result = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ALONE], cwd=tmp_path, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
    samples = np.frombuffer(result.stdout, np.float32).reshape(ROWS, 1, 8, 8)
    np.testing.assert_allclose(samples, digits.samples(ROWS).numpy(), atol=1e-5, rtol=0)


def test_the_python_is_short_and_imports_torch_alone(folders):
    code = (folders / "safetensors" / "generator.py").read_text()
    assert re.findall(r"^(?:import|from) (\w+)", code, re.M) == ["json", "torch"]
    assert len(python_file.LOADER.splitlines()) <= 20
    assert python_file.LOADER in code
    assert code.count("\ndef network(") == 1
    assert code.count(" = network(w, ") == 2  # once for each step
    loaded = {}
    exec(code, loaded)
    file = folders / "safetensors" / "weights.safetensors"
    own = load_file(file)
    assert loaded["load"](file).keys() == own.keys()
    assert all(torch.equal(loaded["load"](file)[name], own[name]) for name in own)


@pytest.mark.parametrize("to", ["onnx", "safetensors"])
def test_no_file_names_a_place_of_this_machine(folders, to):
    files = [path for path in (folders / to).iterdir() if path.suffix not in (".md", ".py")]
    assert files
    assert all(map(names_no_place, files))
    texts = [path.read_text() for path in (folders / to).iterdir() if path.suffix in (".md", ".py")]
    assert not [place for place in PLACES[:4] for text in texts if place in text]


def test_the_card_says_how_to_sample_and_its_code_runs(model, folders, monkeypatch):
    for to in ("onnx", "safetensors"):
        monkeypatch.chdir(folders / to)
        monkeypatch.syspath_prepend(str(folders / to))
        text = Path(CARD).read_text()
        assert text.startswith('---\nlibrary_name: fewstep\nlicense: "apache-2.0"\n')
        assert "Not measured." in text
        assert model.generator.fingerprint in text
        sampling, seeds = re.findall(r"```python\n(.*?)```", text, re.S)
        scope: dict = {}
        exec(sampling, scope)
        assert scope["samples"].shape == (16, 3)
        exec(seeds, scope)
        for name, value in model.inputs(16).items():
            assert torch.equal(torch.as_tensor(scope["inputs"][name]), value)


def test_noise_of_a_seed_is_the_generators():
    scope: dict = {}
    exec(DRAW, scope)
    theirs = scope["unit_noise"](7, "renoise 2", 70_000, (2,))
    ours = fs.base.randomness.normal(7, "renoise 2", 0, 70_000, (2,), 16)
    assert torch.equal(theirs, ours)


@pytest.mark.long
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_half_of_the_shipped_generator(steps, tmp_path):
    contents = prepare(fs.load("digits", device="cpu"), steps=steps, half=True)
    for write, file in (
        (onnx_file.write, "generator.onnx"),
        (python_file.write, "weights.safetensors"),
        (torch_file.write, "generator.pt2"),
    ):
        assert relative(contents, write(contents, tmp_path)(inputs(contents))) < 1e-3
        rest = 150_000 if file == "generator.onnx" else 300_000
        assert (tmp_path / file).stat().st_size < 2.1 * contents.weights + rest


def check_all(contents: Contents, folder: Path) -> None:
    bound = writing.bound_of(contents)
    for write in (onnx_file.write, torch_file.write, python_file.write):
        assert relative(contents, write(contents, folder)(inputs(contents))) < bound
    assert (folder / "generator.onnx").stat().st_size < 4.1 * contents.weights + 100_000
    assert names_no_place(folder / "generator.onnx")
    assert names_no_place(folder / "generator.pt2")


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_as_every_target(name, tmp_path):
    check_all(prepare(of_name(name)), tmp_path)


@pytest.mark.long
def test_generators_of_every_kind_as_every_target(tmp_path):
    diffusion = small(method="diffusion", std=0.1)
    check_all(prepare(diffusion, steps=15, sampler="heun"), tmp_path)
    check_all(prepare(diffusion, steps=8, sampler="ancestral"), tmp_path)
    check_all(prepare(small(method="mcm", method_options={"K": 4})), tmp_path)
    composite = small(method="tcm", composite=True).with_later_sigmas((2.0, 0.5))
    check_all(prepare(composite), tmp_path)
    check_all(prepare(own_network(), steps=2), tmp_path)
    check_all(prepare(of_name("ddpmpp"), steps=4), tmp_path)


@pytest.mark.long
def test_quantiles_as_every_target(tmp_path):
    table = torch.randn(500, 2, generator=fs.base.randomness.generator(0, "x")).exp()
    run = fs.recipes.toy(iterations=5, units="quantile")
    contents = prepare(fs.train(run, table, progress=False, device="cpu"), steps=2)
    check_all(contents, tmp_path)


def stand_in(monkeypatch, write) -> None:
    monkeypatch.setitem(writing.TARGETS, "torch", replace(writing.TARGETS["torch"], write=write))


def right(contents, folder):
    (folder / "generator.pt2").write_text("x")
    return lambda parts: contents.samples(16)


def test_a_difference_beyond_the_bound_leaves_nothing(model, tmp_path, monkeypatch):
    out = tmp_path / "new" / "g.pt2"

    def wrong(contents, folder):
        right(contents, folder)
        return lambda parts: contents.samples(16) + 1e-5

    stand_in(monkeypatch, wrong)
    with pytest.raises(UserError, match=r"differ from the run's by 1e-05 of .*: expected at most"):
        writing.export(model, out)
    assert list(out.parent.iterdir()) == []
    stand_in(monkeypatch, lambda contents, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writing.export(model, out)
    assert list(out.parent.iterdir()) == []
    stand_in(monkeypatch, wrong)
    assert writing.export(model, out, tolerance=1e-4).difference == pytest.approx(1e-5, rel=0.1)


def test_weights_that_diverged_are_an_error(tmp_path, monkeypatch):
    g = small()
    next(g.denoiser.parameters()).data[:] = torch.nan
    stand_in(monkeypatch, right)
    with pytest.raises(NonFiniteError, match="its weights have diverged"):
        writing.export(prepare(g), tmp_path / "g.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_stays_unless_it_is_an_export(model, tmp_path, monkeypatch):
    stand_in(monkeypatch, right)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="mine exists"):
            writing.export(model, tmp_path / "mine", "torch", **options)
    (tmp_path / "g.pt2.md").write_text("x")
    with pytest.raises(UserError, match=r"g\.pt2\.md exists: expected a new name, or --overwrite"):
        writing.export(model, tmp_path / "g.pt2")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    writing.export(model, tmp_path / "g", "torch")
    (tmp_path / "g" / "old").write_text("x")
    writing.export(model, tmp_path / "g", "torch", overwrite=True)
    names = {path.name for path in (tmp_path / "g").iterdir()}
    assert names == {"generator.pt2", "generator.json", "README.md"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "g.pt2.md", "mine"]


MISTAKES = {
    "digits out": "expected a name that ends in .onnx or .pt2, or a folder with --to onnx",
    "digits out --to onix": "unknown target 'onix': did you mean 'onnx'?",
    "digits out.onnx --to torch": "out.onnx for --to torch: expected the name of a folder",
    "digits g.onnx --push me/g": "--push of the file g.onnx: expected the name of a folder",
    "digits g --to onnx --private": "--private: expected --push OWNER/NAME with it",
    "digits . --to onnx": "--overwrite",
    "digits g.onnx --sampler addim --steps 3": "step 'addim' is not linear",
    "digits g.onnx --tolerance -1": "tolerance = -1.0: expected above 0",
    "digits g.onnx --scores nowhere.json": "cannot read nowhere.json: No such file",
    "nowhere g.onnx": "no run folder nowhere",
    "digits out --to diffusers": "there is no class for the network 'mlp'",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_one_line_before_anything_is_traced(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("x")
    assert main(["export", *words.split()]) in (2, 4)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewstep:")]
    assert len(lines) == 1
    assert MISTAKES[words] in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.long
def test_the_command_writes_a_program_and_reports_it(tmp_path, monkeypatch, capsys):
    """Sets with masks, in the form of torch.export: a second network that is traced."""
    monkeypatch.chdir(tmp_path)
    g = of_name("set_transformer")
    g.save("run")
    assert main(["export", "run", "g.pt2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"].keys() == {"g.pt2", "g.pt2.md"}
    for name, entry in report["files"].items():
        content = Path(name).read_bytes()
        assert len(content) == entry["bytes"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert report["bytes"] == sum(entry["bytes"] for entry in report["files"].values())
    assert (report["steps"], list(report["inputs"])) == (1, ["noise", "features", "label", "mask"])
    assert names_no_place(Path("g.pt2"))
    assert 'load("g.pt2")' in Path("g.pt2.md").read_text()
    contents = prepare(g)
    program = torch.export.load("g.pt2").module()
    assert relative(contents, program(**inputs(contents))) < 5e-6
    assert program(**{k: v[:3] for k, v in inputs(contents).items()}).shape == (3, 5, 2)


def test_names_and_units_are_on_the_card():
    names = {"columns": [["mass|kg", "float", []], *[["length", "float", []]] * 2]}
    names |= {"classes": ["cat", "dog"], "label": "animal"}
    units = Units((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), axis=0)
    contents = prepare(small(classes=2, names=Names.from_json(names), units=units), steps=3)
    text = card(contents, "torch", name="pets")
    assert "| 1 | dog |" in text
    assert r"| mass\|kg | 1 | 4 |" in text
    assert "| noise levels | 80, " in text
    assert "/home" not in text
    assert "# pets" in text


SCORES = {"metric": "energy", "steps": 2, "value": 0.25, "error": 0.1, "floor": 0.125}
SCORES |= {"interval": [0.0, 0.5], "floor_error": None, "floor_interval": None, "values": []}


def test_a_runs_own_words_are_no_code(model):
    """A run's file may be anybody's, and what is written is run to compare it."""
    words = {"data": "rows\\", "method": 'ect""" + exit(0) + """'}
    run = replace(model.generator.run, **words)
    hostile = replace(model, generator=replace(model.generator, run=run))
    kinds = [type(node).__name__ for node in ast.parse(python_file.code_of(hostile)).body]
    functions = ["FunctionDef"] * 3
    assert kinds == ["Expr", "Import", "Import", "Assign", *functions]


def test_scores_are_of_these_weights_and_steps(model):
    own = fingerprint({"denoiser": model.generator.denoiser.state_dict()})
    protocol = {"generator": own, "n": 300, "draws": 4, "split": "test", "candidates": 1}
    rows = [SCORES | {"protocol": protocol}, SCORES | {"protocol": protocol, "steps": 1}]
    results = check_scores({"results": rows}, model)
    text = card(model, "onnx", scores=results)
    line = "| energy | 0.2500 | 0.0000 .. 0.5000 | 0.1250 | 300 | 4 | test | 1 |"
    assert text.count("| energy |") == text.count(line) == 1
    data = ModelCard(text).data
    assert data.library_name == "fewstep"
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [("energy", 0.25)]
    for bad, words in (
        ([], "expected the output of 'fewstep eval"),
        ({"results": rows[1:]}, "scores of 1 steps: expected --steps 2"),
        ({"results": [rows[0] | {"protocol": {"generator": "a"}}]}, "scores of the weights a"),
        ({"results": [{"metric": "energy"}]}, "a result without"),
    ):
        with pytest.raises(UserError, match=words):
            check_scores(bad, model)
    other = prepare(model.generator, steps=3, sampler="heun")
    with pytest.raises(UserError, match="by the run's own sampler"):
        check_scores({"results": rows}, other)


def test_a_missing_library_is_told_before_anything_is_traced(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "digits", str(tmp_path / "g.onnx")]) == 2
    line = "fewstep: ONNX needs onnx and others: pip install 'fewstep[onnx]'"
    assert capsys.readouterr().err.splitlines() == [line]
