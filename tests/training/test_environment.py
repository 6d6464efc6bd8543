"""A run ends with the same bits however it is started; every value survives the disk."""

from __future__ import annotations

import locale
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fewstep as fs
from fewstep.run.checkpoint import RunFolder, fingerprint, read, write
from tests.support.toys import tiny_run

RUN = {"iterations": 4, "picture_every": 2}


def fingerprint_of_run(out: Path) -> str:
    """The fingerprint of a run, which is that of its checkpoint on the disk too."""
    result = fs.train(tiny_run(**RUN), out=out, progress=False, device="cpu").fingerprint
    assert RunFolder(out).newest().state["fingerprint"] == result
    assert fs.load(out, device="cpu").fingerprint == result
    return result


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return fingerprint_of_run(tmp_path_factory.mktemp("plain") / "run")


def other_zone(monkeypatch, tmp_path):
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    time.tzset()


def turkish(monkeypatch, tmp_path):
    """Where upper("i") is not "I" and the decimal sign is a comma, as far as the system has it."""
    for variable in ("LC_ALL", "LANG", "LC_NUMERIC"):
        monkeypatch.setenv(variable, "tr_TR.UTF-8")
    for name in ("tr_TR.UTF-8", "de_DE.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            return
        except locale.Error:
            continue


def private(monkeypatch, tmp_path):
    os.umask(0o077)


def homeless(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)


def elsewhere(monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def clock_back(monkeypatch, tmp_path):
    """The clock jumps back by a day after every tenth look at it, and then runs on."""
    looks = [0]
    real = time.time

    def jumping() -> float:
        looks[0] += 1
        return real() - 86_400 * (looks[0] // 10)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))


def clock_still(monkeypatch, tmp_path):
    """A clock that stands still."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)


def other_generators(monkeypatch, tmp_path):
    """Somebody's own use of torch's global generator."""
    torch.manual_seed(12345)
    torch.rand(7)


ENVIRONMENTS = [
    other_zone,
    pytest.param(turkish, marks=pytest.mark.pictures),
    private,
    homeless,
    elsewhere,
    clock_back,
    clock_still,
    pytest.param(other_generators, marks=pytest.mark.pictures),
]


@pytest.fixture
def restore():
    """Puts back what no monkeypatch does."""
    mask = os.umask(0o022)
    names = locale.setlocale(locale.LC_ALL)
    state = torch.get_rng_state()
    yield
    os.umask(mask)
    locale.setlocale(locale.LC_ALL, names)
    torch.set_rng_state(state)


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: e.__name__)
def test_the_environment_changes_no_bit(environment, reference, tmp_path, monkeypatch, restore):
    environment(monkeypatch, tmp_path)
    assert fingerprint_of_run(tmp_path / "run") == reference
    monkeypatch.undo()
    time.tzset()


FOLDERS = {
    "spaces": "a run of mine",
    "unicode": "läufe-実験-🙂",
    "not UTF-8": os.fsdecode(b"caf\xe9-\xff"),
    "200 characters": "x" * 200,
    "looks like an option": "--out",
    "looks like a pattern": "[a-z]*?",
    "looks like a checkpoint": "step-4",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_folders_name_changes_no_bit(name, reference, tmp_path):
    out = tmp_path / FOLDERS[name] / "run"
    try:
        out.mkdir(parents=True)
        out.rmdir()
    except OSError:
        pytest.skip("this file system has no such names")
    assert fingerprint_of_run(out) == reference
    assert sorted(p.name for p in RunFolder(out).checkpoints()) == ["step-2", "step-4"]


def fresh(args: list[str], place: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter with almost no environment."""
    paths = [str(Path(fs.__file__).parents[1]), str(Path(__file__).parents[2])]
    names = {"PATH", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA"} & os.environ.keys()
    environment = {name: os.environ[name] for name in names}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), **env}
    return subprocess.run(
        [sys.executable, *args],
        cwd=place,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_a_name_that_is_no_text_is_told_all_the_same(tmp_path):
    """A folder whose name is not UTF-8 is printed with its bytes escaped."""
    name = os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(Path(fs.__file__).parent / "assets" / "digits", tmp_path / name)
    except OSError:
        pytest.skip("this file system has no such names")
    process = fresh(
        ["-m", "fewstep", "inspect", name],
        tmp_path,
        PYTHONUTF8="1",
        PYTHONIOENCODING="utf-8:strict",
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("path         caf\\udce9\n")


@pytest.mark.long
def test_a_fresh_optimised_interpreter_elsewhere_ends_with_the_same_bits(reference, tmp_path):
    """`python -O` drops asserts: none may be needed. And the other environments, all at once."""
    code = """
import os
from pathlib import Path
import fewstep as fs
from tests.support.toys import tiny_run
from tests.training.test_environment import RUN
assert False, "asserts are on"
os.umask(0o077)
out = Path(os.fsdecode(b"ein l\\xc3\\xa4ufer"))
print(fs.train(tiny_run(**RUN), out=out, progress=False, device="cpu").fingerprint)
"""
    process = fresh(
        ["-O", "-c", code],
        tmp_path,
        TZ="Asia/Kathmandu",
        LC_ALL="C",
        PYTHONHASHSEED="7",
        PYTHONUTF8="0",
    )
    assert process.returncode == 0, process.stderr[-800:]
    assert process.stdout.split()[-1] == reference
    assert oct((tmp_path / "ein läufer").stat().st_mode)[-3:] == "700"


# Quiet and signalling, with payloads.
NANS = [0x7FC00000, 0x7FC00001, 0xFFC12345, 0x7F800001, 0x7FBFFFFF]
FLOATS = [0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x3F800000, *NANS]
WIDE = [0, 1 << 63, 1, 0x800FFFFFFFFFFFFF, 0x7FF << 52, 0xFFF << 52]
WIDE += [0x7FF8000000000001, 0xFFF4000000ABCDEF]
HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7C00, 0xFC00, 0x7E01, 0xFD55]
HALVES += [0x7F80, 0xFF80, 0x7FC1, 0xFF81]


def of_bits(values: list[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose elements have those bits."""
    letter = {2: "H", 4: "I", 8: "Q"}[dtype.itemsize]
    return torch.frombuffer(bytearray(struct.pack(f"<{len(values)}{letter}", *values)), dtype=dtype)


TENSORS = {
    "f64": of_bits(WIDE, torch.float64),
    "f32": of_bits(FLOATS, torch.float32),
    "f16": of_bits(HALVES, torch.float16),
    "bf16": of_bits(HALVES, torch.bfloat16),
    "i64": torch.tensor([-(2**63), 2**63 - 1, 0]),
    "i32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
    "i8": torch.tensor([-128, 127], dtype=torch.int8),
    "u8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "complex": of_bits(WIDE, torch.complex64),
    "scalar": torch.tensor(-0.0),
    "scalar f64": of_bits(WIDE[-1:], torch.float64).reshape(()),
    "empty": torch.empty(0),
    "empty of three axes": torch.empty(2, 0, 3, dtype=torch.bfloat16),
    "transposed": of_bits(FLOATS, torch.float32).reshape(3, 4).t(),
    "strided": of_bits(FLOATS, torch.float32)[::3],
    "expanded": torch.tensor([-0.0]).expand(3, 2),
    "a name with ü, spaces and . / \\": torch.ones(1),
}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_bit_of_every_type_survives_the_disk(tmp_path):
    groups = {"student": TENSORS, "ema": {name: TENSORS[name] for name in ("f32", "scalar")}}
    about = {
        "run": {},
        "facts": {},
        "step": 3,
        "begun": 0,
        "stage": 1,
        "teacher_rows": 0,
        "log": "",
        "fingerprint": "",
    }
    write(tmp_path / "step-3", groups, about)
    result = read(tmp_path / "step-3").groups
    for name, tensor in TENSORS.items():
        back = result["student"][name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), name
        assert raw(back) == raw(tensor), name
    assert fingerprint(result) == fingerprint(groups)


def test_a_bit_that_comparison_does_not_see_is_seen():
    """-0.0 == 0.0 and NaN != NaN: the fingerprint looks at bytes."""
    zero, minus = torch.tensor([0.0]), torch.tensor([-0.0])
    quiet, payload = of_bits(NANS[:1], torch.float32), of_bits(NANS[1:2], torch.float32)
    assert torch.equal(zero, minus)
    assert len({fingerprint({"a": {"x": x}}) for x in (zero, minus, quiet, payload)}) == 4
    assert fingerprint({"a": {"x": payload}}) == fingerprint({"a": {"x": payload.clone()}})
