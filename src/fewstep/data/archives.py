"""Where files are found, and which archives are refused before any of their files is read.

| in a zip, and in a .npz, which is one | |
|---|---|
| an absolute name, `..`, a backslash, a drive, a NUL | refused |
| links, devices, pipes | refused; a zip knows no hard links |
| two entries of one name, or of names that differ in case or Unicode form alone | refused |
| entries that unpack to over 200 times their size and 16 MiB, alone or together | refused |
| encryption, other packings than stored and deflated | refused |
| a checksum (CRC-32) that is wrong | refused, of a picture as the policy says |

Nothing is ever unpacked to a disk. The number of entries has no limit of its own: ImageNet has 1.3
million, whose list takes about as much memory as in the file, and ten times that while it is read.
Tar archives are not read. A .npy or .npz is refused where an array is not as long as its header
says, before memory is taken for it.

In a folder links are followed, to files and to folders, since data sets are often put together by
them; a link to nothing, a pipe or a device in place of a picture is a bad file, and a circle of
links is refused.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy

from fewstep.base.errors import UserError
from fewstep.data.entries import Entries, File, Files

RATIO = 200  # deflate reaches 1030; pictures and arrays of measurements reach a few
FREE = 2**24  # bytes that anything may unpack to: a constant mask is no bomb


def printable(text: object) -> str:
    """A name or message of a file as one printable line of at most 300 characters."""
    line = str(text)
    if not line.isprintable():
        line = ascii(line)[1:-1]
    return line if len(line) <= 300 else f"{line[:297]}..."


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Inside, whatever a file's reader raises becomes a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers of foreign files raise whatever they like
        message = printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        if "pickle" in message:
            message = "damaged, or it holds Python objects, which are never loaded"
        raise UserError(f"cannot read {printable(name)}: {message}") from error


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """The files of a folder or zip, without hidden ones, in the order of their names."""
    with ExitStack() as stack:
        with readable(str(path)):
            files = _in_folder(path) if path.is_dir() else _in_zip(path, stack)
        yield files


def _in_folder(path: Path) -> Files:
    return dict(sorted(_walk(path, "", ())))


def _in_zip(path: Path, stack: ExitStack) -> Files:
    source = stack.enter_context(zipfile.ZipFile(path))
    check_entries(path, source.infolist())
    entries = [e for e in source.infolist() if not e.is_dir() and not _is_hidden(e.filename)]
    return Entries(source, entries)


def file_mark(path: Path) -> str:
    """The size and time of a file; "" where there is none."""
    with suppress(OSError):
        facts = path.stat()
        return f"{facts.st_size} {facts.st_mtime_ns}"
    return ""


def source_mark(path: Path) -> str:
    """What tells whether a file, or anything in a folder, has changed."""
    if not path.is_dir():
        return file_mark(path)
    with open_files(path) as files:
        return marks_of(files, list(files))


def marks_of(files: Files, names: Sequence[str]) -> str:
    """A digest of the marks of these files."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{files[name].mark()}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part != "." for part in name.split("/"))


def _walk(folder: Path, below: str, chain: tuple[str, ...]) -> Iterator[tuple[str, File]]:
    """(name, how to open it) of all files below a folder; chain: the real folders above it."""
    here = os.path.realpath(folder)
    if here in chain:
        raise UserError(
            f"{printable(folder)} is a link to {printable(here)}, which holds it: remove the link"
        )
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        name = f"{below}{entry.name}"
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/", (*chain, here))
        else:
            path = Path(entry.path)
            yield name, File(partial(_open_plain, path), partial(file_mark, path))


def _open_plain(path: Path) -> IO[bytes]:
    """The open file. Anything but a plain file is refused first: opening a pipe would wait."""
    if not path.exists():
        raise UserError("a link to nothing")
    if not path.is_file():
        raise UserError("no plain file")
    return path.open("rb")


def check_entries(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuses an archive by the table above, in time linear in its entries. Raises UserError."""
    for entry in entries:
        if why := _fault(entry):
            raise _refusal(path, entry.orig_filename, why)
    if pair := _clash_on_disk([entry.filename.rstrip("/") for entry in entries]):
        raise _refusal(path, pair[0], f"and {printable(pair[1])} are one file on some disks")
    total = sum(entry.file_size for entry in entries)
    size = path.stat().st_size
    if total > RATIO * size + FREE:  # also where entries overlap, and each alone looks harmless
        raise UserError(
            f"{printable(path)} would unpack from {size} to {total} bytes: expected at most {RATIO}"
            " times as many"
        )


def _refusal(path: Path, name: str, why: str) -> UserError:
    entry = f"{printable(path)}: the entry {printable(name)}"
    return UserError(f"{entry} {why}: pack the plain files anew")


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry alone."""
    name = entry.orig_filename
    kind = stat.S_IFMT(entry.external_attr >> 16)
    is_absolute = name.startswith("/") or name[1:2] == ":"
    if is_absolute or "\\" in name or "\0" in name or ".." in name.split("/"):
        return "has a name that leads out of the archive"
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device or pipe"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is neither stored nor deflated"
    if entry.file_size > RATIO * entry.compress_size + FREE:
        sizes = f"from {entry.compress_size} to {entry.file_size} bytes"
        return f"would unpack {sizes}, more than {RATIO} times as many"
    return None


def _clash_on_disk(names: list[str]) -> tuple[str, str] | None:
    """Two names, or their folders, that are one where case or Unicode forms do not count."""
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        return twice, twice
    return _clash(names) or _clash(_folders(names))


def _folders(names: Iterable[str]) -> list[str]:
    folders = set[str]()
    new = {name.rpartition("/")[0] for name in names}
    while new:
        folders |= new
        new = {name.rpartition("/")[0] for name in new} - folders
    return sorted(folders)


def _clash(names: Iterable[str]) -> tuple[str, str] | None:
    spellings: dict[str, str] = {}
    for name in names:
        plain = name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
        plain = name if plain == name else plain  # one text for both
        if (other := spellings.setdefault(plain, name)) != name:
            return other, name
    return None


def check_numpy(path: Path) -> None:
    """Refuses a .npy or .npz whose arrays are not as long as their headers say, or bad archives.

    Raises UserError, and whatever NumPy raises on a damaged header.
    """
    if path.suffix.lower() == ".npy" and not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            check_array(str(path), file, path.stat().st_size)
        return
    with zipfile.ZipFile(path) as source:
        check_entries(path, source.infolist())
        for entry in source.infolist():
            with source.open(entry) as file:
                check_array(f"{path}: {entry.filename}", file, entry.file_size)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, Any]:
    """(shape, whether columns come first, type) of a .npy, which is then read up to its numbers."""
    is_first = npy.read_magic(file) == (1, 0)
    read = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        result: tuple[tuple[int, ...], bool, Any] = read(file)
    return result


def check_array(name: str, file: IO[bytes], size: int) -> None:
    """Compares shape times width with the bytes that follow the header."""
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise UserError(f"cannot read {name}: it holds Python objects, which are never loaded")
    need = math.prod(shape) * dtype.itemsize
    rest = size - file.tell()
    if need != rest or any(n < 0 for n in shape):
        raise UserError(
            f"{name} declares {dtype} of shape {shape}, {need} bytes, and holds {rest}: it is"
            " damaged"
        )
