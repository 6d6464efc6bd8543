"""Pictures of samples: each kind of data has its panels, names, scale and rows of data beside."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from fewstep.base.randomness import generator
from fewstep.data import Arrays, Column, Names, Units
from fewstep.data.pictures import HINT, Look, Rows, draw, figure, rows_of_data
from fewstep.data.units import BYTES


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "pictures"))


def both(x: Tensor, data: Tensor, cond=None, data_cond=None) -> list[Rows]:
    return [Rows("samples", x, cond), Rows("data", data, data_cond, is_data=True)]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


def of(axis: int, count: int) -> Units:
    return Units((0.0,) * count, (1.0,) * count, axis=axis)


def lines(drawing: Figure) -> list[list[np.ndarray]]:
    """The heights of the lines of each panel."""
    return [[np.asarray(line.get_ydata(), float) for line in ax.get_lines()] for ax in drawing.axes]


KINDS = {
    "tiles": [
        Look((1, 8, 8), BYTES),
        Look((3, 8, 8), Units(clip=True)),
        Look((1, 8, 8), of(0, 1), ends=(0.0, 0.99)),
        Look((3, 8, 8), of(0, 3), ends=(-1.0, 1.0)),
    ],
    "fields": [
        Look((1, 8, 8), of(0, 1), ends=(0.0, 30.0)),  # rain
        Look((1, 8, 8), Units(25.0, 25.0, clip=True), ends=(0.0, 50.0)),
        Look((3, 8, 8), of(0, 3), ends=(-0.2, 0.3)),
        Look((4, 8, 8), of(0, 4)),
        Look((16, 16)),
        Look((2, 3, 8, 8), of(0, 2)),
    ],
    "series": [
        Look((2, 48), of(0, 2)),
        Look((48, 2), of(1, 2), cond={"mask": ["bool", [48, 2]]}),
        Look((48,), of(0, 48)),
        Look((16, 16), of(0, 16)),
    ],
    "numbers": [
        Look((1,)),
        Look((5,), of(0, 5)),
        Look((40,), of(0, 40), Names(columns=tuple(Column(str(k)) for k in range(40)))),
        Look((2,), of(0, 2), Names(columns=(Column("a"), Column("b")))),
        Look((9, 5), of(1, 5), cond={"mask": ["bool", [9]]}),
    ],
    "plane": [Look((2,)), Look((2,), of(0, 2))],
    "sets": [
        Look((9, 2), of(1, 2), cond={"mask": ["bool", [9]]}),
        Look((9, 3), of(1, 3), cond={"mask": ["bool", [9, 1]]}),
        Look((64, 3), of(0, 64)),
    ],
}


@pytest.mark.parametrize(("kind", "look"), [(k, look) for k in KINDS for look in KINDS[k]])
def test_the_kind_of_data_decides_the_drawing(kind, look):
    assert look.kind == kind
    x = normal(3, *look.shape)
    drawing, about = figure(both(x, x + 1), look)
    assert drawing.axes
    assert "samples" in about or kind == "tiles"


def test_series_have_a_panel_for_each_channel_and_the_data_on_the_same_axes():
    names = Names(columns=(Column("temperature (K)"), Column("humidity")))
    scale = torch.tensor([10.0, 0.1])[:, None]
    x, data = 288 + scale * normal(20, 2, 30), 288 + 3 * scale * normal(12, 2, 30, seed=1)
    drawing, about = figure(both(x, data), Look((2, 30), of(0, 2), names))
    top, top_data, low, low_data = drawing.axes
    assert [top.get_ylabel(), low.get_ylabel()] == ["temperature (K)", "humidity"]
    assert [top.get_title("left"), top_data.get_title("left")] == ["samples", "data"]
    assert top.get_ylim() == top_data.get_ylim() != low.get_ylim() == low_data.get_ylim()
    assert about == "samples: 8 of 20; data: 8 of 12"
    for place, (part, channel) in enumerate([(x, 0), (data, 0), (x, 1), (data, 1)]):
        np.testing.assert_array_equal(lines(drawing)[place], part[:8, channel].double())
        low_end, high_end = part[:, channel].min(), part[:, channel].max()
        assert f"{low_end:.4g} .. {high_end:.4g}" in drawing.axes[place].get_title("right")
        bottom, high = drawing.axes[place].get_ylim()
        assert bottom < part[:8, channel].min() <= part[:8, channel].max() < high


def test_what_does_not_fit_is_said():
    drawing, about = figure([Rows("samples", normal(3, 9, 2500))], Look((9, 2500), of(0, 9)))
    assert len(drawing.axes) == 6
    assert "6 of 9 channels, without channel 6, channel 7, channel 8" in about
    assert "places 0 to 1999 of 2500" in about
    assert len(lines(drawing)[0][0]) == 2000


def test_samples_of_one_condition_are_bands_and_the_data_of_it_lie_on_them():
    x = normal(200, 1, 16)
    cond = torch.tensor([0.3, 0.7]).expand(200, 2)
    arrays = Arrays(normal(50, 1, 16, seed=1), torch.rand(50, 2, generator=generator(0, "c")))
    samples = Rows("samples", x, cond)
    look = Look((1, 16), of(0, 1), cond=["float32", [2]])
    assert rows_of_data([arrays], look.units, 50, samples) is None  # none has this condition
    arrays.cond[7] = cond[0]
    data = rows_of_data([arrays], look.units, 50, samples)
    torch.testing.assert_close(data.x, arrays.x0[7:8])
    drawing, about = figure([samples, data], look)
    (ax,) = drawing.axes
    wide, narrow = (band.get_paths()[0].get_extents() for band in ax.collections)
    quantiles = np.quantile(x[:, 0].double(), (0.05, 0.25, 0.75, 0.95), axis=0)
    assert (wide.y0, wide.y1) == pytest.approx((quantiles[0].min(), quantiles[3].max()))
    assert (narrow.y0, narrow.y1) == pytest.approx((quantiles[1].min(), quantiles[2].max()))
    middle, *members, truth = lines(drawing)[0]
    np.testing.assert_allclose(middle, np.median(x[:, 0].double(), axis=0))
    np.testing.assert_array_equal(members, x[:3, 0].double())
    np.testing.assert_array_equal(truth, data.x[0, 0].double())
    assert "200 of one condition: median, 50 % and 90 %" in about


def test_data_beside_one_label_have_that_label():
    arrays = Arrays(normal(60, 3), torch.arange(60) % 3)
    for label in (2, -1):  # -1 asks for any
        samples = Rows("samples", normal(8, 3), torch.full((8,), label))
        data = rows_of_data([arrays, arrays], Units(), 30, samples)
        assert len(data.x) == 30
        assert data.total == (40 if label == 2 else 120)
        assert set(data.cond.tolist()) == ({2} if label == 2 else {0, 1, 2})


def test_where_conditions_differ_row_k_of_both_has_one_colour():
    cond = normal(8, 2)
    groups = both(normal(8, 1, 16), normal(8, 1, 16, seed=1), cond, cond)
    drawing, about = figure(groups, Look((1, 16), of(0, 1)))
    left, right = ([line.get_color() for line in ax.get_lines()] for ax in drawing.axes)
    assert left == right
    assert len(set(left)) == 4
    assert "same colour: same condition" in about
    groups[1] = replace(groups[1], cond=cond.flip(0))
    drawing, about = figure(groups, Look((1, 16), of(0, 1)))
    assert drawing.axes[0].get_lines()[0].get_color() != drawing.axes[1].get_lines()[0].get_color()
    assert "same" not in about


def test_fields_share_the_colours_of_their_channel_and_are_grey_where_a_mask_has_none():
    scale = torch.tensor([1.0, 100.0])[:, None, None]
    mask = torch.ones(6, 1, 8, 12, dtype=torch.bool)
    mask[:, :, 0] = False
    x, data = scale * normal(6, 2, 8, 12), 2 * scale * normal(6, 2, 8, 12, seed=1)
    look = Look((2, 8, 12), of(0, 2), cond={"mask": ["bool", [1, 8, 12]]})
    drawing, about = figure(both(x, data, {"mask": mask}, {"mask": mask}), look)
    panels = [ax for ax in drawing.axes if ax.images]
    assert [ax.get_ylabel() for ax in panels] == [
        f"channel {channel}\n{name}" for channel in (0, 1) for name in ("samples", "data")
    ]
    for place, (part, channel) in enumerate([(x, 0), (data, 0), (x, 1), (data, 1)]):
        assert len(panels[place].images) == 5
        for k, image in enumerate(panels[place].images):
            shown = np.ma.getdata(image.get_array())
            np.testing.assert_array_equal(shown[1:], part[k, channel, 1:].double())
            assert np.ma.getmaskarray(image.get_array())[0].all()
            drawn = torch.cat([x[:5, channel, 1:], data[:5, channel, 1:]])
            assert image.get_clim() == (drawn.min(), drawn.max())
    assert len(drawing.axes) == 6  # a colour bar for each channel
    assert about == "samples: 5 of 6; data: 5 of 6; grey: no value"


def test_tables_have_histograms_and_pairs_by_name_and_bars_of_whole_numbers_and_categories():
    columns = (Column("$a$"), Column("n", "int"), Column("soil", "category", ("clay", "sand")))
    look = Look((4,), of(0, 4), Names(columns=columns))
    n = 300
    clay = torch.arange(n) % 4 == 0

    def rows(seed: int) -> Tensor:
        whole = (torch.arange(n) % 3).float() + 0.2  # a network's guess
        return torch.stack([normal(n, seed=seed), whole, clay.float(), (~clay).float()], 1)

    drawing, about = figure(both(rows(0), rows(1)), look)
    assert about == "samples: all 300; data: all 300"
    a, pair, n_bars, _, _, soil = drawing.axes
    assert [ax.get_xlabel() for ax in drawing.axes[3:]] == ["$a$", "n", "soil"]
    assert pair.get_ylabel() == "n"
    counts = a.patches[0].get_data().values
    assert counts.sum() == pytest.approx(1.0)
    assert [bar.get_height() for bar in n_bars.patches] == pytest.approx([1 / 3] * 6)
    assert [bar.get_height() for bar in soil.patches] == pytest.approx([0.25, 0.75] * 2)
    assert [text.get_text() for text in soil.get_xticklabels()] == ["clay", "sand"]
    assert {text.get_text() for text in drawing.legends[0].texts} == {"samples", "data"}
    assert len({line.get_color() for line in pair.get_lines()}) == 2


def test_a_pair_has_the_column_below_it_across_and_the_one_beside_it_up():
    x, data = normal(30, 3), normal(40, 3, seed=1)
    drawing, _ = figure(both(x, data), Look((3,), of(0, 3)))
    for place, (up, across) in {1: (1, 0), 3: (2, 0), 4: (2, 1)}.items():
        dots = [np.stack(line.get_data(), 1) for line in drawing.axes[place].get_lines()]
        np.testing.assert_array_equal(dots[0], data[:, (across, up)].double())
        np.testing.assert_array_equal(dots[1], x[:, (across, up)].double())


def test_a_far_sample_does_not_hide_the_others_and_is_said():
    x = normal(500, 2)
    x[0] = torch.tensor([1e6, 0.0])
    drawing, about = figure(both(x, normal(500, 2, seed=1)), Look((2,)))
    left, right = drawing.axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_xlim()[1] < 10
    assert left.get_aspect() == right.get_aspect() == 1.0
    assert "1 of samples lie outside the axes" in about
    # The data are shown whole, however far they reach.
    drawing, about = figure(both(normal(500, 2, seed=1), x), Look((2,)))
    assert drawing.axes[0].get_xlim()[1] > 1e6
    assert "outside" not in about


def test_clouds_of_points_have_equally_many():
    drawing, about = figure(both(normal(900, 2), normal(300, 2)), Look((2,)))
    assert [len(part[0]) for part in lines(drawing)] == [300, 300]
    assert about == "samples: 300 of 900; data: all 300"


def test_of_sets_only_the_elements_under_the_mask_are_drawn():
    mask = torch.arange(6) < torch.tensor([2, 6, 3])[:, None]
    x = normal(3, 6, 3) * mask[..., None]
    look = Look((6, 3), of(1, 3), cond={"mask": ["bool", [6]]})
    drawing, about = figure(both(x, x, {"mask": mask}, {"mask": mask}), look)
    assert len(drawing.axes) == 6
    for k, (heights,) in enumerate(lines(drawing)):
        there = mask[k % 3]
        np.testing.assert_array_equal(heights[~np.isnan(heights)], x[k % 3, there, 1].double())
    assert [ax.texts[0].get_text() for ax in drawing.axes[:3]] == ["2", "6", "3"]
    assert "the first two of 3 coordinates" in about


def test_rows_of_tiles_have_the_names_of_their_groups():
    groups = both(torch.full((3, 1, 4, 4), -1.0), torch.full((4, 1, 4, 4), 1.0))
    drawing, about = figure(groups, Look((1, 4, 4), Units(clip=True)))
    (image,) = drawing.axes[0].images
    sheet = np.asarray(image.get_array())
    assert sheet.shape == (10, 15, 3)
    assert (sheet[:4, :4].max(), sheet[5:].min()) == (0.0, 1.0)
    assert [text.get_text() for text in drawing.axes[0].get_yticklabels()] == ["samples", "data"]
    assert about == "samples: all 3; data: 3 of 4"


@pytest.mark.parametrize(
    ("look", "low", "high"),
    [
        (Look((1, 4, 4), BYTES), 0, 255),
        (Look((3, 4, 4), of(0, 3), ends=(0.0, 0.999)), 0.0, 1.0),
        (Look((1, 4, 4), Units(clip=True)), -1.0, 1.0),
    ],
)
def test_pictures_alone_are_tiles_without_a_frame(look, low, high, tmp_path):
    x = torch.full((4, *look.shape), float(low))
    x[1], x[2] = high, (low + high) / 2
    assert draw(tmp_path / "x.png", both(x, x), look) == ""
    sheet = pixels(tmp_path / "x.png")
    assert (sheet[0, 0], sheet[0, -1], sheet[-1, 0]) == (0, 255, 128)


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        draw(path, both(normal(8, 2, 12), normal(9, 2, 12)), Look((2, 12), of(0, 2)))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_names_that_the_font_lacks_or_that_look_like_formulas_are_drawn(tmp_path):
    names = Names(columns=(Column("温度 $x^{"), Column("a\nb")))
    draw(tmp_path / "x.png", both(normal(9, 2), normal(9, 2)), Look((2,), of(0, 2), names))
    assert pixels(tmp_path / "x.png").shape[1] > 400


@pytest.mark.parametrize("shape", [(2,), (1,), (3, 12), (1, 8, 8)])
def test_without_matplotlib_there_is_a_sketch_and_a_line_that_says_how(
    shape, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    x = normal(20, *shape)
    about = draw(tmp_path / "x.png", both(x, x), Look(shape, of(0, shape[0])))
    assert about.endswith(HINT)
    assert "pip install 'fewstep[report]'" in HINT
    assert ("16 of 20 samples are shown" in about) == (shape == (3, 12))
    if len(shape) == 3:
        assert f"black is {x.min():.4g} and white {x.max():.4g}" in about
        assert {0, 255} <= set(pixels(tmp_path / "x.png").flat)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_samples_that_are_not_finite_are_one_clear_line(bad, tmp_path):
    x = normal(8, 2)
    x[3, 1] = bad
    with pytest.raises(ValueError, match="the samples hold NaN or infinity"):
        draw(tmp_path / "x.png", both(x, normal(8, 2)), Look((2,)))
    assert not re.search("x.png", " ".join(map(str, tmp_path.iterdir())))
