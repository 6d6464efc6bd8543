"""Damaged and hostile data files, made from a seed: what tests and longer soaks read.

`python -m tests.support.hostile_data SEED N` reads N mutated files and says what became of them.
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


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    kept = io.BytesIO()
    picture.save(kept, kind, **options)
    return kept.getvalue()


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
    """A sound grey PNG whose header declares side x side pixels; of its pixels only some rows are
    there.
    """
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes((side + 1) * rows), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def images(seed: int) -> dict[str, bytes]:
    """Pictures by name: those that begin with "good" are read at `data_size`, those with "bad" are
    not.
    """
    random = np.random.default_rng(seed)
    rgb = photo(random)
    grey, turned, wide = (
        rgb.convert("L"),
        Image.Exif(),
        random.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16),
    )
    turned[274] = 6
    clear = rgb.copy()
    clear.putalpha(grey)
    png, jpg = encoded(rgb), encoded(rgb.resize((64, 64)), "JPEG", quality=90)
    middle = len(png) // 2
    return {
        "good-rgb.png": png,
        "good-1-bit.png": encoded(rgb.convert("1")),
        "good-grey.png": encoded(grey),
        "good-la.png": encoded(clear.convert("LA")),
        "good-p.png": encoded(rgb.convert("P")),
        "good-rgba.png": encoded(clear),
        "good-cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "good-16-bit.png": encoded(Image.fromarray(wide)),
        "good-animated.gif": encoded(
            rgb, "GIF", save_all=True, append_images=[photo(random), photo(random)]
        ),
        "good-turned.jpg": encoded(rgb, "JPEG", exif=turned),
        "good-progressive.jpg": encoded(rgb.resize((64, 64)), "JPEG", progressive=True),
        "good-restarts.jpg": encoded(rgb.resize((64, 64)), "JPEG", restart_marker_blocks=1),
        "good-trailer.jpg": jpg + b"a camera's own remarks",
        "good-broken-exif.jpg": encoded(rgb, "JPEG", exif=b"Exif\0\0" + turned.tobytes()[6:-9]),
        "good-1x1.png": encoded(rgb.resize((1, 1))),
        "good-png-inside.jpg": png,
        "good-targa.tga": encoded(rgb, "TGA"),
        "bad-empty.png": b"",
        "bad-truncated.png": png[:middle],
        "bad-truncated.jpg": jpg[: len(jpg) // 2],
        "bad-no-end.jpg": jpg[:-2],
        "bad-html.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "bad-postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\nshowpage\n",
        "bad-icon.png": encoded(rgb, "ICO"),
        "bad-targa.png": encoded(rgb, "TGA"),
        "bad-middle.png": png[:middle] + bytes([png[middle] ^ 1]) + png[middle + 1 :],
        "bad-header.png": huge_png(50_000),
        "bad-bomb.png": huge_png(10_000, 10_000),
        "bad-float.tiff": encoded(grey.convert("F"), "TIFF"),
        "bad-beyond-16-bit.tiff": encoded(Image.fromarray(wide.astype(np.int32) + 65536), "TIFF"),
    }


def packed(
    entries: list[tuple[zipfile.ZipInfo | str, bytes]], method: int = zipfile.ZIP_STORED
) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", method) as out:
        for entry, content in entries:
            out.writestr(entry, content, method)
    return kept.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (kind | 0o644) << 16
    return entry


def lying(packed: bytes, declared: int) -> bytes:
    """A zip whose list of contents declares another unpacked size for its first entry."""
    at = packed.index(b"PK\x01\x02") + 24
    return packed[:at] + struct.pack("<I", declared) + packed[at + 4 :]


def archives(seed: int) -> dict[str, bytes]:
    """Zips by name, each with one sound picture in it, that are refused as a whole for what their
    names say.
    """
    random = np.random.default_rng(seed)
    picture = encoded(photo(random))
    sound = [("a.png", picture)]
    return {
        "up.zip": packed([*sound, ("../../out.png", picture)]),
        "up-inside.zip": packed([*sound, ("x/../../out.png", picture)]),
        "absolute.zip": packed([*sound, ("/tmp/out.png", picture)]),
        "drive.zip": packed([*sound, ("C:/out.png", picture)]),
        "backslash.zip": packed([*sound, ("x\\..\\out.png", picture)]),
        "symlink.zip": packed([*sound, (special("link.png", stat.S_IFLNK), b"/etc/passwd")]),
        "device.zip": packed([*sound, (special("null.png", stat.S_IFCHR), b"")]),
        "pipe.zip": packed([*sound, (special("pipe.png", stat.S_IFIFO), b"")]),
        "ratio.zip": packed([*sound, ("zeros.png", bytes(2**24 + 2**22))], zipfile.ZIP_DEFLATED),
        "ratio-of-all.zip": packed(
            [*sound, *((f"{i}.png", bytes(2**22)) for i in range(6))], zipfile.ZIP_DEFLATED
        ),
        "lying.zip": lying(packed([*sound, ("b.png", picture)]), 2**31),
        "case.zip": packed([*sound, ("A.png", picture)]),
        "case-of-folders.zip": packed([("x/a.png", picture), ("X/b.png", picture)]),
        "unicode.zip": packed([("\u00e9.png", picture), ("e\u0301.png", picture)]),
        "twice.zip": (
            packed([("aa.png", picture), ("bb.png", picture)]).replace(b"bb.png", b"aa.png")
        ),
        "lzma.zip": packed(sound, zipfile.ZIP_LZMA),
        "encrypted.zip": flagged(packed(sound)),
        "tar.zip": b"a.png".ljust(257, b"\0") + b"ustar\x0000" + picture.ljust(1024, b"\0"),
    }


def crowded(seed: int, n: int) -> bytes:
    """A zip of one picture whose list of contents has n more entries, all empty and no pictures."""
    one = packed([("a.png", encoded(photo(np.random.default_rng(seed))))])
    at, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
    names = [f"{i % 100}/{i}.txt".encode() for i in range(n)]
    entry = b"PK\x01\x02" + struct.pack("<6H3L", 20, 20, 0, 0, 0, 33, 0, 0, 0)
    listed = b"".join(
        entry + struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, 0) + name for name in names
    )
    size = end - at + len(listed)
    return one[:end] + listed + one[end : end + 12] + struct.pack("<LLH", size, at, 0)


def flagged(packed: bytes) -> bytes:
    """A zip that says of its first entry that it is encrypted."""
    at = packed.index(b"PK\x01\x02") + 8
    return packed[:at] + b"\x01" + packed[at + 1 :]


def mutated(random: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """Some of: flipped bits, bytes that matter to parsers, a cut, a piece left out, repeated, or of
    another file.
    """
    changed = bytearray(content)
    for _ in range(random.integers(1, 4)):
        at, n, size = random.integers(0, max(1, len(changed))), random.integers(1, 64), len(changed)
        match random.integers(0, 7):
            case 0 if size:
                changed[at] ^= 1 << random.integers(0, 8)
            case 1 if size:
                changed[at] = random.choice([0, 1, 127, 128, 255])
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + n]
            case 4:
                changed[at:at] = changed[at : at + n]
            case 5:
                changed[at : at + n] = other[at : at + n]
            case 6:
                changed[at : at + n] = bytes(int(n))
    return bytes(changed)


def sound_files(seed: int) -> dict[str, bytes]:
    """One valid file of each kind that is read, by its name."""
    random = np.random.default_rng(seed)
    pictures = {f"{k}.{SUFFIX.get(k, k.lower())}": encoded(photo(random), k) for k in KINDS}
    names = [f"{folder}/{i}.png" for folder in "ab" for i in range(3)]
    table = json.dumps({"labels": [[name, i % 2] for i, name in enumerate(names)]}).encode()
    tree = [(name, encoded(photo(random))) for name in names]
    x, y = random.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    one, two, deflated = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(one, x)
    np.savez(two, x=x, y=y)
    np.savez_compressed(deflated, x=x, mask=np.ones((30, 4), bool))
    return {
        **pictures,
        "stored.zip": packed([*tree, ("dataset.json", table)]),
        "deflated.zip": packed(tree, zipfile.ZIP_DEFLATED),
        "dataset.json": table,
        "x.npy": one.getvalue(),
        "x.npz": two.getvalue(),
        "deflated.npz": deflated.getvalue(),
        "x.safetensors": save({"x": x, "label": y}),
    }


def placed(folder: Path, name: str, content: bytes, beside: bytes) -> Path:
    """Writes the file where it is read from: pictures and tables of labels in a folder with sound
    pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith((".zip", ".npy", ".npz", ".safetensors")):
        (folder / name).write_bytes(content)
        return folder / name
    for i in range(6 if name == "dataset.json" else 1):
        within = folder / ("ab"[i // 3] if name == "dataset.json" else "") / f"{i % 3}.png"
        within.parent.mkdir(exist_ok=True)
        within.write_bytes(beside)
    (folder / name).write_bytes(content)
    return folder


def fuzz_data(seed: int, n: int, folder: Path) -> Counter:
    """Reads n mutated files; returns how many of each suffix were read and refused.

    Raises AssertionError where one is refused in more than a line, not by the package's own errors,
    or not in time.
    """
    random, sound, told = np.random.default_rng(seed), sound_files(seed), Counter()
    names = list(sound)
    for case in range(n):
        name, other = names[case % len(names)], names[random.integers(0, len(names))]
        path = placed(
            folder / f"{seed}-{case}",
            name,
            mutated(random, sound[name], sound[other]),
            sound["PNG.png"],
        )
        begun, pictures = time.process_time(), path.is_dir() or path.suffix == ".zip"
        try:
            if random.integers(0, 2):
                data.load(str(path), SIDE if pictures else None)
            else:
                data.read(str(path), SIDE if pictures else None, random.choice(["fail", "skip"]))
            told[f"{name.rpartition('.')[2]} read"] += 1
        except (UserError, StorageError) as error:
            line = str(error)
            assert line.isprintable(), f"seed {seed} case {case} {name}: {line!r}"
            told[f"{name.rpartition('.')[2]} refused"] += 1
        except Exception as error:
            raise AssertionError(
                f"seed {seed} case {case} {name}: {type(error).__name__}: {error}"
            ) from error
        seconds = time.process_time() - begun
        assert seconds < SECONDS, f"seed {seed} case {case} {name}: {seconds:.1f} s"
    return told


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for kind, count in sorted(
            fuzz_data(int(sys.argv[1]), int(sys.argv[2]), Path(place)).items()
        ):
            print(f"{kind:<22} {count}")
