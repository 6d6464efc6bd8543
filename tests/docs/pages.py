"""What a page tells its reader to run: shell commands, options of `train`, and blocks of Python."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
SHELLS = ("console", "bash")
FENCE = re.compile(r"^( *)```(\w*)$")
# In the text: a command, or options of `train` with a value.
STARTS = ("fewstep ", "python ", "make ", "torchrun ", "accelerate ", "--method")


class Piece(NamedTuple):
    """Something to run, and where it stands."""

    page: Path
    line: int
    kind: str  # shell, python or options
    text: str

    @property
    def place(self) -> str:
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"


def pieces(page: Path) -> list[Piece]:
    """All of a page, in its order."""
    text, result = [], []
    lines = enumerate(page.read_text().splitlines(), 1)
    for number, line in lines:
        fence = FENCE.match(line)
        if fence is None:
            text.append((number, line))
            continue
        block = []
        for inside, other in lines:
            if other.strip() == "```":
                break
            block.append((inside, other.removeprefix(fence[1])))
        text.append((number, ""))  # what is quoted in a line does not reach across a block
        if fence[2] == "python":
            code = textwrap.dedent("\n".join(line for _, line in block))
            result.append(Piece(page, number + 1, "python", code))
        if fence[2] in SHELLS:
            result += commands(page, block)
    return sorted([*result, *quoted(page, text)], key=lambda piece: piece.line)


def commands(page: Path, block: list[tuple[int, str]]) -> Iterator[Piece]:
    """The commands of a block; a line that begins with spaces goes on with the one before."""
    whole_lines: list[tuple[int, str]] = []
    for number, line in block:
        line = re.sub(r"(^|\s+)#.*", "", line)
        if line.startswith(" ") and whole_lines:
            whole_lines[-1] = (whole_lines[-1][0], f"{whole_lines[-1][1]} {line.strip()}")
        elif line.strip():
            whole_lines.append((number, line.strip()))
    return (Piece(page, number, "shell", line) for number, line in whole_lines)


def quoted(page: Path, text: list[tuple[int, str]]) -> Iterator[Piece]:
    """Commands and options that are quoted in the text, also over the end of a line."""
    whole = "\n".join(line for _, line in text)
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", whole):
        words = " ".join(match[1].split())
        # `fewstep eval` alone is the verb's name.
        least = 3 if words.startswith("fewstep ") else 2
        if not words.startswith(STARTS) or "\n\n" in match[1] or len(words.split()) < least:
            continue
        number = text[whole.count("\n", 0, match.start())][0]
        kind = "options" if words.startswith("-") else "shell"
        yield Piece(page, number, kind, words)
