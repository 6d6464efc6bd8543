"""Files of a zip: the bytes and refusals of `zipfile`, read without it where they lie plainly."""

from __future__ import annotations

import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.data.archives import open_files

NAMES = st.text("aZ0_é中", min_size=1, max_size=9)
FILES = st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("zips") / "x.zip"


def write(path, files, packing, start=b""):
    path.write_bytes(start)  # as of archives that unpack themselves
    with zipfile.ZipFile(path, "a", packing) as target:
        for name, content in files.items():
            target.writestr(name, content)


@settings(max_examples=60, deadline=None)
@given(FILES, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.binary(max_size=9))
def test_files_are_those_that_were_written(path, files, packing, start):
    write(path, files, packing, start)
    with open_files(path) as entries:
        assert {name: entries[name]().read() for name in entries} == files


def test_a_stored_file_is_read_without_zipfile(path, monkeypatch):
    write(path, {"a": b"some", "é": b"other"}, zipfile.ZIP_STORED)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("slowly"))
    with open_files(path) as entries:
        assert [entries[name]().read() for name in entries] == [b"some", b"other"]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_changed_bit_is_met_as_by_zipfile(path, place, bit):
    """In the header of a file, its name or its bytes."""
    write(path, {"name": bytes(range(40))}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    place %= content.index(b"PK\1\2")  # where the list of files begins
    content[place] ^= 1 << bit
    path.write_bytes(content)

    def outcome(read):
        try:
            return read()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
            return "refused"  # which error it is depends on the version of Python

    with zipfile.ZipFile(path) as source:
        expected = outcome(lambda: source.read("name"))
    with open_files(path) as entries:
        assert outcome(lambda: entries["name"]().read()) == expected
