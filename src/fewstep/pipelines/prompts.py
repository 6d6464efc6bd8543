"""Prompts: files of them, and the table of their embeddings, in which a prompt is a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import UserError, short_repr
from fewstep.data.archives import readable
from fewstep.data.table_files import need_pyarrow
from fewstep.pipelines.texts import column_of, lines_of, plain, table_of, text_of

SUFFIXES = (".txt", ".csv", ".parquet", ".json", ".jsonl")


@dataclass(frozen=True, eq=False)
class Prompts:
    """A table of embeddings: row i is prompt i's.

    parts: tensors `[N, ...]` by their names, which may be mapped from a file. null: those of no
    prompt, `[...]`. texts: the N prompts.
    """

    parts: Mapping[str, Tensor]
    null: Mapping[str, Tensor]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)

    def __deepcopy__(self, memo: object) -> Prompts:
        """Itself: copies of a network share the table, which nothing changes."""
        return self

    def rows(self, label: Tensor) -> dict[str, Tensor]:
        """The embeddings of the labels `[B]`, on their device; -1 has those of no prompt."""
        result = {}
        for name, table in self.parts.items():
            place = label.to(table.device)
            rows, null = table[place.clamp(min=0)], self.null[name]
            is_none = (place < 0).reshape(-1, *[1] * null.ndim)
            result[name] = torch.where(is_none, null, rows).to(label.device)
        return result


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file in their order, each once, white space as one blank.

    | file | prompts |
    |---|---|
    | .txt | its lines that are not blank, UTF-8 |
    | .csv, .parquet | the column prompt, caption or text |
    | .jsonl | likewise of the object in each line, or a text in each |
    | .json | a list of texts or of such objects; or under "prompts", "captions" or "annotations" |

    Raises UserError for what is none of these, and where there is no prompt.
    """
    path = Path(path)
    suffix = suffix_of(path)
    with readable(str(path)):
        if suffix == ".txt":
            with path.open("rb") as file:
                texts: Sequence[Any] = [x for x in lines_of(text_of(str(path), file)) if x.strip()]
        else:
            texts = _parquet(path) if suffix == ".parquet" else _table(path, suffix)
    if not texts:
        raise UserError(f"prompts {path}: the file holds none")
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"prompts {path}: row {row} is {short_repr(text)}: expected a text")
    return list(dict.fromkeys(map(plain, texts)))


def suffix_of(path: Path) -> str:
    """The kind of a file of prompts. Raises UserError for any other."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"prompts {path}: expected a file that ends in {', '.join(SUFFIXES)}")
    return suffix


def _table(path: Path, suffix: str) -> list[Any]:
    with path.open("rb") as file:
        columns, rows = table_of(str(path), text_of(str(path), file), suffix)
    if not columns and all(isinstance(row, str) for row in rows) and suffix != ".csv":
        return rows
    column = column_of(str(path), columns)
    return [row.get(column) if isinstance(row, dict) else row for row in rows]


def _parquet(path: Path) -> list[Any]:
    need_pyarrow()
    from pyarrow import parquet

    column = column_of(str(path), parquet.read_schema(path).names)
    values: list[Any] = parquet.read_table(path, columns=[column])[column].to_pylist()
    return values
