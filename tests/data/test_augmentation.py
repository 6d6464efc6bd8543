"""Flips and EDM's augmentation: moves of pictures, and what the network is told."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep import data
from fewstep.base.errors import UserError
from fewstep.base.world import World
from fewstep.data import augmentation
from fewstep.data.augmentation import COLUMNS, LABELS, augment, mirror, move, turn
from fewstep.run.build import build_method, check_augmentation, with_defaults
from fewstep.run.facts import facts_of
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from tests.support.toys import tiny_run

SIDE = 32
STILL = torch.eye(2, 3, dtype=torch.float64)


def bumps(count=3):
    """Smooth pictures `[count, 2, 32, 32]`."""
    places = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    y, x = torch.meshgrid(places, places, indexing="ij")
    one = (-((x - 0.2) ** 2 + (y + 0.1) ** 2) / 0.18).exp()
    two = (-((x + 0.3) ** 2 + (y - 0.3) ** 2) / 0.1).exp()
    return torch.stack([one + 0.5 * two, two]).expand(count, 2, SIDE, SIDE).contiguous()


def matrix_of(linear, shift=(0.0, 0.0)):
    offset = torch.tensor(shift, dtype=torch.float64)[:, None]
    return torch.cat([torch.as_tensor(linear, dtype=torch.float64), offset], 1)[None]


def test_the_filter_is_orthogonal_to_itself_by_two_pixels():
    taps = torch.tensor(augmentation._SYM6, dtype=torch.float64)
    overlaps = [float(taps[: len(taps) - 2 * m] @ taps[2 * m :]) for m in range(6)]
    assert overlaps == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-11)
    assert float(taps.sum()) == pytest.approx(math.sqrt(2))


def test_a_move_by_nothing_or_by_whole_pixels_is_exact_on_any_picture():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(move(x, STILL.expand(2, 2, 3)), x, atol=1e-10, rtol=0)
    by_one = matrix_of(torch.eye(2), (2 / 8, 0.0)).expand(2, -1, -1)
    torch.testing.assert_close(move(x, by_one)[..., :-1], x[..., 1:], atol=1e-10, rtol=0)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_those_of_the_pixels_up_to_a_fifth_of_one(turns):
    x = bumps(1)
    seen = move(x, matrix_of(turn(torch.tensor([turns * math.pi / 2]).double())[0]))
    away = (seen - x.rot90(turns, (2, 3))).abs().max()
    steepest = (x[..., 1:] - x[..., :-1]).abs().max()
    assert away < 0.6 * steepest  # of a pixel, along both axes


def test_a_picture_scaled_by_two_shows_its_middle():
    x = bumps(1)
    seen = move(x, matrix_of(torch.eye(2) / 2))
    middle = torch.nn.functional.interpolate(
        x[:, :, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4], scale_factor=2, mode="bilinear"
    )
    assert (seen - middle)[..., 2:-2, 2:-2].abs().max() < 0.06


def uniforms(**columns):
    """Where no chance comes true but for the columns that are given."""
    u = torch.full((3, COLUMNS), 0.999, dtype=torch.float64)
    for name, value in columns.items():
        u[:, int(name[1:])] = value
    return u


def test_nothing_is_done_and_said_where_no_chance_comes_true():
    x = bumps()
    seen, done = augment(x, uniforms(), 0.12)
    assert torch.equal(seen, x)
    assert not done.any()


CASES = {  # what is drawn -> the numbers that the network is told
    "left and right": ({"c0": 0.1}, {0: 1}),
    "top and bottom": ({"c1": 0.0, "c2": 0.1}, {1: 1}),
    "not top and bottom": ({"c1": 0.0, "c2": 0.9}, {}),
    "scale": ({"c3": 0.0, "c4": 0.8413447}, {2: 1.0}),
    "angle": ({"c5": 0.0, "c6": 0.75}, {3: -1.0, 4: 1.0}),
    "no axis by half a chance": ({"c7": 0.0, "c8": 0.8413447, "c9": 0.6, "c10": 0.75}, {5: 1.0}),
    "an axis alone": ({"c9": 0.0, "c10": 0.7}, {}),
    "stretch": ({"c7": 0.0, "c8": 0.8413447}, {5: 1.0}),
    "stretch along an axis": ({"c7": 0.0, "c8": 0.8413447, "c9": 0.3, "c10": 0.75}, {6: 1.0}),
    "shift": ({"c11": 0.0, "c12": 0.8413447, "c13": 0.5}, {7: 1.0}),
}


@pytest.mark.parametrize(("columns", "told"), CASES.values(), ids=CASES)
def test_the_network_is_told_what_was_done(columns, told):
    x = bumps()
    seen, done = augment(x, uniforms(**columns), 0.12)
    expected = [told.get(place, 0.0) for place in range(LABELS)]
    assert done[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(seen, x) == (not told)


def test_a_shift_and_a_scale_go_the_way_that_they_say():
    x = bumps()
    by = 1 / (SIDE * 0.125)  # deviations that are one pixel
    u = uniforms(c11=0.0, c12=float(torch.special.ndtr(torch.tensor(by).double())), c13=0.5)
    torch.testing.assert_close(augment(x, u, 1e-3)[0][..., 1:], x[..., :-1], atol=1e-9, rtol=0)
    larger = augment(x, uniforms(c3=0.0, c4=0.9986501), 0.1)[0]  # 2 ** (0.2 * 3)
    smaller = augment(x, uniforms(c3=0.0, c4=0.0013499), 0.1)[0]
    assert larger.sum() > 1.3 * x.sum() > 1.6 * smaller.sum()


@pytest.mark.parametrize("turns", [0.0, 0.1, 0.25, 0.4])
def test_a_stretch_goes_along_its_axis_as_far_as_it_says(turns):
    place = torch.arange(SIDE).double() - (SIDE - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    round_one = torch.exp(-(x.square() + y.square()) / 8).expand(3, 1, SIDE, SIDE)
    stretch = torch.special.ndtr(torch.tensor(1.5).double()).item()
    u = uniforms(c7=0.0, c8=stretch, c9=0.0, c10=0.5 + turns / 2)
    seen, done = augment(round_one, u, 0.12)
    spread = torch.stack([x.flatten(), y.flatten()]).cov(aweights=seen[0].flatten().clamp_min(0))
    values, vectors = torch.linalg.eigh(spread)
    # Longer by 2^(0.2 s) along the axis, which turns against the clock as y points down, and
    # shorter by as much across.
    assert (values[1] / values[0]).sqrt() == pytest.approx(2 ** (2 * 0.2 * 1.5), rel=0.01)
    angle = math.pi * turns
    along = (math.cos(angle), math.sin(angle))
    assert abs(vectors[0, 1] * along[0] - vectors[1, 1] * along[1]) == pytest.approx(1, abs=1e-3)
    assert done[0, 5:7].tolist() == pytest.approx([1.5 * part for part in along], abs=1e-6)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=5)
def test_a_sample_s_change_depends_on_its_own_uniforms_alone(seed):
    source = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 1, 8, 8, generator=source)
    u = torch.rand(5, COLUMNS, generator=source, dtype=torch.float64)
    whole, told = augment(x, u, 0.8)
    for i in range(5):
        alone, own = augment(x[i : i + 1], u[i : i + 1], 0.8)
        torch.testing.assert_close(alone[0], whole[i])
        assert torch.equal(own[0], told[i])


def test_half_of_the_pictures_are_mirrored():
    x = torch.arange(24.0).reshape(2, 1, 3, 4)
    seen = mirror(x, torch.tensor([True, False]))
    assert torch.equal(seen[0], x[0].flip(2))
    assert torch.equal(seen[1], x[1])


def batches_of(dataset, run, worlds):
    stage = Stage(run, build_method(run, facts_of(run, dataset)))
    parts = [draw_batch(stage, dataset.train, 3, world) for world in worlds]
    cond = [part.cond for part in parts]
    told = [one["augment"] for one in cond] if isinstance(cond[0], dict) else None
    return torch.cat([part.x0 for part in parts]), told and torch.cat(told), parts[0]


@pytest.mark.parametrize("change", [{"flip": True}, {"augment": 0.5}])
def test_changes_are_addressed_by_sample_whatever_the_number_of_processes(change):
    pictures = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    dataset = data.from_tensors({"x0": pictures, "cond": torch.arange(40) % 4})
    run = with_defaults(replace(tiny_run(), batch=16, block=4, **change))
    plain = batches_of(dataset, replace(run, flip=False, augment=0.0), [World()])
    one = batches_of(dataset, run, [World()])
    two = batches_of(dataset, run, [World(rank=0, size=2), World(rank=1, size=2)])
    torch.testing.assert_close(one[0], two[0], atol=1e-6, rtol=0)
    assert not torch.equal(one[0], plain[0])
    assert torch.equal(one[2].z, plain[2].z)
    if change.get("augment"):
        assert torch.equal(one[1], two[1])
        assert torch.equal(one[2].cond["label"], plain[2].cond)
    else:
        same = (one[0] == plain[0]).flatten(1).all(1)
        assert torch.equal(one[0][~same], plain[0][~same].flip(3))
        assert 0 < same.sum() < 16


def test_what_is_no_picture_is_not_changed(tmp_path):
    points = data.from_tensors(torch.randn(40, 3))
    with pytest.raises(UserError, match="flip = True: expected none: only whole pictures"):
        check_augmentation(replace(tiny_run(), flip=True), points)
    x0 = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    pictures = data.from_tensors(x0)
    with pytest.raises(
        UserError, match=r"network\.augment = None: expected 9, since augment = 0\.1"
    ):
        check_augmentation(replace(tiny_run(), augment=0.1), pictures)
    check_augmentation(replace(tiny_run(), augment=0.1, network_options={"augment": 9}), pictures)


@pytest.mark.parametrize("shape", [(1, 4, 4), (8, 8)])
def test_a_condition_that_is_a_picture_would_stay_where_it_is(shape):
    pictures = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    dataset = data.from_tensors({"x0": pictures, "cond": {"sketch": torch.randn(40, *shape)}})
    with pytest.raises(UserError, match="flip = True: expected none: the condition sketch is a"):
        check_augmentation(replace(tiny_run(), flip=True), dataset)
    words = data.from_tensors({"x0": pictures, "cond": {"words": torch.randn(40, 5, 16)}})
    check_augmentation(replace(tiny_run(), flip=True), words)


def test_a_teacher_that_is_not_told_of_changes_is_refused():
    pictures = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    options = {"width": 8, "mult": (1,), "blocks": 1, "attention": (), "augment": 9}

    def train(method, teacher=None, **fields):
        run = tiny_run(method=method, network="song_unet", iterations=1)
        run = replace(run, **{"network_options": options, **fields})
        return fs.train(run, pictures, teacher=teacher, progress=False)

    told = train("diffusion", augment=0.1)
    plain = train("diffusion", network_options={**options, "augment": 0})
    assert train("cd", told, augment=0.1).step == 1
    assert train("cd", plain).step == 1
    with pytest.raises(UserError, match=r"augment = 0\.1: expected 0, since teacher .* has not"):
        train("cd", plain, augment=0.1)
