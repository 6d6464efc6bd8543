"""Damaged and hostile data files, made from a seed, for tests and longer soaks.

`python -m tests.support.hostile_data SEED N` reads N mutated files and prints the outcomes.
"""

from __future__ import annotations

import io
import json
import stat
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save

from fewstep import data
from fewstep.base.errors import StorageError, UserError

SIDE = 16
SECONDS = 2.0  # of the processor, that reading any small file may take
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000")
SUFFIX = {"JPEG": "jpg", "JPEG2000": "jp2"}


def encode(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(random: np.random.Generator, side: int = SIDE) -> Image.Image:
    """Smooth colours with some noise, as a camera would see them."""
    grid = np.linspace(0, 3, side)
    waves = [
        np.sin(grid[:, None] * a + b) + np.cos(grid[None] * b)
        for a, b in random.uniform(0.5, 3, (3, 2))
    ]
    values = 128 + 50 * np.stack(waves, 2) + random.normal(0, 5, (side, side, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge_png(side: int, rows: int = 1) -> bytes:
    """A sound grey PNG whose header declares side x side pixels; it has only some of their rows."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes((side + 1) * rows), 9)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def images(seed: int) -> dict[str, bytes]:
    """Pictures by name: "good" ones are read at `data_size`, "bad" ones are refused."""
    random = np.random.default_rng(seed)
    rgb = photo(random)
    grey = rgb.convert("L")
    wide = random.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
    exif = Image.Exif()
    exif[274] = 6
    clear = rgb.copy()
    clear.putalpha(grey)
    png = encode(rgb)
    jpg = encode(rgb.resize((64, 64)), "JPEG", quality=90)
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(jpg)) + jpg
    middle = len(png) // 2
    return {
        "good-rgb.png": png,
        "good-1-bit.png": encode(rgb.convert("1")),
        "good-grey.png": encode(grey),
        "good-la.png": encode(clear.convert("LA")),
        "good-p.png": encode(rgb.convert("P")),
        "good-rgba.png": encode(clear),
        "good-cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "good-16-bit.png": encode(Image.fromarray(wide)),
        "good-animated.gif": encode(
            rgb, "GIF", save_all=True, append_images=[photo(random), photo(random)]
        ),
        "good-turned.jpg": encode(rgb, "JPEG", exif=exif),
        "good-progressive.jpg": encode(rgb.resize((64, 64)), "JPEG", progressive=True),
        "good-restarts.jpg": encode(rgb.resize((64, 64)), "JPEG", restart_marker_blocks=1),
        "good-trailer.jpg": jpg + b"a camera's own remarks",
        "good-thumbnail.jpg": jpg[:2] + thumbnail + jpg[2:],
        "good-broken-exif.jpg": encode(rgb, "JPEG", exif=b"Exif\0\0" + exif.tobytes()[6:-9]),
        "good-1x1.png": encode(rgb.resize((1, 1))),
        "good-png-inside.jpg": png,
        "good-targa.tga": encode(rgb, "TGA"),
        "bad-empty.png": b"",
        "bad-truncated.png": png[:middle],
        "bad-truncated.jpg": jpg[: len(jpg) // 2],
        "bad-no-end.jpg": jpg[:-2],
        "bad-no-end-thumbnail.jpg": jpg[:2] + thumbnail + jpg[2:-2],
        "bad-html.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "bad-postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\nshowpage\n",
        "bad-icon.png": encode(rgb, "ICO"),
        "bad-targa.png": encode(rgb, "TGA"),
        "bad-middle.png": png[:middle] + bytes([png[middle] ^ 1]) + png[middle + 1 :],
        "bad-header.png": huge_png(50_000),
        "bad-bomb.png": huge_png(10_000, 10_000),
        "bad-float.tiff": encode(grey.convert("F"), "TIFF"),
        "bad-beyond-16-bit.tiff": encode(Image.fromarray(wide.astype(np.int32) + 65536), "TIFF"),
    }


def pack(
    entries: list[tuple[zipfile.ZipInfo | str, bytes]], method: int = zipfile.ZIP_STORED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for entry, content in entries:
            out.writestr(entry, content, method)
    return buffer.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o644) << 16
    return entry


def lying(content: bytes, size: int) -> bytes:
    """A zip whose list of contents declares another unpacked size for its first entry."""
    at = content.index(b"PK\x01\x02") + 24
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


def archives(seed: int) -> dict[str, bytes]:
    """Zips by name, each with one sound picture in it, refused for what their names say."""
    random = np.random.default_rng(seed)
    picture = encode(photo(random))
    sound = [("a.png", picture)]
    return {
        "up.zip": pack([*sound, ("../../out.png", picture)]),
        "up-inside.zip": pack([*sound, ("x/../../out.png", picture)]),
        "absolute.zip": pack([*sound, ("/tmp/out.png", picture)]),
        "drive.zip": pack([*sound, ("C:/out.png", picture)]),
        "backslash.zip": pack([*sound, ("x\\..\\out.png", picture)]),
        "symlink.zip": pack([*sound, (special("link.png", stat.S_IFLNK), b"/etc/passwd")]),
        "device.zip": pack([*sound, (special("null.png", stat.S_IFCHR), b"")]),
        "pipe.zip": pack([*sound, (special("pipe.png", stat.S_IFIFO), b"")]),
        "ratio.zip": pack([*sound, ("zeros.png", bytes(2**24 + 2**22))], zipfile.ZIP_DEFLATED),
        "ratio-of-all.zip": pack(
            [*sound, *((f"{i}.png", bytes(2**22)) for i in range(6))], zipfile.ZIP_DEFLATED
        ),
        "lying.zip": lying(pack([*sound, ("b.png", picture)]), 2**31),
        "case.zip": pack([*sound, ("A.png", picture)]),
        "case-of-folders.zip": pack([("x/a.png", picture), ("X/b.png", picture)]),
        "unicode.zip": pack([("\u00e9.png", picture), ("e\u0301.png", picture)]),
        "twice.zip": (
            pack([("aa.png", picture), ("bb.png", picture)]).replace(b"bb.png", b"aa.png")
        ),
        "lzma.zip": pack(sound, zipfile.ZIP_LZMA),
        "encrypted.zip": flag_encryption(pack(sound)),
        "tar.zip": b"a.png".ljust(257, b"\0") + b"ustar\x0000" + picture.ljust(1024, b"\0"),
    }


def crowd_zip(seed: int, n: int) -> bytes:
    """A zip of one picture and n more entries, all empty and no pictures."""
    one = pack([("a.png", encode(photo(np.random.default_rng(seed))))])
    at = one.index(b"PK\x01\x02")
    end = one.index(b"PK\x05\x06")
    names = [f"{i % 100}/{i}.txt".encode() for i in range(n)]
    entry = b"PK\x01\x02" + struct.pack("<6H3L", 20, 20, 0, 0, 0, 33, 0, 0, 0)
    entries = b"".join(
        entry + struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, 0) + name for name in names
    )
    size = end - at + len(entries)
    return one[:end] + entries + one[end : end + 12] + struct.pack("<LLH", size, at, 0)


def flag_encryption(content: bytes) -> bytes:
    """A zip that marks its first entry as encrypted."""
    at = content.index(b"PK\x01\x02") + 8
    return content[:at] + b"\x01" + content[at + 1 :]


def mutate(random: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """Flipped bits, bytes that matter to parsers, a cut, pieces left out, repeated or foreign."""
    copy = bytearray(content)
    for _ in range(random.integers(1, 4)):
        size = len(copy)
        at = random.integers(0, max(1, size))
        n = random.integers(1, 64)
        match random.integers(0, 7):
            case 0 if size:
                copy[at] ^= 1 << random.integers(0, 8)
            case 1 if size:
                copy[at] = random.choice([0, 1, 127, 128, 255])
            case 2:
                del copy[at:]
            case 3:
                del copy[at : at + n]
            case 4:
                copy[at:at] = copy[at : at + n]
            case 5:
                copy[at : at + n] = other[at : at + n]
            case 6:
                copy[at : at + n] = bytes(int(n))
    return bytes(copy)


def sound_files(seed: int) -> dict[str, bytes]:
    """One valid file of each kind that is read, by its name."""
    random = np.random.default_rng(seed)
    pictures = {f"{k}.{SUFFIX.get(k, k.lower())}": encode(photo(random), k) for k in KINDS}
    names = [f"{folder}/{i}.png" for folder in "ab" for i in range(3)]
    table = json.dumps({"labels": [[name, i % 2] for i, name in enumerate(names)]}).encode()
    tree = [(name, encode(photo(random))) for name in names]
    x = random.normal(size=(30, 4)).astype(np.float32)
    y = np.arange(30) % 3
    npy, npz, deflated_npz = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, x)
    np.savez(npz, x=x, y=y)
    np.savez_compressed(deflated_npz, x=x, mask=np.ones((30, 4), bool))
    return {
        **pictures,
        "stored.zip": pack([*tree, ("dataset.json", table)]),
        "deflated.zip": pack(tree, zipfile.ZIP_DEFLATED),
        "dataset.json": table,
        "x.npy": npy.getvalue(),
        "x.npz": npz.getvalue(),
        "deflated.npz": deflated_npz.getvalue(),
        "x.safetensors": save({"x": x, "label": y}),
    }


def place(folder: Path, name: str, content: bytes, beside: bytes) -> Path:
    """Writes the file; pictures and tables of labels into a folder with sound pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith((".zip", ".npy", ".npz", ".safetensors")):
        (folder / name).write_bytes(content)
        return folder / name
    table = [f"{sub}/{i}.png" for sub in "ab" for i in range(3)]
    for picture in table if name == "dataset.json" else ["0.png"]:
        (folder / picture).parent.mkdir(exist_ok=True)
        (folder / picture).write_bytes(beside)
    (folder / name).write_bytes(content)
    return folder


def fuzz_data(seed: int, n: int, folder: Path) -> Counter:
    """Reads n mutated files; returns how many of each suffix were read and refused.

    Raises AssertionError where one is refused in more than a line, not by the package's own errors,
    or not in time.
    """
    random = np.random.default_rng(seed)
    sound = sound_files(seed)
    names = list(sound)
    counts: Counter = Counter()
    for case in range(n):
        name = names[case % len(names)]
        other = names[random.integers(0, len(names))]
        suffix = name.rpartition(".")[2]
        about = f"seed {seed} case {case} {name}"
        content = mutate(random, sound[name], sound[other])
        path = place(folder / f"{seed}-{case}", name, content, sound["PNG.png"])
        size = SIDE if path.is_dir() or path.suffix == ".zip" else None
        start = time.process_time()
        try:
            if random.integers(0, 2):
                data.load(str(path), size)
            else:
                data.read(str(path), size, random.choice(["fail", "skip"]))
            counts[f"{suffix} read"] += 1
        except (UserError, StorageError) as error:
            line = str(error)
            assert line.isprintable(), f"{about}: {line!r}"
            counts[f"{suffix} refused"] += 1
        except Exception as error:
            raise AssertionError(f"{about}: {type(error).__name__}: {error}") from error
        seconds = time.process_time() - start
        assert seconds < SECONDS, f"{about}: {seconds:.1f} s"
    return counts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz_data(int(sys.argv[1]), int(sys.argv[2]), Path(folder))
        for kind, count in sorted(outcomes.items()):
            print(f"{kind:<22} {count}")
