"""Files that somebody might send: pickles that would run, headers that lie; all made here."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from tests.support.fuzzed_files import HEADERS

Maker = Callable[[Path], bytes]  # of the canary's path


class Payload:
    """Unpickled, it would create the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


def raw(canary: Path) -> bytes:
    return pickle.dumps(Payload(canary))


def by_torch(canary: Path) -> bytes:
    """What torch.save writes: a zip with data.pkl."""
    out = io.BytesIO()
    torch.save({"x0": Payload(canary)}, out)
    return out.getvalue()


def object_array(canary: Path) -> bytes:
    out = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = Payload(canary)
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def npy(header: str, data: bytes = b"\0" * 64) -> bytes:
    """A .npy with that header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


def declare(shape: str, kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


def arrays() -> dict[str, Maker]:
    """Hostile .npy by what is wrong with them."""
    return {
        "an object array": object_array,
        "a pickle": raw,
        "1e12 elements": lambda c: npy(declare("(1000000, 1000000)")),
        "2^70 elements": lambda c: npy(declare(f"({2**70},)")),
        "negative shape": lambda c: npy(declare("(-3, 2)")),
        "an object type": lambda c: npy(declare("(2,)", "|O"), raw(c)),
        "a type of 1 GB": lambda c: npy(declare("(1,)", "|S1000000000")),
        "a header that calls": lambda c: npy(f"open({str(c)!r}, 'w')"),
        "a header nested deep": lambda c: npy("(" * 5000 + ")" * 5000),
        "a header of 4 GB": lambda c: b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"x" * 64,
        "no array": lambda c: b"<html>not found</html>",
        "nothing": lambda c: b"",
    }


def archives() -> dict[str, Maker]:
    """Hostile .npz and .zip; those that expand without bounds are in the tests of their readers."""
    return {
        "a pickle": raw,
        "an object member": lambda c: zip_of({"x0.npy": object_array(c)}),
        "a pickle for a member": lambda c: zip_of({"x0.npy": raw(c), "data.pkl": raw(c)}),
        "what torch.save writes": by_torch,
        "1e12 elements": lambda c: zip_of({"x0.npy": npy(declare("(1000000, 1000000)"))}),
        "members that lead out": lambda c: zip_of(
            {"../../x0.npy": npy("open"), "/tmp/x0.npy": b""}
        ),
        "no zip": lambda c: b"PK\x03\x04" + b"\xff" * 100,
        "nothing": lambda c: b"",
    }


VALID = {"x0": torch.zeros(40, 2), "y": torch.zeros(40, 2), "z": torch.zeros(2)}


def lie(change: Callable[[bytes], bytes], canary: Path) -> bytes:
    return change(save(VALID))


def weights() -> dict[str, Maker]:
    """Hostile .safetensors."""
    names = (
        "length 2^63",
        "duplicate keys",
        "1e5 entries",
        "nested 1e5 deep",
        "NaN offset",
        "shape of 1e12",
        "overlapping",
    )
    lies = {}
    for name in (*names, "name with ../", "a hole"):
        lies[name] = partial(lie, HEADERS[name])
    return {**lies, "a pickle that runs": raw, "what torch.save writes": by_torch}


def compress(canary: Path) -> bytes:
    return zlib.compress(raw(canary))


def foreign() -> dict[str, Maker]:
    """Files of kinds that no reader is for."""
    return {
        "raw.pt": raw,
        "saved.pt": by_torch,
        "saved.pth": by_torch,
        "raw.pkl": raw,
        "raw.pickle": raw,
        "saved.ckpt": by_torch,
        "saved.bin": by_torch,
        "compressed.gz": compress,
        "run.json": lambda c: json.dumps({"recipe": f"{c}:main"}).encode(),
    }


def corpus() -> dict[str, Maker]:
    """All of it, by file name."""
    tables = {".npy": arrays(), ".npz": archives(), ".zip": archives(), ".safetensors": weights()}
    makers = foreign()
    for suffix, table in tables.items():
        for what, make in table.items():
            makers[f"{what}{suffix}".replace("/", "-")] = make
    return makers
