"""Runs every command and block of Python of the pages: `python -m tests.docs [PAGE ...]`.

Each page has a folder of its own, in which its commands follow one another. Training takes a few
steps, scores a few samples; names in capitals and runs that a page supposes are made up. A notebook
is a page too, whose code cells are its blocks; --full trains as long as it says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
os.environ.setdefault("MPLBACKEND", "agg")

from tests.docs import notebooks, shortened
from tests.docs.exceptions import EXCEPTIONS, Special
from tests.docs.pages import PAGES, ROOT, Piece, pieces

# Of pages of no one method: the run that its options change.
MOVING = {
    "consistency_gc": "cifar10-gc",
    "diffusers_lcm": "glyphs --method direct_cm",
    "fastgen": "cifar10-ect",
    "openai": "imagenet64-ect-s --method cd",
    "text-to-image": "toy --method meanflow --teacher exact:ring8",
}


class Failure(Exception):
    """A command that ended with an error, and what it said."""


def special_of(command: str) -> Special | None:
    return next((one for one in EXCEPTIONS if one.fits(command)), None)


def without_launcher(command: str) -> str:
    """The words that one process gets of torchrun, srun or accelerate."""
    start, launcher, rest = command.replace("-m -- ", "-m ").partition("-m fewstep ")
    if launcher and start.split()[0] in ("torchrun", "accelerate"):
        return f"fewstep {rest}"
    return command.removeprefix("srun ").removeprefix(".venv/bin/")


def command_of(piece: Piece) -> str:
    """The shell command of a piece; options are those of a training by the page's method."""
    if piece.kind == "shell":
        return without_launcher(piece.text)
    method = "" if piece.text.startswith("--method ") else f"--method {piece.page.stem} "
    recipe = "digits"
    if piece.page.stem in MOVING:
        return f"fewstep train {MOVING[piece.page.stem]} {piece.text}"
    if piece.page.stem == "reproduce":  # its options are for the table that they stand below
        method, recipe = "", "cifar10-gc" if "ict" in piece.text else "imagenet64-mcm-small"
    return f"fewstep train {recipe} {method}{piece.text}"


def run_piece(piece: Piece) -> str:
    """Runs it in the current folder; returns what was done with it. Raises Failure."""
    if piece.kind in ("python", "cell"):
        shortened.run_python(piece)
        return "run"
    command = command_of(piece)
    special = special_of(command)
    if special is not None and special.how == "left":
        script = next((word for word in command.split() if word.endswith(".py")), None)
        if script and not (ROOT / script).exists():
            raise Failure(f"no such script: {script}")
        return f"left: {special.reason}"
    if not command.startswith("fewstep "):
        raise Failure("neither a command of fewstep nor an exception in tests/docs/exceptions.py")
    words = shlex.split(command)[1:]
    if special is None:
        call(shortened.short(words, piece))
        return "run"
    if words[0] == "train":
        shortened.check_training(words, build=special.how == "meta")
    else:
        known = help_of(words[0])
        for word in words:
            if word.strip("[]").startswith("--") and word.strip("[]") not in known:
                raise Failure(f"no option {word} of {words[0]}")
    return f"{special.how}: {special.reason}"


def call(words: list[str]) -> str:
    """Runs `fewstep WORDS`; returns its output. Raises Failure unless it ends well."""
    from fewstep.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    if code:
        lines = (errors.getvalue() or output.getvalue()).strip().splitlines()
        raise Failure(f"exit code {code}: {lines[-1] if lines else 'nothing was said'}")
    return output.getvalue()


def help_of(verb: str) -> str:
    return call([verb, "--help"])


@contextlib.contextmanager
def folder_of_its_own() -> Iterator[None]:
    """An empty folder, in which modules are found too."""
    with tempfile.TemporaryDirectory(prefix="fewstep-docs-") as name:
        before = Path.cwd()
        os.chdir(name)
        sys.path.insert(0, name)
        try:
            yield
        finally:
            sys.path.remove(name)
            os.chdir(before)


def pieces_of(page: Path) -> list[Piece]:
    """All of a page or of a notebook."""
    return notebooks.pieces(page) if page.suffix == ".ipynb" else pieces(page)


def run_page(page: Path, *, verbose: bool, full: bool = False) -> list[str]:
    """The failures of a page, each with its place; full: trainings as long as they say."""
    failures = []
    with folder_of_its_own(), contextlib.nullcontext() if full else shortened.trainings():
        if page.suffix == ".md":
            shortened.prepare(page)
        for piece in pieces_of(page):
            start = time.monotonic()
            first = piece.text.strip().splitlines()[0]
            try:
                note = run_piece(piece)
            except Exception as error:
                piece = piece._replace(line=shortened.line_of(error, piece))
                note = f"FAILED: {type(error).__name__}: {error}"
                failures.append(f"{piece.place}: {first}\n  {note}")
            seconds = time.monotonic() - start
            if verbose or note.startswith("FAILED"):
                print(f"{piece.place}  {seconds:.1f} s  {first[:90]}  [{note}]", flush=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="these pages alone")
    parser.add_argument("--verbose", action="store_true", help="a line for each command")
    parser.add_argument("--full", action="store_true", help="of notebooks: trainings at length")
    args = parser.parse_args()
    pages = [path.resolve() for path in args.pages] or [*PAGES, *notebooks.NOTEBOOKS]
    start = time.monotonic()
    ways = [(page, args.full and page.suffix == ".ipynb") for page in pages]
    failures = [
        line for page, full in ways for line in run_page(page, verbose=args.verbose, full=full)
    ]
    count = sum(len(pieces_of(page)) for page in pages)
    print(f"{count} commands and blocks, {len(failures)} failed, {time.monotonic() - start:.0f} s")
    print("\n".join(failures), end="\n" if failures else "")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
