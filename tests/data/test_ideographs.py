"""Characters are drawn in their em-box by every font; no face of a held-out one is in training."""

from __future__ import annotations

import bz2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data import ideographs
from fewstep.data.system_files import system_file

COUNT = 60
TABLE = "".join(
    f"U+{0x4E00 + i:04X}\tkRSUnicode\t{i % 214 + 1}{chr(39) * (i % 3)}.{i % 20} 7.1\n"
    f"U+{0x4E00 + i:04X}\tkTotalStrokes\t{i + 1}\n"
    for i in range(214)
)


def make_font(path, height, *, skipped=(), copies=()):
    """A font whose i-th character is a bar of its own width, and of this height in em / 1000."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def bar(width, top):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for point in ((0, top), (width, top), (width, 0)):
            pen.lineTo(point)
        pen.closePath()
        return pen.glyph()

    numbers = [i for i in range(COUNT) if i not in skipped]
    glyphs = {f"g{i}": bar(100 + 14 * (i - (i in copies)), height) for i in numbers}
    glyphs = {".notdef": bar(1000, 100), **glyphs}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({0x4E00 + i: f"g{i}" for i in numbers})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": "Bars", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """Two small fonts and a table, in place of the system's."""
    files = [make_font(tmp_path / f"{h}.ttf", h) for h in (880, 440)]
    table = tmp_path / "Unihan_IRGSources.txt.bz2"
    table.write_bytes(bz2.compress(TABLE.encode()))
    monkeypatch.setenv("FEWSTEP_HANZI", ":".join(map(str, files)))
    monkeypatch.setenv("FEWSTEP_UNIHAN", str(table))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return files


def test_a_character_fills_its_place_of_the_em_box(fonts):
    drawings = ideographs.load_drawings()
    assert drawings.pictures.shape == (COUNT, 2, 32, 32)
    ink = (15 - drawings.pictures.astype(float)) / 15
    for i in range(COUNT):
        for face, height in enumerate((0.88, 0.44)):
            width = 0.1 + 0.014 * i
            assert ink[i, face].mean() == pytest.approx(width * height, abs=0.012)
            rows = ink[i, face].max(1)
            middle = (rows * (np.arange(32) + 0.5)).sum() / rows.sum()
            assert middle == pytest.approx(32 * (0.88 - height / 2), abs=0.3)


def test_labels_are_first_radicals_and_have_their_characters_names(fonts):
    drawings = ideographs.load_drawings()
    assert drawings.radicals.tolist() == list(range(COUNT))
    assert drawings.points.tolist() == list(range(0x4E00, 0x4E00 + COUNT))
    names = data.load("hanzi").names
    assert len(names.classes) == 214
    assert [names.classes[n - 1] for n in (1, 9, 85, 149, 214)] == list("一人水言龠")
    assert names.label_number("水") == 84
    # Those that no training row has are not drawn.
    assert names.occurring == tuple(data.load("hanzi").train.cond.unique().tolist())


def test_the_splits_share_no_character_and_a_held_out_one_is_there_once(fonts):
    small, large = data.load("hanzi16"), data.load("hanzi")
    held_out = COUNT // 10
    for each in (small, large):
        parts = (each.train, each.validation, each.test)
        # Here a radical is a character.
        seen = [set(part.cond.tolist()) for part in parts]
        assert [len(part.x0) for part in parts] == [2 * (COUNT - 2 * held_out), held_out, held_out]
        assert sum(map(len, seen)) == len(set().union(*seen)) == COUNT
        assert each.classes == 214
    assert torch.equal(small.train.cond, large.train.cond)
    assert torch.equal(small.test.cond, large.test.cond)
    # Both faces are held out: by their heights.
    assert {tall > -1 + 0.3 for tall in (-large.test.x0).amax((2,))[:, 0, 0].tolist()} == {True}
    heights = (large.test.x0[:, 0, :, 0] < 0).sum(1)
    assert set(heights.tolist()) == {14, 28}


def test_the_small_pictures_are_means_of_the_large_ones(fonts):
    small, large = data.load("hanzi16"), data.load("hanzi")
    assert (small.shape, large.shape) == ((1, 16, 16), (1, 32, 32))
    means = torch.nn.functional.avg_pool2d(large.train.x0, 2)
    torch.testing.assert_close(means, small.train.x0)
    assert (large.train.x0.min(), large.train.x0.max()) == (-1, 1)
    greys = large.units.to_user(large.train.x0) / 17
    assert torch.equal(greys.round().unique(), torch.arange(16.0))
    torch.testing.assert_close(greys, greys.round())


def test_only_characters_that_all_fonts_draw_count_and_each_picture_once(tmp_path):
    one = make_font(tmp_path / "1.ttf", 880, skipped=(3, 4))
    two = make_font(tmp_path / "2.ttf", 440, skipped=(7,), copies=(20,))
    radicals = {0x4E00 + i: 5 for i in range(COUNT + 10) if i != 30}
    drawings = ideographs.draw([one, two], radicals)
    numbers = (drawings.points.astype(int) - 0x4E00).tolist()
    assert numbers == [i for i in range(COUNT) if i not in (3, 4, 7, 20, 30)]


def test_a_second_load_draws_nothing_and_a_damaged_cache_is_drawn_anew(fonts, monkeypatch):
    first = ideographs.load_drawings()
    (file,) = (fonts[0].parent / "cache" / "fewstep").iterdir()
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(ideographs, "draw", None)
        again = ideographs.load_drawings()
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for damage in (b"", whole[: len(whole) // 2], whole[:200] + b"\0" * 50 + whole[250:]):
        file.write_bytes(damage)
        np.testing.assert_array_equal(ideographs.load_drawings().pictures, first.pictures)
        assert file.read_bytes() == whole
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_other_fonts_have_a_cache_of_their_own(fonts, monkeypatch):
    two = ideographs.load_drawings()
    monkeypatch.setenv("FEWSTEP_HANZI", str(fonts[1]))
    one = ideographs.load_drawings()
    np.testing.assert_array_equal(one.pictures[:, 0], two.pictures[:, 1])


def test_a_file_of_drawings_stands_for_the_fonts(fonts, tmp_path, monkeypatch):
    expected = data.load("hanzi").fingerprint()
    file = tmp_path / "a.drawings"
    ideographs.write_drawings(ideographs.load_drawings(), file)
    monkeypatch.setenv("FEWSTEP_HANZI", str(file))
    monkeypatch.delenv("FEWSTEP_UNIHAN")
    assert data.load("hanzi").fingerprint() == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_drawings_come_back_as_they_were_written(tmp_path_factory, count, faces, seed):
    source = np.random.default_rng(seed)
    drawings = ideographs.Drawings(
        source.integers(0, 16, (count, faces, 32, 32), np.uint8),
        source.integers(0x4E00, 0xA000, count, np.uint16),
        source.integers(0, 214, count, np.uint8),
    )
    file = tmp_path_factory.mktemp("drawings") / "x.drawings"
    ideographs.write_drawings(drawings, file)
    for a, b in zip(drawings, ideographs.read_drawings(file), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_missing_names_its_package(fonts, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.delenv("FEWSTEP_UNIHAN")
    with pytest.raises(UserError, match="apt-get install unicode-data"):
        data.load("hanzi")
    monkeypatch.delenv("FEWSTEP_HANZI")
    with pytest.raises(UserError, match="apt-get install fonts-noto-cjk"):
        data.load("hanzi")


def test_a_collection_gives_its_face_for_simplified_chinese(tmp_path):
    file = system_file("fonts", "NotoSansCJK-Bold.ttc")
    if file is None:
        pytest.skip("fonts-noto-cjk is not installed")
    assert ideographs.face(file).getname() == ("Noto Sans CJK SC", "Bold")
    assert ideographs.face(make_font(tmp_path / "a.ttf", 880)).getname()[0] == "Bars"


BAD = {
    "no such font": ("FEWSTEP_HANZI", "none.ttf", None, r"cannot read .*none\.ttf: No such file"),
    "no font": ("FEWSTEP_HANZI", "a.ttf", b"text", r"a\.ttf: unknown file format: expected a font"),
    "no drawings": (
        "FEWSTEP_HANZI",
        "a.drawings",
        b"text",
        "FEWSTEP_HANZI: .*expected font files, or",
    ),
    "no radicals": ("FEWSTEP_UNIHAN", "a.txt", b"U+4E00\tkRSUnicode\t0.1\n", "has no radicals"),
    "no text": ("FEWSTEP_UNIHAN", "a.txt.bz2", b"text", "Invalid data stream: expected Unihan"),
    "few": ("FEWSTEP_UNIHAN", "a.txt", b"U+4E00\tkRSUnicode\t1.0\n", r"1 characters of U\+4E00"),
}


@pytest.mark.parametrize(("variable", "name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_font_and_no_table_is_told_in_one_line(
    fonts, tmp_path, monkeypatch, variable, name, content, message
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / name))
    with pytest.raises(UserError, match=message) as error:
        data.load("hanzi")
    assert "\n" not in str(error.value)
