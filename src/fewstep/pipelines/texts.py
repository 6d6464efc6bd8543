"""Texts out of files of any origin: lines and small tables, in a folder or a zip."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import IO, Any

from fewstep.base.errors import FewstepError, UserError
from fewstep.base.json_file import document

MOST_BYTES = 2**29  # of a file of texts, which is read whole
COLUMNS = ("prompt", "caption", "text")  # names of a column that mean the same
LISTS = ("prompts", "captions", "annotations")  # of COCO the last


def text_of(name: str, file: IO[bytes]) -> str:
    """A file in UTF-8. Raises UserError for another encoding, and too much."""
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{name}: expected at most {MOST_BYTES} bytes of text: split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is no UTF-8: save it in UTF-8") from error
    if "\0" in text:
        raise UserError(f"{name} is no text in UTF-8, since it holds a NUL: save it in UTF-8")
    return text


def plain(text: str) -> str:
    """The text with white space as one blank."""
    return " ".join(text.split())


def lines_of(text: str) -> list[str]:
    """Its lines; a separator inside of a line, as U+2028, ends none."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def table_of(name: str, text: str, suffix: str) -> tuple[list[str], list[Any]]:
    """The columns and rows of a .csv or .jsonl, or of what a .json lists. Raises UserError.

    A row is an object; rows of JSON that are none are as they are, and texts have no columns.
    """
    try:
        if suffix == ".csv":
            reader = csv.DictReader(io.StringIO(text), strict=True)
            return list(reader.fieldnames or []), list(reader)
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in lines_of(text) if line.strip()]
        else:
            rows = _list_in(name, document(text.encode(), name, MOST_BYTES))
        return list(rows[0]) if rows and isinstance(rows[0], dict) else [], rows
    except UserError:
        raise
    except (csv.Error, ValueError, RecursionError, FewstepError) as error:
        raise UserError(f"{name} cannot be read as {suffix[1:]}: {error}") from error


def _list_in(name: str, value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = next((value[key] for key in LISTS if key in value), value)
    if not isinstance(value, list):
        raise UserError(f"{name}: expected a list of texts, or one under {' or '.join(LISTS)}")
    return value


def column_of(name: str, columns: Sequence[str]) -> str:
    """The column of texts. Raises UserError where there is none, or several."""
    own = [column for column in columns if column in COLUMNS]
    if len(own) > 1:
        raise UserError(f"{name} holds {' and '.join(own)}, which mean the same: keep one")
    if not own:
        there = ", ".join(columns[:12]) or "none"
        need = f"one named {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
        raise UserError(f"{name} has the columns {there}: expected {need}")
    return own[0]
