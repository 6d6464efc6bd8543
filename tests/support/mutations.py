"""Damage to a checkpoint folder, as a function of a random generator."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from fewstep.run.checkpoint.format import MANIFEST


def truncated(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def zeroed(file: Path, chance: random.Random) -> None:
    """As a file is whose blocks never reached the disk."""
    content = bytearray(file.read_bytes())
    first = chance.randrange(len(content))
    last = chance.randrange(first, len(content)) + 1
    content[first:last] = bytes(last - first)
    file.write_bytes(content)


def flipped(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def appended(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes() + chance.randbytes(chance.randrange(1, 100)))


def doubled(file: Path, chance: random.Random) -> None:
    file.write_bytes(2 * file.read_bytes())


def missing(file: Path, chance: random.Random) -> None:
    file.unlink()


def swapped(file: Path, chance: random.Random) -> None:
    other = chance.choice(sorted(path for path in file.parent.iterdir() if path != file))
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


def overwritten(file: Path, chance: random.Random) -> None:
    """By a copy of another file of the folder."""
    shutil.copyfile(
        chance.choice(sorted(path for path in file.parent.iterdir() if path != file)), file
    )


def shifted(file: Path, chance: random.Random) -> None:
    """A piece of it is somewhere else, of the same size and with the same bytes."""
    content = file.read_bytes()
    at = chance.randrange(1, len(content))
    file.write_bytes(content[at:] + content[:at])


KINDS: tuple[Callable[[Path, random.Random], None], ...] = (
    truncated,
    zeroed,
    flipped,
    appended,
    doubled,
    missing,
    swapped,
    overwritten,
    shifted,
)


def damage(checkpoint: Path, chance: random.Random) -> str:
    """Damages one file of a checkpoint, and says how; what says the same afterwards is damaged
    again.
    """
    file, kind = chance.choice(sorted(checkpoint.iterdir())), chance.choice(KINDS)
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    kind(file, chance)
    after = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    return f"{file.name} {kind.__name__}" if _differ(before, after) else damage(checkpoint, chance)


def _differ(before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """Whether the files are others: of a manifest whether it says the same."""
    changed = {name for name in before if before[name] != after.get(name)}
    if changed != {MANIFEST} or MANIFEST not in after:
        return bool(changed)
    try:
        return bool(json.loads(before[MANIFEST]) != json.loads(after[MANIFEST]))
    except ValueError:
        return True
