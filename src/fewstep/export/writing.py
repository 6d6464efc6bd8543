"""An export on the disk: all of it or nothing, and only what gives the generator's own samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.analysis.metrics import Result
from fewstep.base import disk
from fewstep.base.errors import NonFiniteError, UserError, require, storage, unknown
from fewstep.base.json_file import MOST_JSON, document
from fewstep.export import diffusers_folder, onnx_file, python_file, torch_file
from fewstep.export.card import CARD, card
from fewstep.export.contents import FORMAT, Contents, Inputs, example_condition
from fewstep.run.checkpoint.format import hash_of

ABOUT = "generator.json"  # in a folder: what it holds
ROWS = 16  # samples that are compared
BOUND, HALF_BOUND = 5e-6, 1e-3  # what the network's answers may differ by, relative to the data

# Writes files into a folder, opens them again, and returns how they sample.
Writer = Callable[[Contents, Path], Callable[[Inputs], Tensor]]


@dataclass(frozen=True)
class Target:
    """A kind of export: what writes it, and its file where that may stand alone."""

    write: Writer
    file: str = ""
    seconds: float = 0.05  # for a module of the network, each time that it is evaluated
    # Raises UserError for a generator that it cannot take, before anything is traced.
    check: Callable[[Contents], object] | None = None

    @property
    def suffix(self) -> str:
        """How the name of the file ends that may stand alone."""
        return Path(self.file).suffix


TARGETS = {
    "onnx": Target(onnx_file.write, onnx_file.NAME, 0.15, onnx_file.check),
    "torch": Target(torch_file.write, torch_file.NAME, 0.05),
    "safetensors": Target(python_file.write),
    "diffusers": Target(diffusers_folder.write, check=diffusers_folder.check),
}


@dataclass(frozen=True)
class Report:
    """What was written."""

    target: str
    files: dict[str, dict[str, Any]]  # path -> bytes and sha256
    steps: int
    inputs: dict[str, Any]
    difference: float  # of samples from the generator's own, relative to the scale of the data
    bound: float

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types."""
        sizes = sum(file["bytes"] for file in self.files.values())
        return {**vars(self), "bytes": sizes}


def target_of(out: Path, to: str | None) -> str:
    """The target's name; left out, it is the one whose file has this ending. Raises UserError."""
    by_suffix = {target.suffix: name for name, target in TARGETS.items() if target.suffix}
    own = by_suffix.get(out.suffix)
    if to is None and own is None:
        endings = " or ".join(by_suffix)
        raise UserError(
            f"no target for {out}: expected a name that ends in {endings}, or a folder with --to"
            f" {', '.join(TARGETS)}"
        )
    if to is not None and to not in TARGETS:
        raise unknown("target", to, TARGETS)
    if own not in (None, to or own) or (own is None and out.suffix == ".safetensors"):
        raise UserError(f"{out} for --to {to}: expected the name of a folder")
    return to or str(own)


def check_place(out: Path, overwrite: bool = False) -> None:
    """Raises UserError where something stands at `out` that may not be replaced."""
    is_file = out.suffix in {target.suffix for target in TARGETS.values() if target.suffix}
    for path in (out, *([card_beside(out)] if is_file else [])):
        if not path.exists() and not path.is_symlink():
            continue
        if not overwrite:
            raise UserError(f"{path} exists: expected a new name, or --overwrite")
        if path.is_dir() and not _is_export(path):
            raise UserError(f"{path} exists, and is no export: expected another name")


def card_beside(file: Path) -> Path:
    """Where the card of a single file is: digits.onnx.md."""
    return file.with_name(f"{file.name}.md")


def _is_export(folder: Path) -> bool:
    """Whether a folder was written by `export`."""
    about = folder / ABOUT
    if not about.is_file():
        return not any(folder.iterdir())
    content = document(about.read_bytes(), about, MOST_JSON)
    return isinstance(content, dict) and content.get("format") == FORMAT


def seconds(contents: Contents, target: str) -> float:
    """About how long an export takes, on one core."""
    modules = sum(1 for _ in contents.generator.denoiser.modules())
    return 5 + TARGETS[target].seconds * modules * len(contents.scheme.times)


def export(
    contents: Contents,
    out: str | Path,
    to: str | None = None,
    *,
    overwrite: bool = False,
    tolerance: float | None = None,
    license: str | None = None,
    name: str = "",
    scores: Sequence[Result] = (),
    note: Callable[[str], None] = lambda text: None,
) -> Report:
    """Writes what `prepare` gave as a folder, or as a file with its card beside it.

    to: a name in `TARGETS`; left out, by how `out` ends. tolerance: the largest difference from the
    generator's samples, relative to the scale of the data. license, name, scores: for the card.
    note: is told each stage. Raises UserError, also where the difference is larger; then, and where
    anything fails, nothing is left.
    """
    out = Path(out)
    to = target_of(out, to)
    check_place(out, overwrite)
    require(tolerance is None or tolerance > 0, "tolerance", tolerance, "above 0")
    bound = bound_of(contents) if tolerance is None else tolerance
    target = TARGETS[to]
    is_file = bool(target.suffix) and out.suffix == target.suffix
    if target.check is not None:
        target.check(contents)
    with storage(f"cannot write {out}"):
        disk.make_folder(out.parent)
        folder = disk.temporary(out)
        disk.make_folder(folder)
        try:
            note(f"tracing and writing: about {seconds(contents, to):.0f} s on one core")
            sample = target.write(contents, folder)
            note(f"comparing {ROWS} samples")
            difference = compare(contents, sample, bound)
            about = json.dumps(contents.to_json() | {"target": to}, indent=1) + "\n"
            text = card(
                contents,
                to,
                file=out.name if is_file else "",
                name=name,
                license=license,
                scores=scores,
            )
            disk.write(folder / ABOUT, about.encode())
            disk.write(folder / CARD, text.encode())
            files = _place_file(folder, out, target) if is_file else _place_folder(folder, out)
        finally:
            if folder.exists():
                with suppress(OSError):
                    disk.remove(folder)
        sizes = {str(path): _size(path) for path in files}
    return Report(
        to, sizes, len(contents.scheme.times), contents.to_json()["inputs"], difference, bound
    )


def bound_of(contents: Contents) -> float:
    """What samples may differ by: a bound for each answer, times what a step makes of it."""
    return (HALF_BOUND if contents.half else BOUND) * contents.amplification


def compare(contents: Contents, sample: Callable[[Inputs], Tensor], bound: float) -> float:
    """The largest difference of samples, relative to the scale of the data.

    Raises UserError beyond the bound, NonFiniteError for a generator that has diverged.
    """
    cond = example_condition(contents.generator, ROWS)
    ours = contents.samples(ROWS, cond=cond)
    if not bool(ours.isfinite().all()):
        raise NonFiniteError("the run's samples are not finite: its weights have diverged")
    theirs = sample(contents.inputs(ROWS, cond=cond))
    fits = theirs.shape == ours.shape and theirs.dtype == ours.dtype
    gap = ((theirs - ours).double().abs() / contents.scales()).max() if fits else None
    if gap is None or not float(gap) <= bound:
        size = f"{float(gap):.2g}" if gap is not None else "in shape or type"
        hint = "leave out --half, or --tolerance" if contents.half else "see --tolerance"
        raise UserError(
            f"its samples differ from the run's by {size} of the data's scale: expected at most"
            f" {bound:g}; nothing was written ({hint})"
        )
    return float(gap)


def _place_folder(folder: Path, out: Path) -> list[Path]:
    """Moves the folder to its place, in the place of an earlier one."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    old = disk.temporary(out)
    if out.exists():
        disk.rename(out, old)
    disk.rename(folder, out)
    if old.exists():
        disk.remove(old)
    return [out / name for name in names]


def _place_file(folder: Path, out: Path, target: Target) -> list[Path]:
    """Moves the one file and its card to their places."""
    beside = card_beside(out)
    disk.rename(folder / CARD, beside)
    disk.rename(folder / target.file, out)
    return [out, beside]


def _size(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size, "sha256": hash_of(path, size)}
