"""Where files are found, and what is refused before any is read: archives that lead astray or are
bombs.

| in a zip, and in a .npz, which is one | |
|---|---|
| an absolute name, `..`, a backslash, a drive, a NUL | refused |
| links, devices, pipes | refused; a zip knows no hard links |
| two entries of one name, or of names that differ in case or Unicode form alone | refused |
| entries that unpack to more than 200 times what they take, beyond 16 MiB | refused, and so are all together |
| encryption, other packings than stored and deflated | refused |
| a checksum (CRC-32) that is wrong | refused, of a picture as the policy says |

Nothing is ever unpacked to a disk. The number of entries has no limit of its own: ImageNet has 1.3
million, and the list of them takes no more memory than about ten times what it takes in the file.
Tar archives are not read.

In a folder links are followed, to files and to folders, since data sets are often put together by
them; a link to nothing, a pipe or a device in place of a picture is a bad file, and a circle of
links is refused.
"""

from __future__ import annotations

import os
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from fewstep.base.errors import UserError

RATIO = 200  # deflate reaches 1030; pictures and arrays of measurements reach a few
FREE = 2**24  # bytes that anything may unpack to: a constant mask is no bomb

Files = dict[str, Callable[[], IO[bytes]]]  # how to open each file, by its name below the top


def shown(text: object) -> str:
    """A name or message of a file as one printable line of at most 300 characters."""
    line = str(text) if str(text).isprintable() else ascii(str(text))[1:-1]
    return line if len(line) <= 300 else f"{line[:297]}..."


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Tells what a file's reader says of it in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers of foreign files raise whatever they like
        told = shown(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        told = (
            "damaged, or it holds Python objects, which are never loaded"
            if "pickle" in told
            else told
        )
        raise UserError(f"cannot read {shown(name)}: {told}") from error


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """The files of a folder or zip that are not hidden, in the order of their names."""
    with telling(str(path)):
        if path.is_dir():
            yield dict(sorted(_walk(path, "", ())))
            return
        with zipfile.ZipFile(path) as source:
            check(path, source.infolist())
            names = sorted(name for name in source.namelist() if not name.endswith("/"))
            yield {name: partial(source.open, name) for name in names if not _hidden(name)}


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part != "." for part in name.split("/"))


def _walk(
    folder: Path, below: str, chain: tuple[str, ...]
) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """(name, how to open it) of all that lies in a folder; chain: the real folders on the way here."""
    here = os.path.realpath(folder)
    if here in chain:
        raise UserError(
            f"{shown(folder)} is a link to {shown(here)}, which holds it: remove the link"
        )
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        name = f"{below}{entry.name}"
        if _hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/", (*chain, here))
        else:
            yield name, partial(_plain, Path(entry.path))


def _plain(path: Path) -> IO[bytes]:
    """The open file; what is none is refused before it is opened, since a pipe would wait for ever."""
    if not path.exists():
        raise UserError("a link to nothing")
    if not path.is_file():
        raise UserError("no plain file")
    return path.open("rb")


def check(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuses an archive by the table above, in time linear in its entries. Raises UserError."""
    for entry in entries:
        if why := _astray(entry):
            raise _refused(path, entry.orig_filename, why)
    if pair := _alike([entry.filename.rstrip("/") for entry in entries]):
        raise _refused(path, pair[0], f"and {shown(pair[1])} are one file on some disks")
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if total > RATIO * size + FREE:  # also where entries overlap, and each alone looks harmless
        raise UserError(
            f"{shown(path)} would unpack from {size} to {total} bytes: expected at most {RATIO}"
            " times as many"
        )


def _refused(path: Path, name: str, why: str) -> UserError:
    return UserError(f"{shown(path)}: the entry {shown(name)} {why}: pack the plain files anew")


def _astray(entry: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry alone."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    if (
        name.startswith("/")
        or name[1:2] == ":"
        or "\\" in name
        or "\0" in name
        or ".." in name.split("/")
    ):
        return "has a name that leads out of the archive"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is a device or pipe"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is neither stored nor deflated"
    if entry.file_size > RATIO * entry.compress_size + FREE:
        return (
            f"would unpack from {entry.compress_size} to {entry.file_size} bytes, more than {RATIO}"
            " times as many"
        )
    return None


def _alike(names: list[str]) -> tuple[str, str] | None:
    """Two names, or their folders, that a disk which ignores case or Unicode forms would take for
    one.
    """
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        return twice, twice
    return _clash(names) or _clash(_folders(names))


def _folders(names: Iterable[str]) -> list[str]:
    found, new = set[str](), {name.rpartition("/")[0] for name in names}
    while new:
        found |= new
        new = {name.rpartition("/")[0] for name in new} - found
    return sorted(found)


def _clash(names: Iterable[str]) -> tuple[str, str] | None:
    spelled: dict[str, str] = {}
    for name in names:
        plain = name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
        if (other := spelled.setdefault(plain, name)) != name:
            return other, name
    return None
