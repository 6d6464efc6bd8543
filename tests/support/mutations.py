"""Damage to a checkpoint folder, as a function of a random generator."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from fewstep.run.checkpoint.format import MANIFEST


def truncate(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def zero(file: Path, chance: random.Random) -> None:
    """As a file is whose blocks never reached the disk."""
    content = bytearray(file.read_bytes())
    first = chance.randrange(len(content))
    last = chance.randrange(first, len(content)) + 1
    content[first:last] = bytes(last - first)
    file.write_bytes(content)


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def append(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes() + chance.randbytes(chance.randrange(1, 100)))


def double(file: Path, chance: random.Random) -> None:
    file.write_bytes(2 * file.read_bytes())


def remove(file: Path, chance: random.Random) -> None:
    file.unlink()


def swap(file: Path, chance: random.Random) -> None:
    other = _other(file, chance)
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _other(file: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(path for path in file.parent.iterdir() if path != file))


def overwrite(file: Path, chance: random.Random) -> None:
    """By a copy of another file of the folder."""
    shutil.copyfile(_other(file, chance), file)


def shift(file: Path, chance: random.Random) -> None:
    """A piece of it is somewhere else, of the same size and with the same bytes."""
    content = file.read_bytes()
    at = chance.randrange(1, len(content))
    file.write_bytes(content[at:] + content[:at])


KINDS: tuple[Callable[[Path, random.Random], None], ...] = (
    truncate,
    zero,
    flip,
    append,
    double,
    remove,
    swap,
    overwrite,
    shift,
)


def damage(checkpoint: Path, chance: random.Random) -> str:
    """Damages one file of a checkpoint, until it differs; returns its name and the kind."""
    file = chance.choice(sorted(checkpoint.iterdir()))
    kind = chance.choice(KINDS)
    before = _contents(checkpoint)
    kind(file, chance)
    if _differ(before, _contents(checkpoint)):
        return f"{file.name} {kind.__name__}"
    return damage(checkpoint, chance)


def _contents(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def _differ(before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """Whether any file is different; for a manifest, whether what it says is."""
    names = {name for name in before if before[name] != after.get(name)}
    if names != {MANIFEST} or MANIFEST not in after:
        return bool(names)
    try:
        return bool(json.loads(before[MANIFEST]) != json.loads(after[MANIFEST]))
    except ValueError:
        return True
