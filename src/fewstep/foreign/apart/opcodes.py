"""What each opcode of a pickle, of protocols 0 to 5, does to the machine; `run` runs them."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from .machine import Machine
from .values import Group, Name, Pairs, Record, Refusal, Span, Text

MOST_INTEGER = 1024  # bytes of a whole number, or digits
SHORT = 4000  # bytes of text or data that are copied; longer ones stay in the file
BROKEN = (IndexError, KeyError, ValueError, OverflowError, struct.error)

Step = Callable[[Machine], Any]


def run(machine: Machine) -> Any:
    """The pickle's value. Raises Refusal."""
    start = machine.position
    try:
        while True:
            code = machine.data[machine.skip(1)]
            if code == ord("."):
                break
            step = STEPS.get(code)
            if step is None:
                kind = "foreign" if machine.position - start < 8 else "damaged"
                where = f"byte {machine.position - 1}"
                raise Refusal(kind, f"no pickle that is read has the opcode {code:#x} at {where}")
            step(machine)
        value = machine.pop()
    except BROKEN as error:
        where = f"byte {machine.position}"
        text = f"its pickle is broken at {where} ({type(error).__name__})"
        raise Refusal("damaged", text) from error
    if machine.marks or machine.stack:
        raise Refusal("damaged", "its pickle ends with values that belong to nothing")
    return value


def push(value: Callable[[Machine], Any]) -> Step:
    """The opcode that pushes what `value` takes from the pickle or the stack."""

    def step(machine: Machine) -> None:
        result = value(machine)
        machine.stack.append(result)

    return step


# Numbers, texts and bytes.


def integer(content: bytes) -> int:
    """A whole number of little-endian bytes. Raises Refusal."""
    if len(content) > MOST_INTEGER:
        raise Refusal("limit", f"it holds a whole number of {len(content)} bytes")
    return int.from_bytes(content, "little", signed=True)


def decimal(machine: Machine) -> int | bool:
    line = machine.line().removesuffix(b"L")
    if line in (b"00", b"01"):
        return line == b"01"
    if len(line) > MOST_INTEGER:
        raise Refusal("limit", f"it holds a whole number of {len(line)} digits")
    return int(line)


def text(span: Span) -> str | Text:
    """A text as it is, or where it lies if it is long."""
    if len(span) > SHORT:
        return Text(span)
    return span.content().decode("utf-8", "replace")


def data(span: Span) -> bytes | Span:
    """Bytes as they are, or where they lie if they are many."""
    return span if len(span) > SHORT else span.content()


def quote(machine: Machine) -> str:
    """A quoted string of protocol 0."""
    line = machine.line().strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise Refusal("damaged", "a string has no quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def escape(machine: Machine) -> str:
    """A text of protocol 0."""
    return codecs.raw_unicode_escape_decode(machine.line())[0]


# Containers.


def pop(machine: Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def table(values: list[tuple[Any, Any]]) -> Pairs:
    result = Pairs()
    result.items = values
    return result


def row(count: int) -> Step:
    """TUPLE1 to TUPLE3."""
    return push(lambda m: tuple([m.pop() for _ in range(count)][::-1]))


def append(machine: Machine) -> None:
    value = machine.pop()
    machine.append(machine.top(), [value])


def appends(machine: Machine) -> None:
    values = machine.since_mark()
    machine.append(machine.top(), values)


def set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.put(machine.top(), [key, value])


def set_items(machine: Machine) -> None:
    values = machine.since_mark()
    machine.put(machine.top(), values)


# The memo: a dictionary, since its numbers are the file's own choice.


def memo_line(machine: Machine) -> int:
    line = machine.line()
    if len(line) > 20:
        raise ValueError
    return int(line)


def put(index: Callable[[Machine], int]) -> Step:
    def step(machine: Machine) -> None:
        machine.memo[index(machine)] = machine.top()

    return step


def get(index: Callable[[Machine], int]) -> Step:
    return push(lambda machine: machine.memo[index(machine)])


# What would call.


def build(machine: Machine) -> None:
    """BUILD: the state stands beside the record."""
    state = machine.pop()
    target = machine.top()
    if isinstance(target, Record):
        target.state = state if target.state is None else (target.state, state)
    elif not isinstance(target, Name):
        raise Refusal("damaged", "it gives a state to something that has none")


def reduce(machine: Machine) -> Record:
    """REDUCE and NEWOBJ: a record of the function or class and its arguments."""
    args = machine.pop()
    return machine.record(machine.pop(), args)


def reduce_with_options(machine: Machine) -> Record:
    """NEWOBJ_EX: arguments, then arguments by name."""
    options, args = machine.pop(), machine.pop()
    return machine.record(machine.pop(), (*args, options) if isinstance(args, tuple) else (args,))


def instance(machine: Machine) -> Record:
    """INST: the class by name, its arguments since the mark."""
    name = machine.name(*(machine.line().decode() for _ in range(2)))
    return machine.record(name, tuple(machine.since_mark()))


def new_object(machine: Machine) -> Record:
    """OBJ: the class and its arguments since the mark."""
    values = machine.since_mark()
    return machine.record(values[0], tuple(values[1:]))


def name_on_stack(machine: Machine) -> Name:
    name, module = machine.pop(), machine.pop()
    return machine.name(module, name)


def protocol(machine: Machine) -> None:
    number = machine.number(1)
    if number > 5:
        raise Refusal("foreign", f"it says that it is a pickle of protocol {number}: there are 5")


def code(letter: str) -> int:
    return ord(letter)


STEPS: dict[int, Step] = {
    # Numbers.
    code("F"): push(lambda m: float(m.line())),
    code("G"): push(lambda m: struct.unpack(">d", m.data[(p := m.skip(8)) : p + 8])[0]),
    code("I"): push(decimal),
    code("L"): push(decimal),
    code("J"): push(lambda m: m.number(4, is_signed=True)),
    code("K"): push(lambda m: m.number(1)),
    code("M"): push(lambda m: m.number(2)),
    0x8A: push(lambda m: integer(m.span(1).content(MOST_INTEGER + 1))),
    0x8B: push(lambda m: integer(m.span(4).content(MOST_INTEGER + 1))),
    code("N"): push(lambda m: None),
    0x88: push(lambda m: True),
    0x89: push(lambda m: False),
    # Texts and bytes.
    code("S"): push(quote),
    code("T"): push(lambda m: text_of_python_2(m.span(4))),
    code("U"): push(lambda m: text_of_python_2(m.span(1))),
    code("V"): push(escape),
    code("X"): push(lambda m: text(m.span(4))),
    0x8C: push(lambda m: text(m.span(1))),
    0x8D: push(lambda m: text(m.span(8))),
    code("B"): push(lambda m: data(m.span(4))),
    code("C"): push(lambda m: data(m.span(1))),
    0x8E: push(lambda m: data(m.span(8))),
    0x96: push(lambda m: data(m.span(8))),
    # Containers.
    code("("): lambda m: m.marks.append(len(m.stack)),
    code("0"): pop,
    code("1"): lambda m: m.since_mark(),
    code("2"): push(lambda m: m.top()),
    code("]"): push(lambda m: []),
    code("l"): push(lambda m: m.since_mark()),
    code("a"): append,
    code("e"): appends,
    code(")"): push(lambda m: ()),
    code("t"): push(lambda m: tuple(m.since_mark())),
    0x85: row(1),
    0x86: row(2),
    0x87: row(3),
    code("}"): push(lambda m: Pairs()),
    code("d"): push(lambda m: table(m.pairs(m.since_mark()))),
    code("s"): set_item,
    code("u"): set_items,
    0x8F: push(lambda m: Group([])),
    0x90: appends,
    0x91: push(lambda m: Group(m.since_mark())),
    # The memo.
    code("p"): put(memo_line),
    code("q"): put(lambda m: m.number(1)),
    code("r"): put(lambda m: m.number(4)),
    0x94: put(lambda m: len(m.memo)),
    code("g"): get(memo_line),
    code("h"): get(lambda m: m.number(1)),
    code("j"): get(lambda m: m.number(4)),
    # Names, and what would call them. The opcodes of copyreg's extensions are not there.
    code("c"): push(lambda m: m.name(*(m.line().decode() for _ in range(2)))),
    0x93: push(name_on_stack),
    code("R"): push(reduce),
    0x81: push(reduce),
    0x92: push(reduce_with_options),
    code("i"): push(instance),
    code("o"): push(new_object),
    code("b"): build,
    code("P"): push(lambda m: m.persistent(m.line().decode())),
    code("Q"): push(lambda m: m.persistent(m.pop())),
    # Of the stream: a frame is no unit of reading here.
    0x80: protocol,
    0x95: lambda m: m.skip(8),
}


def text_of_python_2(span: Span) -> str | Span:
    """A string of Python 2, which is text or bytes: text, or where it lies if it is long."""
    return span if len(span) > SHORT else span.content().decode("latin-1")
