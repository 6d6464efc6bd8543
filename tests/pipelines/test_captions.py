"""Prompts of files, and captions of pictures, in every form; mistakes are one line."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.base.errors import UserError
from fewstep.data.archives import open_files
from fewstep.data.images import names_of
from fewstep.pipelines.captions import captions_of
from fewstep.pipelines.prompts import read_prompts

TEXTS = ["a cat, black", 'the "grey" dog', "größer"]
ROWS = [{"id": i, "caption": text} for i, text in enumerate([*TEXTS, TEXTS[0]])]


def table(rows):
    """Rows as a .csv."""
    lines = [",".join(rows[0])]
    for row in rows:
        cells = (str(cell).replace('"', '""') for cell in row.values())
        lines.append(",".join(f'"{cell}"' for cell in cells))
    return "\n".join(lines)


FILES = {
    "x.txt": "\ufeffa cat,   black\r\n\n" + "\n".join([*TEXTS[1:], TEXTS[0]]),
    "x.csv": table(ROWS),
    "x.json": json.dumps([row["caption"] for row in ROWS]),
    "objects.json": json.dumps(ROWS),
    "coco.json": json.dumps({"info": {}, "annotations": ROWS}),
    "x.jsonl": "\n".join(map(json.dumps, ROWS)),
    "texts.jsonl": "\n".join(json.dumps(row["caption"]) for row in ROWS),
}


@pytest.mark.parametrize("name", FILES)
def test_prompts_of_each_kind_of_file(tmp_path, name):
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    assert read_prompts(tmp_path / name) == TEXTS


def test_prompts_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"id": [0, 1, 2], "text": TEXTS}), path)
    assert read_prompts(path) == TEXTS
    parquet.write_table(pyarrow.table({"id": [0, 1], "text": ["a", None]}), path)
    with pytest.raises(UserError, match=r"x\.parquet: row 1 is None: expected a text"):
        read_prompts(path)
    parquet.write_table(pyarrow.table({"id": [0], "url": ["a"]}), path)
    with pytest.raises(UserError, match=r"the columns id, url: expected one named prompt"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b" \n\n", "the file holds none"),
        ("x.txt", "größer".encode("latin1"), "byte 2 is no UTF-8"),
        ("x.txt", "ab".encode("utf-16"), "byte 0 is no UTF-8"),
        ("x.txt", b"a\0b", "holds a NUL"),
        ("x.csv", b"", "the columns none: expected one named prompt, caption or text"),
        ("x.csv", b"id,url\n1,2\n", "the columns id, url: expected one named prompt"),
        ("x.csv", b"text,prompt\na,b\n", "text and prompt, which mean the same"),
        ("x.csv", b"id,text\n1,a\n2\n", "row 1 is None: expected a text"),
        ("x.csv", b"text\n", "the file holds none"),
        ("x.csv", b'text\n"a\n', "cannot be read as csv"),
        ("x.json", b"{", "cannot be read as json"),
        ("x.json", b'{"a": 1}', "expected a list of texts, or one under prompts or captions"),
        ("x.json", b"[1, 2]", "the columns none"),
        ("x.json", b'["a", 2]', "the columns none"),
        ("x.json", b'[{"text": "a"}, {"tex": "a"}]', "row 1 is None"),
        ("x.json", b'[{"text": "a"}, {"text": " "}]', "row 1 is ' ': expected a text"),
        ("x.json", b"[]", "the file holds none"),
        ("x.jsonl", b'"a"\n{', "cannot be read as jsonl"),
        ("x.docx", b"a", r"expected a file that ends in \.txt, \.csv"),
    ],
)
def test_a_mistake_in_prompts_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*x\.txt: No such file"):
        read_prompts(tmp_path / "x.txt")


# Captions


def png(seed=0, size=(6, 5)):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


NAMES = ["a/0.png", "a/1.png", "b.png"]
PAIRS = list(zip(NAMES, TEXTS, strict=True))
FORMS = {
    "metadata.jsonl": {
        "metadata.jsonl": "\n".join(
            json.dumps({"file_name": name, "text": text}) for name, text in PAIRS
        )
    },
    "metadata.csv in each folder": {
        "a/metadata.csv": table(
            [{"file_name": f"./{name[2:]}", "prompt": text} for name, text in PAIRS[:2]]
        ),
        "metadata.csv": table([{"file_name": "b.png", "caption": TEXTS[2]}]),
    },
    "dataset.json": {"dataset.json": json.dumps({"captions": PAIRS})},
    "texts": {f"{name[:-4]}.txt": f" {text}\n" for name, text in PAIRS},
}


def write(path, files):
    """The files in a folder, or in a zip."""
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "a") as target:
                target.writestr(name, data)
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def captions(path: Path):
    with open_files(path) as files:
        return captions_of(path, files, names_of(path, files))


PICTURES = {name: png(seed) for seed, name in enumerate(NAMES)}


@pytest.mark.parametrize("where", ["folder", "x.zip"])
@pytest.mark.parametrize("form", FORMS)
def test_captions_in_each_form(tmp_path, form, where):
    path = write(tmp_path / where, PICTURES | FORMS[form])
    assert captions(path) == TEXTS


def test_the_first_form_has_all_captions(tmp_path):
    others = {f"{name[:-4]}.txt": "another" for name in NAMES}
    path = write(tmp_path / "x", PICTURES | others | FORMS["dataset.json"])
    assert captions(path) == TEXTS
    write(path, {"metadata.csv": table([{"file_name": "b.png", "caption": "mine"}])})
    with pytest.raises(
        UserError, match=r"2 of 3 pictures have no caption in metadata.csv, the fir"
    ):
        captions(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "3 of 3 pictures have no caption in metadata.jsonl.*, the first is a/0.png"),
        ({"a/0.txt": "a", "b.txt": " "}, "2 of 3 pictures .* the first is a/1.png"),
        ({"a/0.txt": b"\xff"}, r"a/0\.txt: byte 0 is no UTF-8"),
        ({"metadata.csv": "name,text\nb.png,a\n"}, "the columns name, text: expected file_name"),
        ({"metadata.csv": "file_name,url\nb.png,a\n"}, "expected one named prompt"),
        ({"metadata.csv": "file_name,text\nb.png\n"}, "3 of 3 pictures have no caption"),
        ({"metadata.csv": "file_name,text\nb.png,a\nb.png,b\n"}, "b.png has two captions"),
        ({"metadata.jsonl": '{"file_name": 1, "text": "a"}'}, r"row 0 is \[1, 'a'\]: expected tex"),
        ({"metadata.jsonl": "[]"}, "the columns none: expected file_name"),
        ({"dataset.json": '{"labels": [["b.png", 1]]}'}, 'expected {"captions": '),
        ({"dataset.json": '{"captions": [["b.png", 1]]}'}, "row 0 is .*: expected {"),
        ({"dataset.json": "{"}, 'cannot be read.*: expected {"captions": '),
    ],
)
def test_a_mistake_in_captions_is_one_line(tmp_path, files, message):
    with pytest.raises(UserError, match=message) as caught:
        captions(write(tmp_path / "x", PICTURES | files))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
