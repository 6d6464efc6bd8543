"""Reads a checkpoint from standard input and writes what it holds to standard output.

`main()` takes SECONDS MEMORY MOST from the command line. It never gets a path, opens nothing, and
calls nothing that the file names. The output is a safetensors file:
the storages `0`, `1`, ... and `tree`, JSON.
A refusal is one JSON object on standard error and exit code 3.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from typing import Any, BinaryIO

from .container import SIZES, Budget, load
from .tensors import DTYPES, WIDTHS
from .tree import Table
from .values import Refusal, Span, Storage

MOST_TREE = 10 * 2**20  # bytes of JSON
CHUNK = 2**20


def contain(seconds: int, memory: int, most: int) -> None:
    """Takes from this process what it does not need: memory, time, files, sockets, children."""
    if sys.platform == "win32":
        return  # it has no such limits: the parent says so
    import resource

    sys.setrecursionlimit(2000)
    limits = {
        "RLIMIT_AS": memory,
        "RLIMIT_CPU": seconds,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": most + 2 * MOST_TREE,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 3,  # the three that are open: no file and no socket can be added
    }
    for name, value in limits.items():
        kind = vars(resource).get(name)
        if kind is None:
            continue
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            continue  # a system without this limit, or a lower one already


def write(table: Table, value: Any, form: str, out: BinaryIO) -> None:
    """The storages, the widest elements first so that each is aligned, then the tree."""
    about = {"form": form, "root": value, "nodes": table.nodes}
    about["names"] = sorted(table.budget.names)[:1000]
    tree = json.dumps(about, separators=(",", ":")).encode()
    if len(tree) > MOST_TREE:
        raise Refusal("limit", f"what it holds beside tensors takes {len(tree)} bytes of JSON")
    order = sorted(range(len(table.storages)), key=lambda i: -width(table.storages[i]))
    header: dict[str, Any] = {}
    end = 0
    for number in order:
        storage = table.storages[number]
        size = storage.length * SIZES[storage.kind]
        header[str(number)] = entry(DTYPES.get(storage.kind, "U8"), size, end)
        end += size
    header["tree"] = entry("U8", len(tree), end)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for number in order:
        copy(table.storages[number].locate(), out)
    out.write(tree)
    out.flush()


def width(storage: Storage) -> int:
    return WIDTHS[DTYPES.get(storage.kind, "U8")]


def entry(dtype: str, size: int, start: int) -> dict[str, Any]:
    # Whatever a truth value's byte is, it is no matter for the reader of bytes.
    dtype = "U8" if dtype == "BOOL" else dtype
    return {"dtype": dtype, "shape": [size // WIDTHS[dtype]], "data_offsets": [start, start + size]}


def copy(span: Span, out: BinaryIO) -> None:
    for start in range(span.start, span.stop, CHUNK):
        out.write(span.data[start : min(start + CHUNK, span.stop)])


def read(seconds: int, memory: int, most: int) -> None:
    """Raises Refusal."""
    size = os.fstat(0).st_size
    content = mmap.mmap(0, size, access=mmap.ACCESS_READ) if size else b""
    contain(seconds, memory, most)
    budget = Budget(most)
    value, form = load(Span(content, 0, size), budget)
    table = Table(budget)
    root = table.value(value)
    with open(1, "wb", buffering=2**16, closefd=False) as out:
        write(table, root, form, out)


def main() -> None:
    kind, text = "", ""
    try:
        read(*(int(word) for word in sys.argv[1:4]))
    except Refusal as refusal:
        kind, text = refusal.kind, refusal.text
    except MemoryError:
        kind, text = "limit", "it takes more memory than its size allows"
    except RecursionError:
        kind, text = "limit", "its values are nested too deeply"
    except OSError as error:
        kind, text = "output", str(error.strerror)
    except Exception as error:
        # Whatever else a file can provoke is the file's fault, and no reason to print its values.
        kind, text = "damaged", f"it makes no sense ({type(error).__name__})"
    if kind:
        os.write(2, json.dumps({"kind": kind, "text": text[:500]}).encode())
    os._exit(3 if kind else 0)
