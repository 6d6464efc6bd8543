"""Every hostile file is refused with one line, runs nothing, and takes neither time nor memory.

Foreign pickles (.pt, .pkl and the like) are refused everywhere, until there is an import that reads
them in a process of its own. How far archives and pictures may expand is tested with their readers.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import time

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.base.errors import StorageError, UserError
from fewstep.base.json_file import MOST_JSON, document
from fewstep.base.tensor_file import read_tensors
from fewstep.cli import main
from fewstep.run.build import build_method, outline
from fewstep.run.checkpoint import RunFolder
from fewstep.run.facts import Facts
from tests.support import fuzzed_files, hostile
from tests.support.fuzzing import MEMORY, SECONDS, Contract
from tests.support.resources import run_contained
from tests.support.toys import tiny_run

CORPUS = hostile.corpus()
DOORS = {
    "data": "train toy --data {file} --iterations 1 --out {out}",
    "init": "train toy --init {file} --iterations 1 --out {out}",
    "teacher": "train toy --method cd --teacher {file} --iterations 1 --out {out}",
    "inspect": "inspect {file}",
    "sample": "sample {file} --out {out}.npy",
    "condition": "sample digits --cond {file} --out {out}.npy",
}


def run_command(argv: list[str]) -> tuple[int, str, float]:
    """The command's exit code, what it prints on stderr, and the seconds of the processor."""
    start = time.process_time()
    error, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(output):
        code = main(argv)
    return code, error.getvalue(), time.process_time() - start


def check_refusal(code: int, text: str, seconds: float, what: str = "") -> None:
    """Asserts that it is one line, with the code of a mistake or of the storage, at once."""
    assert code in (2, 4), (what, code, text)
    assert text.startswith("fewstep: "), (what, text)
    assert text.endswith("\n"), (what, text)
    assert text[:-1].isprintable(), (what, text)
    assert seconds <= SECONDS, (what, seconds)


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What a first command imports is not the files' doing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for line in DOORS.values():
        run_command(line.format(file="/nowhere.npy", out=f"{os.devnull}.nope").split())
    run_command(["inspect", "digits"])
    yield
    torch.set_num_threads(threads)


def test_the_corpus_is_large():
    kinds = ("pickle", "torch", "object", "saved", "raw")
    assert len(CORPUS) >= 45
    assert sum(any(kind in name for kind in kinds) for name in CORPUS) >= 15


def test_the_canary_sings_where_a_pickle_is_read(tmp_path):
    """The payloads do run where somebody unpickles them: else their absence would prove nothing."""
    readers = {
        hostile.raw: pickle.loads,
        hostile.by_torch: lambda content: torch.load(io.BytesIO(content), weights_only=False),
        hostile.object_array: lambda content: np.load(io.BytesIO(content), allow_pickle=True),
    }
    for make, read in readers.items():
        canary = tmp_path / make.__name__
        content = make(canary)
        assert not canary.exists()
        read(content)
        assert canary.exists(), make


NAMES = sorted(CORPUS)
TOGETHER = 8  # files in one process: a fork is slower than what it is for


@pytest.mark.parametrize("first", range(0, len(NAMES), TOGETHER))
def test_hostile_files_are_refused_at_every_door(tmp_path, first):
    out = tmp_path / "out"
    files = {name: tmp_path / f"{number}" for number, name in enumerate(NAMES)}

    def refusals():
        for number, name in enumerate(NAMES[first : first + TOGETHER]):
            place = files[name]
            # One function opens initial weights and teachers: in turn.
            left_out = ("init", "teacher")[number % 2]
            place.mkdir()
            (place / name).write_bytes(CORPUS[name](place / "canary"))
            for door in DOORS.keys() - {left_out}:
                line = DOORS[door]
                argv = [word.format(file=place / name, out=out) for word in line.split()]
                check_refusal(*run_command(argv), what=f"{name} as {door}")
            assert [path.name for path in place.iterdir()] == [name], f"{name} ran or wrote"

    outcome = run_contained(refusals)
    assert outcome.end == "returned", outcome
    assert outcome.growth <= MEMORY, outcome


STRICT = {
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "1e400": b"1e400",
    "5000 digits": b"9" * 5000,
    "twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "twice, the last of many": (
        b"{" + b"".join(b'"%d": 1, ' % i for i in range(100_000)) + b'"99999": 1}'
    ),
    "deep": b"[" * 10**6,
    "deep objects": b'{"a":' * 10**5,
    "long": b"[" + b"0," * MOST_JSON + b"0]",
    "no UTF-8": b'{"a": "\xff"}',
    "nothing": b"",
}


@pytest.mark.parametrize("what", STRICT)
def test_json_is_strict(what):
    contract = Contract()
    contract.holds(what, lambda: document(STRICT[what], "x.json"))
    assert contract.counts["refused"] == 1


def test_the_longest_json_takes_little():
    lists = b"[" + b",".join([b"[]"] * (MOST_JSON // 3 - 1)) + b"]"
    outcome = run_contained(lambda: len(document(lists, "x.json")))
    assert outcome.end == "returned", outcome
    assert outcome.seconds < SECONDS, outcome


@pytest.mark.parametrize("name", fuzzed_files.HEADERS)
def test_a_header_that_lies_is_refused_by_the_reader(tmp_path, name):
    """Names are names: nothing is looked up or opened by them, so that those that look like paths
    are harmless.
    """
    file = tmp_path / "x.safetensors"
    contract = Contract()
    file.write_bytes(fuzzed_files.HEADERS[name](hostile.save(hostile.VALID)))
    result = contract.holds(name, lambda: read_tensors(file))
    assert (result is not None) == (name in fuzzed_files.HARMLESS)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return fuzzed_files.tiny_checkpoint(tmp_path_factory.mktemp("valid"))


@pytest.mark.parametrize("name", fuzzed_files.FOLDERS)
def test_a_checkpoint_folder_that_lies_is_refused(tmp_path, valid, name):
    run = fuzzed_files.copy(valid, tmp_path / "run")
    out = tmp_path / "x.npy"
    fuzzed_files.FOLDERS[name](fuzzed_files.at(run))
    commands = [["inspect", str(run)], ["sample", str(fuzzed_files.at(run)), "--out", str(out)]]
    outcome = run_contained(lambda: [run_command(argv) for argv in commands])
    assert outcome.end == "returned", outcome
    for result in outcome.value:
        check_refusal(*result, what=name)
    assert not out.exists()


@pytest.mark.parametrize("name", fuzzed_files.HEADERS)
def test_a_checkpoint_whose_weights_lie_is_refused(tmp_path, valid, name):
    run = fuzzed_files.copy(valid, tmp_path / "run")
    contract = Contract()
    fuzzed_files.with_header(run, name)
    result = contract.holds(name, lambda: fs.load(run, device="cpu"))
    assert (result is not None) == (name == "metadata of 2 MiB")


HUGE = {
    "a wide network": ({"network_options": {"width": 10**6, "depth": 4}}, "weight"),
    "a deep network": ({"network_options": {"width": 16, "depth": 10**6}}, "tensors"),
    "another network": ({"network": "song_unet", "network_options": {}}, "shape"),
    "a network of somebody": ({"network": "os:system"}, "network"),
    "a method of somebody": ({"method": "os:system"}, "method"),
    "a method of 1e12 levels": ({"method_options": {"stages": 10**12}}, "method.stages"),
    "averages without end": ({"averages": ["decay:0.5"] * 2000}, "averages"),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_checkpoint_whose_run_lies_is_refused(tmp_path, valid, name):
    """A run that describes a huge network, or somebody's code, is refused before memory is taken or
    code found.
    """
    run = fuzzed_files.copy(valid, tmp_path / "run")
    fields, word = HUGE[name]
    state = json.loads((fuzzed_files.at(run) / "state.json").read_text())
    fuzzed_files.with_state(run, {**state, "run": {**state["run"], **fields}})
    outcome = run_contained(
        lambda: run_command(["sample", str(run), "--out", str(tmp_path / "x.npy")])
    )
    assert outcome.end == "returned", outcome
    check_refusal(*outcome.value, what=name)
    assert word in outcome.value[1]
    assert outcome.growth <= MEMORY, outcome


TABLES = {
    "uvit": {"mult": [1, 2, 10**6, 8]},
    "dit": {"width": 10**6, "patch": 1, "heads": 2},
    "adm_unet": {"channels": 10**6, "mult": [10**6]},
    "song_unet": {"channels": 10**6, "mult": [10**6]},
    "edm2_unet": {"channels": 10**6, "mult": [10**6]},
}


@pytest.mark.parametrize("name", TABLES)
def test_a_network_whose_tables_are_huge_is_outlined_without_them(name):
    """What it computes when it is built, such as positions, is refused or takes no memory."""
    run = fs.recipes.toy(network=name, network_options=TABLES[name])
    facts = Facts((3, 64, 64), 3, 0.5, fs.data.Units(), "", "labels")
    method = build_method(run, facts)

    def refusal() -> str:
        try:
            outline(run, facts, method, 2000)
        except UserError as error:
            return str(error)
        return ""

    outcome = run_contained(refusal)
    assert outcome.end == "returned", outcome
    assert "memory" not in outcome.value, outcome  # that none was left
    assert outcome.growth <= MEMORY, outcome


FACTS = {
    "shape": [[], [0], [2**40], [-2], [2.0], "xx", {"a": 1}, [1] * 9, [2**20, 2**20]],
    "classes": [-1, 10**9, "3", True, None],
    "sigma_data": [0, -1.0, "1", None, True, 10**400],
    "units": [
        [],
        [0.0],
        [0.0, 0.0, False],
        [0.0, 1.0, 1],
        [0, 10**400, True],
        ["0", 1.0, True],
        {"shift": 0},
    ],
    "cond": [
        "label",
        "labels",
        ["load", [2]],
        ["float32", 2],
        ["float64", [2]],
        {"label": None},
        {"a": {"b": [[]]}},
        3,
    ],
    "data": [None, 3, ["x"]],
    "teacher": [{}, 1],
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_that_cannot_be_are_refused_by_name(valid, name):
    facts = json.loads((fuzzed_files.at(valid) / "state.json").read_text())["facts"]
    for value in FACTS[name]:
        with pytest.raises(StorageError, match=rf"facts\.{name} = ") as error_info:
            Facts.from_json({**facts, name: value})
        Contract().check_refusal(name, error_info.value)
    for wrong in (None, [], "x", {}):
        with pytest.raises(StorageError, match="are not what this version writes"):
            Facts.from_json(wrong)


def test_whole_numbers_longer_than_a_tensor_takes_are_floats(valid):
    facts = json.loads((fuzzed_files.at(valid) / "state.json").read_text())["facts"]
    result = Facts.from_json({**facts, "units": [10**30, 10**20, False], "sigma_data": 10**20})
    assert result.units.to_user(torch.ones(1)).isfinite().all()
    assert type(result.sigma_data) is float


@pytest.mark.parametrize("key", ["recipe", "method", "network"])
def test_a_run_folder_that_names_code_does_not_run_it(tmp_path, monkeypatch, key):
    """run.json may name a recipe or network as module:function; only the command line has it
    imported.
    """
    (tmp_path / "canary_module.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(
        json.dumps({**tiny_run().to_json(), key: "canary_module:make"})
    )
    monkeypatch.chdir(tmp_path)
    check_refusal(*run_command(["train", "toy", "--resume", "--out", "run", "--iterations", "1"]))
    assert not (tmp_path / "canary").exists()


def test_a_valid_run_is_not_refused(valid):
    """The rules above refuse lies, not checkpoints."""
    assert RunFolder(valid).newest().state["step"] == fuzzed_files.STEP
    assert len(fs.load(valid, device="cpu").sample(3)) == 3
    with pytest.raises(StorageError):
        fs.load(valid / "samples")
