"""Checkpoints that somebody might send: programs, bombs and lies, all made here."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from tests.support import hostile

Maker = Callable[[Path], bytes]  # of the canary's path
MB = 2**20


def text(value: str) -> bytes:
    """A text as a pickle has it."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def call(module: str, what: str, *args: bytes) -> bytes:
    """A call, by REDUCE."""
    return name(module, what) + b"(" + b"".join(args) + b"tR"


def bare(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def mkdir(canary: Path) -> bytes:
    """The call that makes the canary."""
    return call("os", "mkdir", text(str(canary)))


def storage_of(count: int = 4, key: str = "0") -> bytes:
    """torch's persistent id of a storage of floats."""
    about = text("storage") + name("torch", "FloatStorage") + text(key) + text("cpu")
    return b"(" + about + number(count) + b"tQ"


def tensor(size: bytes, stride: bytes, offset: int = 0, storage: bytes = b"") -> bytes:
    options = b"\x89" + call("collections", "OrderedDict")
    inside = (storage or storage_of()) + number(offset) + size + stride + options
    return call("torch._utils", "_rebuild_tensor_v2", inside)


def weights(body: bytes) -> bytes:
    """A dictionary with a tensor called a.weight."""
    return bare(b"}" + text("a.weight") + body + b"s")


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for path, content in members.items():
            file.writestr(path, content)
    return out.getvalue()


def saved(body: bytes, data: bytes = b"\0" * 16, method: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch.save with that tensor."""
    return archive({"a/data.pkl": weights(body), "a/data/0": data}, method)


def view(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    return saved(tensor(numbers(*size), numbers(*stride), offset))


GOOD = tensor(numbers(4), numbers(1))


def in_bytes(content: bytes) -> bytes:
    """A tensor of a bare pickle: its storage is a file inside."""
    packed = b"B" + struct.pack("<I", len(content)) + content
    return call("torch.storage", "_load_from_bytes", packed)


def old(object_: bytes, keys: bytes = b"]" + text("0") + b"a", data: bytes = b"") -> bytes:
    """torch.save's format before 1.6."""
    magic = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
    system = b"}" + text("little_endian") + b"\x88s"
    parts = (magic, b"M\xe9\x03", system, b"}" + text("a.weight") + object_ + b"s", keys)
    data = data or struct.pack("<q", 4) + b"\0" * 16
    return b"".join(bare(part) for part in parts) + data


def old_tensor(count: int = 4) -> bytes:
    about = text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu")
    storage = b"(" + about + number(count) + b"NtQ"
    return tensor(numbers(4), numbers(1), storage=storage)


def nest_files(canary: Path, depth: int) -> bytes:
    body = mkdir(canary)
    for _ in range(depth):
        body = in_bytes(bare(body))
    return bare(body)


def programs() -> dict[str, Maker]:
    """What Python's own reader would run."""
    return {
        "os.system": lambda c: b"cos\nsystem\n(S" + repr(f"mkdir {c}").encode() + b"\ntR.",
        "eval": lambda c: bare(
            call("builtins", "eval", text(f"__import__('os').mkdir({str(c)!r})"))
        ),
        "exec by STACK_GLOBAL": lambda c: bare(
            text("builtins")
            + text("exec")
            + b"\x93("
            + text(f"import os; os.mkdir({str(c)!r})")
            + b"tR"
        ),
        "a reduce of protocol 0": lambda c: pickle.dumps(hostile.Payload(c), protocol=0),
        "a reduce of protocol 5": lambda c: pickle.dumps(hostile.Payload(c), protocol=5),
        "in a zip of torch": hostile.by_torch,
        "in torch's old format": lambda c: old(mkdir(c), keys=b"]"),
        "INST": lambda c: b"(S" + repr(str(c)).encode() + b"\nios\nmkdir\n.",
        "OBJ": lambda c: bare(b"(" + name("os", "mkdir") + text(str(c)) + b"o"),
        "NEWOBJ": lambda c: bare(name("os", "mkdir") + text(str(c)) + b"\x85\x81"),
        "NEWOBJ_EX": lambda c: bare(name("os", "mkdir") + text(str(c)) + b"\x85}\x92"),
        "a state for a module": lambda c: bare(
            name("os", "environ") + b"}" + text("A") + mkdir(c) + b"sb"
        ),
        "an extension": lambda c: bare(b"\x82\x01" + text(str(c)) + b"\x85R"),
        "a call of a call": lambda c: bare(
            call("functools", "partial", name("os", "mkdir"), text(str(c))) + b")R"
        ),
        "getattr of an import": lambda c: bare(
            call("builtins", "getattr", call("builtins", "__import__", text("os")), text("mkdir"))
            + text(str(c))
            + b"\x85R"
        ),
        "in a parameter": lambda c: bare(
            call("torch._utils", "_rebuild_parameter", mkdir(c), b"\x88", b"N")
        ),
        "in the bytes of a tensor": lambda c: weights(
            tensor(numbers(4), numbers(1), storage=in_bytes(bare(mkdir(c))))
        ),
        "five files deep": lambda c: nest_files(c, 5),
        "NVIDIA's source text": lambda c: bare(
            call(
                "torch_utils.persistence",
                "_reconstruct_persistent_obj",
                b"}"
                + text("module_src")
                + text(f"import os; os.mkdir({str(c)!r})")
                + b"s"
                + text("class_name")
                + text("EDMPrecond")
                + b"s",
            )
        ),
        "an array of objects": lambda c: pickle.dumps({"a": [hostile.Payload(c)]}),
        "joblib's and dill's loaders": lambda c: bare(
            call("dill._dill", "_create_function", call("dill._dill", "_import_module", text("os")))
        ),
        "a persistent id": lambda c: bare(mkdir(c) + b"Q"),
    }


def laughs(canary: Path) -> bytes:
    """Lists of one list twice, sixty deep: 2^60 values."""
    body = b"]q\x00"
    for level in range(60):
        body += b"](h%ch%ceq%c" % (level, level, level + 1)
    return bare(b"(" + body + b"l")


def collide(canary: Path) -> bytes:
    """Keys whose hashes are all the same."""
    modulus = 2**61 - 1
    pairs = b"".join(number(i * modulus) + b"N" for i in range(10_000))
    return bare(b"}(" + pairs + b"u")


def bombs() -> dict[str, Maker]:
    """What would take time or memory."""
    return {
        "a billion laughs": laughs,
        "lists 100 000 deep": lambda c: bare(b"]" * 10**5 + b"a" * (10**5 - 1)),
        "a million lists": lambda c: bare(b"(" + b"]" * (14 * 10**5) + b"l"),
        "a stack of marks": lambda c: bare(b"(" * 10**4),
        "a stack of copies": lambda c: bare(b"N" + b"2" * 10**4),
        "keys that collide": collide,
        "a number of 1 MB": lambda c: bare(b"\x8b" + struct.pack("<I", MB) + b"\x7f" * MB),
        "a number of 1e6 digits": lambda c: b"I" + b"9" * 10**6 + b"\n.",
        "a number that declares 2 GB": lambda c: bare(b"\x8b" + struct.pack("<I", 2**31 - 1)),
        "memo number 2^31": lambda c: bare(b"Nr" + struct.pack("<I", 2**31)),
        "memo number 10^400": lambda c: bare(b"Np" + b"9" * 400 + b"\n"),
        "a frame of 2^63": lambda c: b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
        "bytes of 2^60": lambda c: bare(b"\x8e" + struct.pack("<Q", 2**60)),
        "text of 4 GB": lambda c: bare(b"X" + b"\xff" * 4),
        "a name of 1 MB": lambda c: b"c" + b"a" * MB + b"\nb\n.",
        "stride 0": lambda c: view((10**9,), (0,)),
        "a list of 101 000": lambda c: bare(
            b"(" + b"".join(b"G" + struct.pack(">d", i) + b"\x85" for i in range(101_000)) + b"l"
        ),
        "a deflated pickle": lambda c: archive(
            {"a/data.pkl": bare(b"0" * (66 * MB))}, zipfile.ZIP_DEFLATED
        ),
        "a deflated storage": lambda c: saved(
            tensor(numbers(4), numbers(1), storage=storage_of(66 * MB // 4)),
            b"\0" * (66 * MB),
            zipfile.ZIP_DEFLATED,
        ),
        "a list in itself": lambda c: bare(b"]q\x00h\x00a"),
        "a dictionary in itself": lambda c: bare(b"}q\x00" + text("a") + b"h\x00s"),
        "a file in itself": lambda c: nest_files(c, 300),
    }


def change(content: bytes, old_: bytes, new: bytes, last: bool = False) -> bytes:
    """The content with one place changed."""
    head, found, tail = content.rpartition(old_) if last else content.partition(old_)
    assert found
    return head + new + tail


def overlap(canary: Path) -> bytes:
    """A member inside another's bytes: so archives expand to the square of their size."""
    names = {"a/data/0": b"\0" * 54, "a/data/1": b"\0" * 16}
    inside = tensor(numbers(4), numbers(1), storage=storage_of(4, "1"))
    content = archive({"a/data.pkl": weights(inside), **names})
    outer, inner = (content.index(b"PK\x03\x04", content.index(n.encode()) - 30) for n in names)
    start = outer + 38
    content = content[:start] + content[inner : inner + 54] + content[start + 54 :]
    place = content.rindex(b"PK\x01\x02") + 42
    return content[:place] + struct.pack("<I", start) + content[place + 4 :]


def lie(field: int, value: bytes) -> bytes:
    """A good file whose directory has another value in its last entry."""
    content = saved(GOOD)
    place = content.rindex(b"PK\x01\x02") + field
    return content[:place] + value + content[place + len(value) :]


def twice(canary: Path) -> bytes:
    """Two members of one name: some readers take the first and some the last."""
    content = archive({"a/data.pkl": weights(GOOD), "a/data/0": b"\0" * 16, "a/data/1": b"\1" * 16})
    return content.replace(b"a/data/1", b"a/data/0")


def link(canary: Path) -> bytes:
    """A storage that is a symbolic link."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a/data.pkl", weights(GOOD))
        entry = zipfile.ZipInfo("a/data/0")
        entry.external_attr = 0o120777 << 16
        file.writestr(entry, "/etc/passwd/////")
    return out.getvalue()


def whole(canary: Path) -> bytes:
    out = io.BytesIO()
    torch.save({"a.weight": torch.zeros(8)}, out)
    return out.getvalue()


def lies() -> dict[str, Maker]:
    """Files whose parts do not fit together."""
    return {
        "an offset beyond": lambda c: view((4,), (1,), 4),
        "an offset below": lambda c: view((4,), (1,), -1),
        "a size below": lambda c: view((-4,), (1,)),
        "a stride below": lambda c: view((4,), (-1,)),
        "sizes that overflow": lambda c: view((2**61, 2**61, 4), (0, 0, 1)),
        "a thousand axes": lambda c: view((1,) * 1000, (1,) * 1000),
        "a storage of 1e12": lambda c: saved(
            tensor(numbers(4), numbers(1), storage=storage_of(10**12))
        ),
        "a storage that is missing": lambda c: saved(
            tensor(numbers(4), numbers(1), storage=storage_of(4, "../../etc/passwd"))
        ),
        "members that overlap": overlap,
        "two members of one name": twice,
        "members with paths": lambda c: archive(
            {"../../data.pkl": weights(GOOD), "../../data/0": b"\0" * 16, "/etc/passwd": b""}
        ),
        "an encrypted member": lambda c: lie(8, b"\x01"),
        "a member of 4 GB": lambda c: lie(20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"),
        "a size of zip64 that is missing": lambda c: lie(24, b"\xff\xff\xff\xff"),
        "a member beyond the file": lambda c: lie(42, b"\xff\xff\xff\x7f"),
        "a symbolic link": link,
        "a zip for a pickle": lambda c: archive({"a/data.pkl": saved(GOOD), "a/data/0": b""}),
        "a deflated member that is cut": lambda c: change(
            saved(GOOD, b"\1" * 16, zipfile.ZIP_DEFLATED),
            zlib.compress(b"\1" * 16)[2:-4][:3],
            b"\xff\xff\xff",
        ),
        "a cut zip": lambda c: whole(c)[:-30],
        "a cut pickle": lambda c: pickle.dumps({"a": [1] * 1000})[:500],
        "an old storage of 2^62": lambda c: old(old_tensor(2**62), data=struct.pack("<q", 2**62)),
        "an old list of storages, doubled": lambda c: old(
            old_tensor(), b"](" + text("0") + text("0") + b"e"
        ),
        "an empty stack": lambda c: bare(b"0000"),
        "a set of lists": lambda c: bare(b"\x8f(" + b"]" * 100 + b"\x90"),
        "lists as keys": lambda c: bare(b"}]]s"),
        "items of a text": lambda c: bare(text("a") + b"NNs"),
        "a key without a value": lambda c: bare(b"}(Nu"),
        "noise": lambda c: bytes((7 * i * i + 3 * i) % 251 for i in range(5000)),
    }


def corpus() -> dict[str, Maker]:
    """All of it, by what is wrong."""
    return {**programs(), **bombs(), **lies()}
