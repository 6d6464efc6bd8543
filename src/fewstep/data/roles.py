"""Columns of tables: which are samples, labels and conditions, and what is left out.

| a column | is |
|---|---|
| that the user names | what he names it for |
| pandas' index, or a first column without a name that numbers the rows | left out |
| x0, x, images, image, img, data or samples, that holds arrays or pictures | the samples |
| other columns of numbers or of few texts, where there is no such column | samples, side by side |
| label, labels or y | labels: of text, or beside numbers few whole ones from 0 that all occur |
| cond, features, mask | conditions of that name |
| any other | left out, with the reason |
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base.errors import UserError, require
from fewstep.data import images, picture_sets
from fewstep.data.archives import readable
from fewstep.data.columns import Column, Names
from fewstep.data.frames import Frame, Kind, are_numbers, check_text
from fewstep.data.images import Listing
from fewstep.data.large_tables import Pictures
from fewstep.data.numbering import FEW, as_numbers, labels_of, words_of
from fewstep.data.reading import Content, Reading
from fewstep.data.records import VERSION
from fewstep.data.streams import Place, Stream
from fewstep.data.tables import ROLES, SAMPLES, condition, native

log = logging.getLogger("fewstep")

FEW_TEXTS = 100  # different texts of a column of samples that nobody named
ROWS = 10  # rows of each of these on average


def from_frame(frame: Frame, reading: Reading, place: Place | None = None) -> Content:
    """Samples and condition of a table. Raises UserError for columns that cannot be what is said.

    With a file of conditions the columns of labels and conditions are that file's.
    """
    if reading.cond is not None:
        reading = replace(reading, label_column=None, condition_columns=())
    own = reading.condition_columns
    if reading.label_column is not None:
        own += (reading.label_column,)
    before = tuple(c.name for c in reading.origin_columns if c.name not in own)
    if not reading.columns and set(before) <= set(frame.columns):
        reading = replace(reading, columns=before)
    own += reading.columns
    for name in own:
        frame.column(name)
        need = "each column for one thing"
        require(own.count(name) == 1, f"{frame.name}: column", name, need)
    free = [name for name in frame.columns if name not in (*own, *frame.index)]
    with readable(frame.name):
        return _Roles(frame, reading, free, place).content()


@dataclass(frozen=True)
class _Roles:
    """What the columns of a table are for. free: those that nobody named and that are no index."""

    frame: Frame
    reading: Reading
    free: list[str]
    place: Place | None  # where rows of a large table are kept
    reasons: dict[str, str] = field(default_factory=dict)  # why a column is left out

    def content(self) -> Content:
        frame, reading = self.frame, self.reading
        others = self._others()
        label = reading.label_column or next((n for n in ROLES["label"] if n in self.free), None)
        samples = self._samples([n for n in self.free if n not in (label, *others)])
        are_columns = len(frame.of_kind(samples, "numbers", "text")) == len(samples)
        if label is not None and reading.label_column is None and are_columns:
            label = self._plain_label(label, None if reading.columns else samples)
        cond: dict[str, Any] = {role: frame.values(n) for role, n in others.items()}
        columns: tuple[Column, ...] = ()
        names = Names()
        if reading.condition_columns:
            cond["features"], columns = as_numbers(
                frame, reading.condition_columns, reading.origin_features
            )
        if label is not None:
            cond["label"], classes = labels_of(frame, label)
            names = Names(classes=classes, label=label)
        in_order = samples if reading.columns else [n for n in frame.columns if n in samples]
        x0, kinds = self._stack(in_order)
        result, _ = condition(frame.name, cond)
        in_use = {*samples, *others.values(), *reading.condition_columns, label}
        for name in [] if reading.columns else frame.of_kind(set(frame.columns) - in_use, "text"):
            check_text(name, frame.columns[name], "choose --columns without it")
        left = tuple(self._why(name, samples) for name in frame.columns if name not in in_use)
        names = replace(names, columns=kinds, features=columns)
        return Content({"x0": x0, "cond": result}, names, left)

    def _others(self) -> dict[str, str]:
        """The columns that are conditions by their names."""
        own = () if self.reading.condition_columns else ("cond", "features")
        roles = {role: role for role in own if self._holds(role, "numbers", "arrays")}
        is_flag = self._holds("mask", "numbers")
        is_flag = is_flag and self.frame.columns["mask"].values().dtype.kind == "b"
        if is_flag or self._holds("mask", "arrays"):
            roles["mask"] = "mask"
        return roles

    def _holds(self, name: str, *kinds: Kind) -> bool:
        """Whether nobody named that column, and it is of one of these kinds."""
        return name in self.free and self.frame.columns[name].kind in kinds

    def _samples(self, rest: list[str]) -> list[str]:
        """The names of the columns that are samples."""
        frame = self.frame
        if self.reading.columns:
            samples = list(self.reading.columns)
            for name in frame.of_kind(samples, "other"):
                raise UserError(
                    f"{frame.name}: column {name} holds {frame.columns[name].about}: expected"
                    " numbers: give them as numbers"
                )
            return samples
        whole = [n for n in SAMPLES if n in frame.of_kind(rest, "arrays", "pictures")]
        if whole:
            return whole[:1]
        numbers = frame.of_kind(rest, "numbers")
        arrays = frame.of_kind(rest, "arrays", "pictures")
        if not numbers and len(arrays) == 1:
            return arrays
        if self.reading.origin_units is None:  # an older run has no texts among its samples
            numbers += [name for name in frame.of_kind(rest, "text") if are_few(frame, name)]
        if numbers:
            return numbers
        for name in frame.of_kind(rest, "text"):
            check_text(name, frame.columns[name], "choose --columns without it")
        raise UserError(
            f"{frame.name} has the columns {', '.join(frame.columns) or 'none'}: expected samples"
            f" in columns of numbers, or in {' or '.join(SAMPLES)}: --columns NAME takes others"
        )

    def _plain_label(self, label: str, samples: list[str] | None) -> str | None:
        """The label column beside numbers, where it looks like labels.

        Else a number joins the samples, unless these were named: None.
        """
        frame = self.frame
        if are_labels(frame, label):
            if label == "y" and frame.columns[label].kind == "numbers":
                message = (
                    "fewstep: %s: column y is taken for labels: --columns takes it for numbers"
                )
                log.warning(message, frame.name)
            return label
        if frame.columns[label].kind == "numbers" and samples is not None:
            message = (
                "fewstep: %s: column %s is taken for numbers, as are %s: --label-column %s takes it"
                " for labels"
            )
            log.warning(message, frame.name, label, ", ".join(samples[:6]), label)
            samples.append(label)
            return None
        self.reasons[label] = f"no few labels; --label-column {label} takes it for labels"
        return None

    def _stack(self, names: list[str]) -> tuple[Any, tuple[Column, ...]]:
        """The samples in these columns, and what these are where they are numbers or text."""
        frame = self.frame
        if len(names) == 1 and frame.columns[names[0]].kind == "pictures":
            if frame.parts is not None:
                return self._pictures(names[0]), ()
            return pictures(names[0], frame.columns[names[0]].values(), self.reading.size), ()
        need = f"none: only pictures are resized, and {frame.name} holds numbers"
        require(self.reading.size is None, "data_size", self.reading.size, need)
        if len(names) == 1 and frame.columns[names[0]].kind == "arrays":
            values = frame.values(names[0])
            return (values if isinstance(values, Stream) else native(values)), ()
        wrong = frame.of_kind(names, "arrays", "pictures")
        if wrong:
            raise UserError(
                f"{frame.name}: column {wrong[0]} holds {frame.columns[wrong[0]].kind}: expected"
                " it alone, or columns of numbers"
            )
        way = "leave it out of --columns" if self.reading.columns else "choose --columns without it"
        return as_numbers(frame, names, self.reading.origin_columns, way)

    def _pictures(self, name: str) -> Any:
        """The pictures of a column of a large table, decoded once."""
        assert self.place is not None
        files, place = Pictures(self.frame, name), self.place
        folder = Listing(Path(self.frame.name), files, files.names, [])
        size, mark = self.reading.size, place.mark

        def header() -> dict[str, Any]:
            return {"version": VERSION, "size": size, "column": name, "source": mark}

        where = place.folder.with_name(f"{place.folder.name}-pictures")
        args = (folder, self.reading, 0)
        rows = picture_sets.keep_at(where, header, lambda first, last: mark, *args).rows
        place.check()
        return rows

    def _why(self, name: str, samples: list[str]) -> str:
        """Why a column is left out, in a line."""
        cells = self.frame.columns[name]
        if name in self.reasons:
            why = self.reasons[name]
        elif name in self.frame.index:
            why = "pandas' index" + ("; --columns takes it" if name else "")
        elif cells.kind == "text":
            what = "numbers written as text" if are_numbers(cells) else "text"
            why = f"{what}; --columns {name} or --condition-columns {name} takes it as categories"
        elif cells.kind == "other":
            why = cells.about
            why += "" if why == "no values" else "; give them as numbers"
        elif self.reading.columns:
            why = "not among --columns"
        else:
            why = f"{cells.kind} beside {', '.join(samples[:3])}; --columns {name} takes it"
        return f"column {name or '(without a name)'}: {why}"


def are_few(frame: Frame, name: str) -> bool:
    """Whether a column of text holds categories, and no free text or names of the rows."""
    different, rows = set[str](), 0
    for row in frame.columns[name].rows():
        if row:
            rows += 1
            different.add(row)
            if len(different) > FEW_TEXTS:
                return False
    return 0 < len(different) <= rows / ROWS


def are_labels(frame: Frame, name: str) -> bool:
    """Whether a column looks like labels: few texts, or few whole numbers from 0 that all occur."""
    cells = frame.column(name)
    if cells.kind not in ("numbers", "text"):
        return False
    if frame.parts is not None and cells.kind == "text":
        return bool(words_of(cells, FEW))
    values = np.unique(cells.values())
    if not 0 < len(values) <= FEW:
        return False
    return cells.kind == "text" or bool((values == np.arange(len(values))).all())


def pictures(name: str, rows: list[Any], size: int | None) -> np.ndarray:
    """Pictures, also in files' bytes as {"bytes"}, as an array `[N, C, H, W]`."""

    def files() -> Iterable[tuple[str, Any]]:
        for number, row in enumerate(rows):
            place = f"{name} of row {number}"
            is_file = isinstance(row, Mapping)
            yield place, images.decode(place, io.BytesIO(row["bytes"])) if is_file else row

    return images.stack(files(), size)
