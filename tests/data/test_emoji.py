"""Glyphs are drawn whole, centred and on white; the set needs a font and says which."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data import emoji

FONT = ImageFont.load_default(100)  # a small grey font that Pillow brings


@pytest.fixture(scope="module")
def sets():
    try:
        emoji.font_file()
    except UserError as error:
        pytest.skip(str(error))
    return data.load("glyphs"), data.load("glyphs64")


@pytest.mark.parametrize("text", ["A", "i", "-", "W"])
def test_a_tile_holds_its_glyph_whole_and_centred_on_white(text):
    tile = np.asarray(emoji.tile_of(FONT, text).convert("L")).astype(int)
    rows, columns = np.nonzero(tile < 255)
    height, width = tile.shape
    assert height == width
    assert abs(rows.min() - (height - 1 - rows.max())) <= 1
    assert abs(columns.min() - (width - 1 - columns.max())) <= 1
    assert min(rows.min(), columns.min()) == pytest.approx(width / 18, abs=1.5)
    ink = FONT.getmask(text)
    assert (255 - tile).sum() == pytest.approx(np.asarray(ink, dtype=float).sum(), rel=0.02)


def test_nothing_is_drawn_for_spaces():
    assert emoji.tile_of(FONT, " ") is None


def test_shrinking_keeps_the_mean():
    tile = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    for side in (32, 64):
        small = np.asarray(emoji.shrink(tile, side)).astype(float)
        assert small.shape == (side, side, 3)
        assert small.mean() == pytest.approx(np.asarray(tile).mean(), abs=0.5)


def test_the_ranges_are_disjoint():
    ranges = sorted([*emoji.BLOCKS.values(), *emoji.OTHERS])
    for (first, last), (following, _) in pairwise(ranges):
        assert first <= last < following


def test_a_missing_font_names_its_package(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("FEWSTEP_GLYPHS", raising=False)
    with pytest.raises(UserError, match="apt-get install fonts-noto-color-emoji"):
        data.load("glyphs")
    monkeypatch.setenv("FEWSTEP_GLYPHS", str(tmp_path / "none.ttf"))
    with pytest.raises(UserError, match=r"none\.ttf: cannot open resource: expected a colour font"):
        data.load("glyphs")


def test_the_splits_are_fixed_disjoint_and_labelled(sets):
    small, large = sets
    parts = (small.train, small.validation, small.test)
    contents = [{x.numpy().tobytes() for x in part.x0} for part in parts]
    assert sum(map(len, contents)) == len(set().union(*contents)) >= 1300
    assert small.classes == large.classes == len(emoji.BLOCKS) + 1
    assert torch.equal(small.train.cond, large.train.cond)
    assert bool((torch.bincount(small.train.cond, minlength=small.classes) >= 20).all())
    assert data.load("glyphs").fingerprint() == small.fingerprint()


def test_the_glyphs_are_in_colour_and_both_sizes_show_the_same(sets):
    small, large = sets
    assert (small.shape, large.shape) == ((3, 32, 32), (3, 64, 64))
    saturation = (small.train.x0.amax(1) - small.train.x0.amin(1)).flatten(1).amax(1)
    assert (saturation > 0.5).double().mean() > 0.8
    means = torch.nn.functional.avg_pool2d(large.train.x0, 2)
    assert (means - small.train.x0).abs().mean() < 0.02
    assert (small.train.x0[:, :, 0, 0] == 1).double().mean() > 0.9  # white corners
