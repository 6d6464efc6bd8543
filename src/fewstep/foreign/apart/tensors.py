"""Records that are tensors: torch's rebuilding functions, NumPy's arrays and numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from .container import SIZES
from .values import Name, Record, Span, Storage, Text

MOST_AXES = 64

# safetensors' word for the elements of a storage, or of a tensor whose storage is untyped.
DTYPES = {
    "FloatStorage": "F32", "DoubleStorage": "F64", "HalfStorage": "F16", "LongStorage": "I64",
    "BFloat16Storage": "BF16", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "U8",
    "ComplexFloatStorage": "C64",
    "torch.float32": "F32", "torch.float64": "F64", "torch.float16": "F16", "torch.int64": "I64",
    "torch.bfloat16": "BF16", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8",
    "torch.uint8": "U8", "torch.bool": "BOOL", "torch.complex64": "C64", "torch.uint16": "U16",
    "torch.uint32": "U32", "torch.uint64": "U64", "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}  # fmt: skip
WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
# Where the storage, the offset, the size, the stride and the type stand among the arguments.
REBUILD = {
    "torch._utils._rebuild_tensor": None,
    "torch._utils._rebuild_tensor_v2": None,
    "torch._utils._rebuild_tensor_v3": 6,
}
ARRAYS = {"numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer"}
NUMPY = ARRAYS | {"numpy.core.multiarray.scalar"}
# (safetensors' word, struct's letter, storage class) of NumPy's types.
KINDS = {
    "f4": ("F32", "f"), "f8": ("F64", "d"), "f2": ("F16", "e"), "i8": ("I64", "q"),
    "i4": ("I32", "i"), "i2": ("I16", "h"), "i1": ("I8", "b"), "u1": ("U8", "B"),
    "u2": ("U16", "H"), "u4": ("U32", "I"), "u8": ("U64", "Q"), "b1": ("BOOL", "?"),
}  # fmt: skip


class View(NamedTuple):
    """A tensor: a view of a storage."""

    storage: Storage
    dtype: str
    offset: Any  # in elements
    size: Any
    stride: Any


def check_view(view: View) -> str:
    """Why a view is none that is read; "" for a good one.

    It may not have more elements than its storage: a stride of 0 would let a small file claim any
    number of them.
    """
    width = WIDTHS[view.dtype]
    elements = view.storage.length * SIZES[view.storage.kind] // width
    numbers = [view.offset, *view.size, *view.stride]
    if len(view.size) != len(view.stride) or len(view.size) > MOST_AXES:
        return "its size and stride are not of one length"
    if any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
        return "its size, stride or offset is no number of elements"
    count = math.prod(view.size)
    last = view.offset + sum((n - 1) * s for n, s in zip(view.size, view.stride, strict=True))
    if (count and last >= elements) or view.offset > elements:
        return "it reaches beyond its storage"
    if count > elements:
        return "it has more elements than its storage"
    return ""


def tensor_of(
    name: str, args: tuple[Any, ...], storage_of: Callable[[Any], Storage | None]
) -> View | None:
    """The tensor that one of torch's functions would build; None for what is not understood."""
    if name == "torch._tensor._rebuild_from_type_v2":
        if len(args) < 3 or not isinstance(args[0], Name) or args[0].name not in REBUILD:
            return None
        name, args = args[0].name, args[2]
    if not isinstance(args, tuple) or len(args) < 4:
        return None
    storage = storage_of(args[0])
    if storage is None:
        return None
    size, stride = (part.args[0] if is_size(part) else part for part in args[2:4])
    if not isinstance(size, tuple | list) or not isinstance(stride, tuple | list):
        return None
    place = REBUILD[name]
    kind: Any = storage.kind
    if place is not None:
        kind = args[place].name if len(args) > place and isinstance(args[place], Name) else ""
    if kind not in DTYPES:
        return None
    return View(storage, DTYPES[kind], args[1], list(size), list(stride))


def is_size(value: Any) -> bool:
    is_called = isinstance(value, Record) and value.name == "torch.Size"
    return is_called and isinstance(value.args, tuple) and len(value.args) == 1


def bytes_of(value: Any) -> Span | None:
    """Bytes wherever they lie; also those of Python 2, which protocol 2 has as text."""
    if isinstance(value, Span):
        return value
    if isinstance(value, Record) and isinstance(value.args, tuple) and value.args:
        first = value.args[0]
        is_bytes = value.name in ("builtins.bytearray", "builtins.bytes")
        if is_bytes and isinstance(first, bytes | Span):
            return bytes_of(first)
        if value.name == "_codecs.encode" and isinstance(first, str | Text):
            value = first
            if isinstance(first, Text):
                value = first.span.content().decode("utf-8", "replace")
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")
    return Span(value, 0, len(value)) if isinstance(value, bytes) else None


def numpy_kind(value: Any) -> tuple[str, str] | None:
    """(safetensors' word, struct's letter) of a numpy.dtype of little-endian numbers."""
    if not isinstance(value, Record) or value.name != "numpy.dtype":
        return None
    args, state = value.args, value.state
    if not isinstance(args, tuple) or not args or not isinstance(args[0], str):
        return None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
    return KINDS.get(args[0].lstrip("<|")) if order in ("<", "|", "=") else None


def scalar_of(args: tuple[Any, ...]) -> Any:
    """The number that numpy's `scalar(dtype, bytes)` would be; None for what is not understood."""
    kind = numpy_kind(args[0]) if len(args) == 2 else None
    content = bytes_of(args[1]) if kind else None
    if kind is None or content is None or len(content) != WIDTHS[kind[0]]:
        return None
    return struct.unpack(f"<{kind[1]}", content.content())[0]


def array_of(record: Record, args: tuple[Any, ...]) -> View | None:
    """The array that NumPy's functions would build; None for what is not understood."""
    if record.name.endswith("_frombuffer"):
        if len(args) < 4:
            return None
        content, kind, shape, is_column = args[0], args[1], args[2], args[3] == "F"
    else:
        state = record.state
        if not isinstance(state, tuple) or len(state) != 5:
            return None
        _, shape, kind, is_column, content = state
    words, span = numpy_kind(kind), bytes_of(content)
    if words is None or span is None or not isinstance(shape, tuple | list):
        return None
    if any(type(n) is not int or not 0 <= n < 2**62 for n in shape) or len(shape) > MOST_AXES:
        return None
    if math.prod(shape) * WIDTHS[words[0]] != len(span):
        return None
    storage = Storage("UntypedStorage", len(span), lambda: span)
    return View(storage, words[0], 0, list(shape), strides(list(shape), bool(is_column)))


def strides(shape: list[int], is_column: bool) -> list[int]:
    """Strides of a contiguous array, by rows or by columns."""
    order = range(len(shape)) if is_column else reversed(range(len(shape)))
    result = [0] * len(shape)
    step = 1
    for axis in order:
        result[axis] = step
        step *= shape[axis]
    return result
