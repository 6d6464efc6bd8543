"""The reader of foreign files: what it gives of good ones, and that nothing in bad ones runs."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.base.errors import FewstepError, StorageError, UserError
from fewstep.foreign import reading
from fewstep.foreign.apart.container import EXPECTED, Budget, load
from fewstep.foreign.apart.main import write
from fewstep.foreign.apart.tree import Table
from fewstep.foreign.apart.values import Refusal, Span
from fewstep.foreign.reading import read_foreign
from fewstep.foreign.tree import Instance, Name, entries
from tests.support import hostile_pickles

CORPUS = hostile_pickles.corpus()
HEAVY = "a million lists"  # in the test of memory
# Files that could take time or memory, or run something, are read in the process that is for it.
APART = sorted({*hostile_pickles.programs(), *hostile_pickles.bombs()} - {HEAVY})
# Of these nothing is left but one line.
REFUSED = {
    "an extension", "in the bytes of a tensor", "five files deep", "a file in itself",
    "a name of 1 MB", "memo number 10^400", "a number that declares 2 GB", "text of 4 GB",
    "lists 100 000 deep", "a million lists", "a stack of marks", "a stack of copies",
    "a number of 1 MB", "a number of 1e6 digits", "bytes of 2^60", "a deflated pickle",
    "a deflated storage", "a storage of 1e12", "a storage that is missing", "members that overlap",
    "two members of one name", "an encrypted member", "a member of 4 GB", "a cut zip",
    "a member beyond the file", "a size of zip64 that is missing", "a zip for a pickle",
    "a deflated member that is cut", "a cut pickle", "an old storage of 2^62", "an empty stack",
    "an old list of storages, doubled", "a key without a value", "items of a text", "noise",
}  # fmt: skip


def refusal_of(path: Path) -> str:
    """The line of the error; "" where the file is read."""
    try:
        read_foreign(path)
    except FewstepError as error:
        return str(error)
    return ""


def test_the_corpus_is_large():
    assert len(CORPUS) >= 60
    assert CORPUS.keys() >= REFUSED


@pytest.mark.parametrize("first", range(0, len(APART), 12))
def test_hostile_files_run_nothing(tmp_path, first):
    for number, name in enumerate(APART[first : first + 12]):
        place = tmp_path / str(number)
        place.mkdir()
        path = place / "x.pkl"
        path.write_bytes(CORPUS[name](place / "canary"))
        line = refusal_of(path)
        assert bool(line) == (name in REFUSED), (name, line)
        assert not line or line.startswith(str(path))
        assert line.isprintable()
        assert [one.name for one in place.iterdir()] == ["x.pkl"], f"{name} ran or wrote"


def test_the_canary_sings_where_a_pickle_is_read(tmp_path):
    """Else its absence would prove nothing."""
    for name in ("os.system", "INST", "OBJ", "a reduce of protocol 5", "a call of a call"):
        canary = tmp_path / name.replace(" ", "-")
        pickle.loads(CORPUS[name](canary))
        assert canary.exists(), name


def kinds() -> dict[str, object]:
    shared = torch.arange(12.0)
    return {
        "view": shared.view(3, 4)[1:, ::2],
        "column": shared.view(3, 4).T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "truth": torch.tensor([True, False]),
        "complex": torch.ones(1, dtype=torch.complex64),
        "eighth": torch.ones(3).to(torch.float8_e4m3fn),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "array": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "number": np.float32(1.5),
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, a=[1]),
        "count": collections.Counter("aab"),
        "set": {1},
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "slice": slice(1, 2),
        "path": Path("/a/b"),
        "namespace": argparse.Namespace(lr=0.1),
        "module": torch.nn.Linear(2, 3),
        "bytes": b"ab",
        "long bytes": b"a" * 10**4,
        "long text": "\u00e9" * 10**4,
        "large": 2**100,
        "infinite": float("inf"),
        "class": collections.OrderedDict,
    }


SAVERS = {
    "zip": lambda value, out: torch.save(value, out),
    "old": lambda value, out: torch.save(value, out, _use_new_zipfile_serialization=False),
    **{
        f"pickle {p}": lambda value, out, p=p: pickle.dump(value, out, protocol=p)
        for p in (0, 2, 5)
    },
}


@pytest.mark.parametrize("how", SAVERS)
def test_values_of_every_kind(tmp_path, how):
    value = kinds()
    out = io.BytesIO()
    SAVERS[how](value, out)
    (tmp_path / "x.pt").write_bytes(out.getvalue())
    root = read_foreign(tmp_path / "x.pt").root
    assert root.keys() == value.keys()
    for name, one in value.items():
        if isinstance(one, torch.Tensor):
            assert root[name].dtype == one.dtype, name
            kind = torch.complex128 if one.is_complex() else torch.float64
            assert torch.equal(root[name].to(kind), one.detach().to(kind)), name
    if not how.startswith("pickle"):  # there each tensor has its own
        places = {root[name].untyped_storage().data_ptr() for name in ("view", "column")}
        assert len(places) == 1
    assert torch.equal(root["array"], torch.from_numpy(value["array"]))
    same = ("number", "ordered", "default", "count", "dtype", "bytes", "large", "infinite")
    assert {name: root[name] for name in same} == {name: value[name] for name in same}
    assert root["size"] == (1, 2)
    assert root["class"] == Name("collections.OrderedDict")
    assert root["set"].args == (1,)
    assert entries(root["namespace"]) == {"lr": 0.1}
    assert root["namespace"].class_name == "argparse.Namespace"
    assert torch.equal(entries(root["module"])["_parameters"]["weight"], value["module"].weight)
    assert root["long bytes"].args == (10**4, b"a" * 64)
    assert root["long text"] == value["long text"][:4000]
    assert root["path"].class_name.startswith("pathlib.")


def test_a_tensor_larger_than_its_storage_is_recorded(tmp_path):
    """The one kind of view that would take memory which the file does not have."""
    torch.save({"a": torch.ones(1).expand(10**9), "b": torch.ones(4)}, tmp_path / "x.pt")
    root = read_foreign(tmp_path / "x.pt").root
    assert isinstance(root["a"], Instance)
    assert root["a"].args[-1] == "it has more elements than its storage"
    assert root["b"].tolist() == [1, 1, 1, 1]


def test_shared_values_stay_shared(tmp_path):
    (tmp_path / "x.pkl").write_bytes(CORPUS["a billion laughs"](tmp_path))
    value = read_foreign(tmp_path / "x.pkl").root[-1]
    for _ in range(60):
        assert value[0] is value[1]
        value = value[0]


SAID = {
    b"": "is no checkpoint that is read: it is empty",
    b"version https://git-lfs.github.com/spec/v1\n": "pointer of Git LFS",
    b"<!DOCTYPE html>": "page of the web",
    b"root:x:0:0:root": f"is no checkpoint that is read: {EXPECTED}",
    b"some notes of mine, and more\n": EXPECTED,
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR": EXPECTED,
    pickle.dumps([1.5] * 100, 0)[:400]: "it declares 1 bytes and has 0",
    pickle.dumps([1.5] * 100, 2)[:60] + b"\xff": "has the opcode 0xff at byte",
    pickle.dumps([1.5] * 100)[:40]: "is damaged",
}


@pytest.mark.parametrize("content", SAID)
def test_what_is_no_checkpoint_is_said(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(StorageError, match=SAID[content]):
        read_foreign(tmp_path / "x.pt")


def test_a_program_of_torchscript_and_another_byte_order_are_said(tmp_path):
    good = {"a/data.pkl": hostile_pickles.weights(hostile_pickles.GOOD), "a/data/0": b"\0" * 16}
    for more, text in (
        ({"a/code/x.py": b""}, "TorchScript"),
        ({"a/byteorder": b"big"}, "byte order"),
    ):
        (tmp_path / "x.pt").write_bytes(hostile_pickles.archive({**good, **more}))
        with pytest.raises(StorageError, match=text):
            read_foreign(tmp_path / "x.pt")


def test_limits_are_the_callers(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pt")
    with pytest.raises(StorageError, match="declare 4000 bytes"):
        read_foreign(tmp_path / "x.pt", most_bytes=3999)
    with pytest.raises(StorageError, match="more than 0 seconds"):
        read_foreign(tmp_path / "x.pt", seconds=1e-4)
    with pytest.raises(UserError, match="expected a file"):
        read_foreign(tmp_path / "y.pt")


# Writes the highest memory of the process, in kB, to a file that was open before its limits.
MEASURED = """
import os, sys
status, out, end = open('/proc/self/status'), open(sys.argv[5], 'a'), os._exit
def leave(code):
    status.seek(0)
    line = next(line for line in status if line.startswith('VmHWM'))
    out.write(line.split()[1] + '\\n'); out.flush(); end(code)
os._exit = leave
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its memory is in /proc")
def test_the_reader_takes_little_memory(tmp_path, monkeypatch):
    """Four times the file's size and 64 MB at most, also where a file asks for more."""
    log = tmp_path / "peaks"
    run = subprocess.run
    monkeypatch.setattr(reading, "START", MEASURED + reading.START)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: run([*command, str(log)], **options)
    )
    sizes = []
    for name in (HEAVY,):
        (tmp_path / "x.pkl").write_bytes(CORPUS[name](tmp_path / "canary"))
        sizes.append((tmp_path / "x.pkl").stat().st_size)
        assert "is refused" in refusal_of(tmp_path / "x.pkl")
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "x.pkl")
    assert len(read_foreign(tmp_path / "x.pkl").root["a"]) == 10**6
    sizes.append(4 * 10**6)
    peaks = [1024 * int(line) for line in log.read_text().split()]
    assert len(peaks) == len(sizes)
    for peak, size in zip(peaks, sizes, strict=True):
        assert peak < 4 * size + 64 * 2**20


CONFINED = """
import sys
sys.path.append(sys.argv[1])
import apart.main as main
print(sorted({'pickle', 'torch', 'numpy', 'fewstep', 'site'} & sys.modules.keys()))
main.contain(5, 10**9, 10**6)
import os
for attempt in ("open('/etc/passwd')", "os.pipe()", "os.fork()"):
    try:
        eval(attempt)
        print('possible:', attempt)
    except OSError:
        pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limits")
def test_the_reader_can_open_nothing():
    """Were there a hole in it, the process has neither files nor sockets, nor torch or pickle."""
    command = [sys.executable, "-I", "-S", "-c", CONFINED, str(reading.PLACE)]
    end = subprocess.run(command, capture_output=True, text=True, check=True)
    allowed = {"[]", "possible: os.fork()"}  # the administrator's processes have no number limit
    assert set(end.stdout.splitlines()) <= allowed
    assert "[]" in end.stdout


def read_here(content: bytes) -> bool:
    """Reads as the other process does, in this one; whether there were values. Raises nothing."""
    budget = Budget(2**20)
    try:
        table = Table(budget)
        value, form = load(Span(content, 0, len(content)), budget)
        write(table, table.value(value), form, io.BytesIO())
    except Refusal:
        return False
    return True


@pytest.mark.parametrize("name", hostile_pickles.lies())
def test_lies_are_refused_or_recorded(tmp_path, name):
    content = CORPUS[name](tmp_path / "canary")
    assert read_here(content) == (name not in REFUSED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("places", [25, pytest.param(400, marks=pytest.mark.long)])
@pytest.mark.parametrize("how", SAVERS)
def test_files_cut_or_changed_anywhere_are_refusals_or_values(how, places):
    """Nothing else comes out: no error of Python's that would hide a wrong thought."""
    out = io.BytesIO()
    SAVERS[how]({"a": torch.ones(3), "b": [1, "x", None], "c": np.float32(1)}, out)
    content = out.getvalue()
    assert read_here(content)
    for place in range(1, len(content), max(1, len(content) // places)):
        read_here(content[:place])
        for byte in (0, 46, 82, 98, 255):
            read_here(content[:place] + bytes([byte]) + content[place + 1 :])
