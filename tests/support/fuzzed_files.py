"""Mutations of a checkpoint's metadata, signed anew so that the manifest does not tell."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fewstep as fs
from fewstep.run import checkpoint
from fewstep.run.checkpoint import RunFolder
from fewstep.run.checkpoint.format import root
from tests.support.fuzzing import EXTREMES, Contract, deep, mutate, scramble

STEP = 2
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
SUFFIX = ".safetensors"


def tiny_checkpoint(folder: Path) -> Path:
    """A run folder with one whole checkpoint, of two steps."""
    from tests.support.toys import tiny_run

    out = folder / "valid"
    fs.train(tiny_run(iterations=STEP, batch=8), out=out, progress=False, device="cpu")
    return out


def at(run: Path) -> Path:
    return RunFolder(run).checkpoint(STEP)


def sign(folder: Path, refingerprint: bool = True) -> None:
    """Writes the manifest, and the state's fingerprint, that fit the files as they are now."""
    files = {}
    for path in folder.iterdir():
        if path.is_file() and path.name != "manifest.json":
            files[path.name] = path.read_bytes()
    state = json.loads(files["state.json"]) if refingerprint else None
    if isinstance(state, dict) and "fingerprint" in state:
        groups = {
            name.removesuffix(SUFFIX): sha256(content)
            for name, content in files.items()
            if name.endswith(SUFFIX)
        }
        content = json.dumps({**state, "fingerprint": root(groups, state)}).encode()
        (folder / "state.json").write_bytes(content)
        files["state.json"] = content
    entries = {name: {"bytes": len(c), "sha256": sha256(c)} for name, c in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def edit(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A safetensors file with another header, which `change` edits in place or returns as bytes."""
    header, data = split(content)
    new = change(header)
    return join(new if isinstance(new, bytes) else json.dumps(header).encode(), data)


def some(header: dict[str, Any]) -> dict[str, Any]:
    """The entry of a header's first tensor."""
    return next(value for name, value in sorted(header.items()) if name != "__metadata__")


def rename(new: str) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        name = sorted(header)[-1]
        header[new] = header.pop(name)

    return change


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: some(header).__setitem__(key, value)


def double(header: dict[str, Any]) -> bytes:
    text = json.dumps(header)
    name = sorted(header)[-1]
    return f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}".encode()


def many(header: dict[str, Any]) -> bytes:
    return json.dumps({**header, **{f"t{i}": EMPTY for i in range(100_000)}}).encode()


def overlap(header: dict[str, Any]) -> None:
    first, *rest = [value for name, value in sorted(header.items()) if name != "__metadata__"]
    twin = next(value for value in rest if value["shape"] == first["shape"])
    twin["data_offsets"] = list(first["data_offsets"])


def make_hole(header: dict[str, Any]) -> None:
    del header[min(header, key=lambda name: header[name].get("data_offsets", [1e9])[0])]


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "length 2^63": lambda c: join(c[8:], b"", 2**63),
    "length 2^64 - 1": lambda c: join(c[8:], b"", 2**64 - 1),
    "length 0": lambda c: join(b"", c[8:]),
    "seven bytes": lambda c: c[:7],
    "empty": lambda c: b"",
    "no JSON": lambda c: join(b"\x80\x04\x95 not JSON", b""),
    "a list": lambda c: edit(c, lambda h: b"[]"),
    "duplicate keys": lambda c: edit(c, double),
    "1e5 entries": lambda c: edit(c, many),
    "nested 1e5 deep": lambda c: edit(c, lambda h: b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "NaN offset": lambda c: edit(c, put("data_offsets", [float("nan"), 4])),
    "infinite shape": lambda c: edit(c, put("shape", [float("inf")])),
    "wrong dtype": lambda c: edit(c, put("dtype", "F64")),
    "unknown dtype": lambda c: edit(c, put("dtype", "object")),
    "dtype a list": lambda c: edit(c, put("dtype", ["F32"])),
    "shape of 1e12": lambda c: edit(c, put("shape", [10**6, 10**6])),
    "shape that overflows to 0": lambda c: edit(c, put("shape", [2**32, 2**32])),
    "shape of 1e5 axes of 2^63": lambda c: edit(c, put("shape", [2**63] * 100_000)),
    "negative shape": lambda c: edit(c, put("shape", [-4, -4])),
    "fractional shape": lambda c: edit(c, put("shape", [1.5])),
    "true for a size": lambda c: edit(c, put("shape", [True])),
    "offsets swapped": lambda c: edit(c, lambda h: some(h)["data_offsets"].reverse()),
    "offsets of 4000 digits": lambda c: edit(c, put("data_offsets", [0, 10**4000])),
    "no offsets": lambda c: edit(c, lambda h: some(h).pop("data_offsets")),
    "an entry that is a text": lambda c: edit(c, lambda h: h.update(x="F32")),
    "overlapping": lambda c: edit(c, overlap),
    "a hole": lambda c: edit(c, make_hole),
    "data beyond the last tensor": lambda c: c + b"\0" * 64,
    "data cut off": lambda c: c[:-4],
    "name with ../": lambda c: edit(c, rename("../../evil")),
    "name with NUL": lambda c: edit(c, rename("a\0b")),
    "name with a line end": lambda c: edit(c, rename("a\nb")),
    "name of 1e5 characters": lambda c: edit(c, rename("x" * 100_000)),
    "name of nothing": lambda c: edit(c, rename("")),
    "name of an attribute": lambda c: edit(c, rename("__class__.__init__")),
    "an extra tensor": lambda c: edit(c, lambda h: h.update(extra=EMPTY)),
    "metadata that is a list": lambda c: edit(c, lambda h: h.update(__metadata__=[1])),
    "metadata of 2 MiB": lambda c: edit(c, lambda h: h.update(__metadata__={"x": "y" * 2 * 2**20})),
    "a pickle": lambda c: b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.",
}  # fmt: skip

# To the reader.
HARMLESS = {"metadata of 2 MiB", "an extra tensor", "name with ../", "name of an attribute"}


def link(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / f"ema{SUFFIX}").unlink()
        (folder / f"ema{SUFFIX}").symlink_to(target)

    return change


def fifo(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def directory(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def edit_list(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change of what the manifest lists."""

    def apply(folder: Path) -> None:
        file = folder / "manifest.json"
        manifest = json.loads(file.read_text())
        new = change(manifest["files"])
        file.write_text(json.dumps(manifest) if new is None else new)

    return apply


def outside(name: str) -> Callable[[Path], None]:
    """The manifest lists a file beyond the folder, with its true size and hash."""

    def change(files: dict[str, Any]) -> None:
        content = Path("/etc/hostname").read_bytes() if Path("/etc/hostname").exists() else b""
        files[name] = {"bytes": len(content), "sha256": sha256(content)}

    return edit_list(change)


def huge(name: str) -> Callable[[Path], None]:
    """A file of a terabyte that takes no place on the disk."""

    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(10**12)

    return change


FOLDERS: dict[str, Callable[[Path], None]] = {
    "absolute path": outside("/etc/hostname"),
    "path with ..": outside("../../../../../../../../etc/hostname"),
    "path with a backslash": outside("..\\evil"),
    "name with NUL": outside("a\0b"),
    "name of nothing": outside(""),
    "a dot": outside("."),
    "the manifest itself": outside("manifest.json"),
    "doubled names": edit_list(lambda f: json.dumps({"files": f})[:-2] + ', "state.json": {}}}'),
    "no files": edit_list(lambda f: json.dumps({"files": {}})),
    "files as a list": edit_list(lambda f: json.dumps({"files": list(f)})),
    "no object": edit_list(lambda f: "[]"),
    "nested 1e5 deep": edit_list(lambda f: "[" * 100_000),
    "NaN for a size": edit_list(lambda f: f["state.json"].update(bytes=float("nan"))),
    "facts as a text": edit_list(lambda f: f.update({"state.json": "x"})),
    "1e5 files": edit_list(
        lambda f: f.update({f"f{i}": {"bytes": 0, "sha256": ""} for i in range(100_000)})
    ),
    "a missing file": lambda folder: (folder / f"student{SUFFIX}").unlink(),
    "no state": edit_list(lambda f: f.pop("state.json") and None),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "a folder for a file": directory(f"ema{SUFFIX}"),
    "a folder for the manifest": directory("manifest.json"),
    "a link out of the folder": link("/etc/hostname"),
    "a link to /dev/zero": link("/dev/zero"),
    "a link in a ring": link(f"ema{SUFFIX}"),
    "a pipe for a file": fifo(f"ema{SUFFIX}"),
    "a pipe for the state": fifo("state.json"),
    "a pipe for the manifest": fifo("manifest.json"),
    "a terabyte for a file": huge(f"ema{SUFFIX}"),
    "a terabyte for the state": huge("state.json"),
    "a terabyte for the manifest": huge("manifest.json"),
}


def copy(valid: Path, to: Path) -> Path:
    """A fresh copy of the valid run."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(valid, to)
    return to


def with_header(run: Path, name: str, group: str = "ema") -> None:
    """The run with one of `HEADERS`, signed."""
    file = at(run) / f"{group}{SUFFIX}"
    file.write_bytes(HEADERS[name](file.read_bytes()))
    sign(at(run))


def with_state(run: Path, value: Any, refingerprint: bool = True) -> None:
    """The run with another state.json, signed."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    (at(run) / "state.json").write_bytes(content)
    sign(at(run), refingerprint and not isinstance(value, bytes))


def random_change(run: Path, chance: random.Random) -> str:
    """Makes one mutation of the run's checkpoint; what it was."""
    folder = at(run)
    state = json.loads((folder / "state.json").read_text())
    kind = chance.randrange(6)
    if kind <= 1:
        refingerprint = chance.random() < 0.7
        with_state(run, mutate(state, chance), refingerprint)
        return f"state, {'signed' if refingerprint else 'fingerprint left'}"
    if kind == 2:
        key = chance.choice(sorted(state))
        levels = chance.choice((3, 50, 200))
        value = deep(levels, chance) if chance.random() < 0.2 else chance.choice(EXTREMES)
        with_state(run, {**state, key: value})
        return f"state.{key}"
    if kind == 3:
        name = chance.choice(sorted(HEADERS))
        group = chance.choice(("ema", "student", "optimizer"))
        with_header(run, name, group)
        return f"header of {group}: {name}"
    if kind == 4:
        file = folder / f"{chance.choice(('ema', 'student'))}{SUFFIX}"
        header, data = split(file.read_bytes())
        file.write_bytes(join(change_bytes(header, chance), data))
        sign(folder)
        return f"header of {file.stem}, random"
    file = folder / "manifest.json"
    file.write_bytes(change_bytes(json.loads(file.read_text()), chance))
    return "manifest"


def change_bytes(value: Any, chance: random.Random) -> bytes:
    """A JSON document with its structure or its bytes changed."""
    if chance.random() < 0.5:
        return scramble(json.dumps(value).encode(), chance)
    return json.dumps(mutate(value, chance)).encode()


def load_in_all_ways(run: Path) -> fs.Generator | None:
    """Reads the run's newest checkpoint by the three ways that there are."""
    newest = RunFolder(run).newest()
    checkpoint.read(at(run))
    return newest and fs.load(run, device="cpu")


def fuzz_checkpoint(seed: int, n: int, folder: Path) -> dict[str, Any]:
    """Counts of n mutants of a tiny run's checkpoint, each signed anew where it can be."""
    inside = folder / "runs"  # nothing may be written beside it
    inside.mkdir(exist_ok=True)
    valid = inside / "valid"
    if not valid.exists():
        tiny_checkpoint(inside)
    chance = random.Random(seed)
    contract = Contract()
    contract.watch.start()
    for i in range(n):
        run = copy(valid, inside / "mutant")
        what = f"checkpoint seed {seed} case {i}, {random_change(run, chance)}"
        before = set(folder.rglob("*"))
        generator = contract.holds(what, partial(load_in_all_ways, run))
        assert set(folder.rglob("*")) == before, f"{what}: wrote or removed files"
        if generator is not None:
            contract.holds(f"{what}, sampled", partial(generator.sample, 2, seed=1))
    contract.watch.stop()
    return contract.report()
