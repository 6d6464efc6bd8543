"""Embeddings and latents are made once: the bits of those made at once, resumable, and watched."""

from __future__ import annotations

import copy
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.base.randomness import normal
from fewstep.data.stored import Stored
from fewstep.pipelines import caching
from fewstep.pipelines.caching import draw_latents, encode_pictures, encode_prompts
from fewstep.pipelines.pictures import fit, nearest, sdxl_buckets
from fewstep.pipelines.prompts import Prompts
from fewstep.pipelines.records import pack
from tests.pipelines.stand_ins import SCALE, SHIFT, Autoencoder, Folder, encode

TEXTS = [f"prompt {'x' * number}" for number in range(1, 12)]
SIZES = [(9, 16), (16, 9), (12, 12), (8, 8), (30, 11)]
BUCKETS = [(8, 8), (4, 12), (12, 4)]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "pipeline")


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures of several sizes, each with its caption; two share one."""
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(11):
        height, width = SIZES[number % len(SIZES)]
        shape = (height, width, 3) if number % 3 else (height, width)
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
        (place / f"{number:02}.txt").write_text(TEXTS[number % 10])
    return place


def files_of(place):
    """The content of each file below a folder, but for times, and for what a kill leaves over."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "journal")
        if ".tmp-" not in path.name
    }


def small(monkeypatch):
    monkeypatch.setattr(caching, "ENOUGH", 1)  # each batch is a block


class Killed(BaseException):
    pass


def killed(monkeypatch, call, work):
    """Whether the work ended before it made so many changes of the disk."""
    left = [call]

    def watch(what, place):
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("fewstep.base.disk.watch", watch)
        try:
            work()
        except Killed:
            return True
    return False


# Prompts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_embeddings_are_those_encoded_at_once(folder, tmp_path, dtype):
    table = encode_prompts(folder, [*TEXTS, TEXTS[3]], cache=tmp_path, batch=4, dtype=dtype)
    whole, none = (encode({"dtype": dtype}, texts) for texts in (TEXTS, ["nothing"]))
    assert table.texts == TEXTS
    assert len(table) == len(TEXTS)
    for name, part in whole.items():
        assert table.parts[name].dtype == dtype
        assert torch.equal(table.parts[name], part)
        assert torch.equal(table.null[name], none[name][0])
        rows = table.rows(torch.tensor([2, -1, 2, 10]))[name]
        assert torch.equal(rows, torch.stack([part[2], none[name][0], part[2], part[10]]))


def test_encoders_are_loaded_once(folder, tmp_path):
    for _ in range(2):
        encode_prompts(folder, TEXTS, cache=tmp_path)
    assert folder.loads == ["encoders"]
    encode_prompts(folder, TEXTS, cache=tmp_path, dtype=torch.float16)
    encode_prompts(folder, TEXTS[:3], cache=tmp_path)
    encode_prompts(folder, TEXTS, cache=tmp_path, length=3)
    assert folder.loads == ["encoders"] * 4


def test_a_file_of_prompts_is_kept_beside_it_and_watched(folder, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(TEXTS))
    assert encode_prompts(folder, path).texts == TEXTS
    assert (tmp_path / "prompts.txt.fewstep").is_dir()
    path.write_text("\n".join([*TEXTS, "one more"]))
    assert encode_prompts(folder, path).texts == [*TEXTS, "one more"]
    (folder.path / "text_encoder" / "config.json").write_text("{ }")
    encode_prompts(folder, path)
    assert folder.loads == ["encoders"] * 3
    (folder.path / "unet" / "config.json").write_text("{ }")
    encode_prompts(folder, path)
    assert folder.loads == ["encoders"] * 3


def test_what_prompts_cannot_be_is_one_line(folder, pictures):
    with pytest.raises(UserError, match="cache = None: expected a folder"):
        encode_prompts(folder, TEXTS)
    encode_pictures(folder, pictures)
    with pytest.raises(UserError, match=r"pictures: expected a file that ends in"):
        encode_prompts(folder, pictures)
    with pytest.raises(UserError, match=r"prompts = .*: expected at least one"):
        encode_prompts(folder, [], cache="x")


def test_torch_maps_each_part_of_records(tmp_path):
    parts = {
        "x": torch.randn(5, 3),
        "there": torch.tensor([[True]] * 5),
        "size": torch.arange(10).reshape(5, 2),
        "half": torch.randn(5, 1).bfloat16(),
    }
    records = pack(parts)
    records.tofile(tmp_path / "x")
    again = np.memmap(tmp_path / "x", records.dtype, "c")
    for name, part in parts.items():
        assert torch.equal(torch.from_numpy(again[name]), torch.from_numpy(records[name]))
        assert torch.equal(torch.from_numpy(again[name]).view(part.dtype), part)
    own = sum(records[name].nbytes for name in parts)
    assert records.nbytes > own
    blank = np.frombuffer(
        pack({name: torch.zeros_like(part) for name, part in parts.items()}), np.uint8
    )
    assert not blank.any()


def test_rows_of_labels_pass_through_jvp_and_are_shared_by_copies():
    parts = {"tokens": torch.randn(3, 2, 2)}
    table = Prompts(parts, {"tokens": torch.zeros(2, 2)}, ["a", "b", "c"])
    label = torch.tensor([1, -1])

    def call(x):
        return x * table.rows(label)["tokens"]

    x = torch.randn(2, 2, 2)
    value, slope = torch.func.jvp(call, (x,), (torch.ones_like(x),))
    assert torch.equal(slope, torch.stack([parts["tokens"][1], torch.zeros(2, 2)]))
    assert torch.equal(value, x * slope)
    assert copy.deepcopy({"table": table})["table"] is table


# Pictures


def moments_of(picture, bucket):
    """Moments of one picture by the definitions alone."""
    pixels = torch.from_numpy(fit("", picture, [bucket]).pixels.copy())[None].float() / 127.5 - 1
    law = Autoencoder().encode(pixels).latent_dist
    return torch.cat([(law.mean - SHIFT) * SCALE, law.logvar + 2 * np.log(SCALE)], 1)[0]


def test_moments_are_the_autoencoders_in_the_networks_units(folder, pictures):
    cached = encode_pictures(folder, pictures, batch=4)
    content = cached.data()
    assert content["x0"].shape == (11, 8, 4, 4)
    assert content["cond"].keys() == {"label"}
    assert content["cond"]["label"].tolist() == [*range(10), 0]
    assert cached.prompts.texts == TEXTS[:10]
    for number, row in enumerate(content["x0"]):
        with Image.open(pictures / f"{number:02}.png") as picture:
            assert torch.allclose(torch.from_numpy(row), moments_of(picture, (8, 8)), atol=1e-6)


def test_each_draw_of_latents_has_their_law(folder, pictures):
    cached = encode_pictures(folder, pictures)
    how = data.Reading(units="as-is", latents=cached.latents, holdout=0.0)
    dataset = data.from_tensors(cached.data(), how)
    assert isinstance(dataset.train.samples, Stored)
    assert dataset.shape == (4, 4, 4)
    assert dataset.units.are_plain
    means, logs = torch.from_numpy(cached.data()["x0"].copy()).chunk(2, 1)
    noise = torch.randn(11, 4, 4, 4)
    drawn = dataset.train.draw(torch.arange(11), lambda: noise)
    assert torch.allclose(drawn, means + (0.5 * logs).exp() * noise, atol=1e-6)


def test_buckets_round_trip(tmp_path, pictures):
    folder = Folder(tmp_path / "pipeline", micro=True)
    cached = encode_pictures(folder, pictures, buckets=BUCKETS, batch=4)
    content = cached.data()
    x0, cond = content["x0"], content["cond"]
    assert x0.shape == (11, 8, 16)
    for number in range(11):
        with Image.open(pictures / f"{number:02}.png") as picture:
            bucket = nearest(BUCKETS, picture.height, picture.width)
            height, width = (side // folder.factor for side in bucket)
            own = moments_of(picture, bucket)
            assert cond["micro"][number].tolist() == [*fit("", picture, [bucket]).micro]
        assert cond["size"][number].tolist() == [height, width]
        assert cond["mask"][number, 0].tolist() == [place < height * width for place in range(16)]
        row = torch.from_numpy(x0[number][cond["mask"][number].repeat(8, 0)])
        assert torch.allclose(row.reshape(8, height, width), own, atol=1e-6)
        assert not x0[number][:, height * width :].any()
    assert len({tuple(size) for size in cond["size"]}) == 3
    how = data.Reading(units="as-is", latents=cached.latents)
    train = data.from_tensors(content, how).train.rows(torch.arange(11))
    assert not train.x0[~train.cond["mask"].expand_as(train.x0)].any()


def test_a_picture_is_cropped_to_its_middle():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    square = fit("", picture, [(20, 20)])
    whole = picture.resize((30, 20), Image.Resampling.LANCZOS)
    plain = np.asarray(whole.crop((5, 0, 25, 20))).transpose(2, 0, 1)
    assert abs(square.pixels.astype(int) - plain).max() <= 1
    assert square.micro == (40, 60, 0, 5, 20, 20)
    wide = fit("", picture, [(10, 30)])
    assert wide.micro == (40, 60, 5, 0, 10, 30)
    grey = Image.fromarray(np.full((40, 40), 257 * 200, np.uint16))
    assert (fit("", grey, [(8, 8)]).pixels == 200).all()


def test_buckets_are_those_of_sdxl():
    """Appendix I of the paper, for ratios of at most 2."""
    heights = "704 704 768 768 832 832 896 896 960 960 1024"
    widths = "1408 1344 1344 1280 1216 1152 1152 1088 1088 1024 1024"
    half = list(zip(map(int, heights.split()), map(int, widths.split()), strict=True))
    assert set(sdxl_buckets(1024)) == {*half, *((width, height) for height, width in half)}
    assert (512, 512) in sdxl_buckets(512)
    with pytest.raises(UserError, match="size = 50: expected a size that multiples of 64"):
        sdxl_buckets(50)
    assert nearest(sdxl_buckets(1024), 100, 100) == (1024, 1024)
    assert nearest(sdxl_buckets(1024), 100, 900) == (704, 1408)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 7}, "size = 7: expected a multiple of 2 pixels"),
        ({"size": 0, "buckets": [(8, 8)]}, "size = 0: expected none, where buckets"),
        ({"buckets": [(8, 9)]}, "size = 9: expected a multiple of 2"),
        ({"batch": 0}, "batch = 0: expected at least 1"),
        ({"cache": "PICTURES/cache"}, r"cache = .*pictures/cache': expected a folder outside of"),
    ],
)
def test_impossible_choices_are_one_line(folder, pictures, how, message):
    how = {key: str(pictures / "cache") if key == "cache" else one for key, one in how.items()}
    with pytest.raises(UserError, match=message):
        encode_pictures(folder, pictures, **how)


def test_bad_pictures_and_missing_captions_are_named(folder, pictures):
    (pictures / "05.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"05\.png: is no picture"):
        encode_pictures(folder, pictures)
    (pictures / "07.txt").unlink()
    with pytest.raises(UserError, match=r"1 of 11 pictures have no caption in .*07\.png"):
        encode_pictures(folder, pictures)


def test_pictures_and_vae_are_watched(folder, pictures):
    first = encode_pictures(folder, pictures)
    again = encode_pictures(folder, pictures)
    assert folder.loads == ["encoders", "vae"]
    assert np.array_equal(first.data()["x0"], again.data()["x0"])
    (folder.path / "vae" / "config.json").write_text("{ }")
    encode_pictures(folder, pictures)
    assert folder.loads == ["encoders", "vae", "vae"]
    (pictures / "00.txt").write_text("another caption")
    changed = encode_pictures(folder, pictures)
    assert changed.prompts.texts[0] == "another caption"
    assert changed.data()["cond"]["label"].tolist() == [*range(10), 10]
    encode_pictures(folder, pictures, size=4)
    assert folder.loads == ["encoders", "vae", "vae", "encoders", "vae", "vae"]


def test_pictures_that_change_while_they_are_read_are_not_kept(folder, pictures, monkeypatch):
    load = Folder.load

    def load_and_write(self, *args, **more):
        (pictures / "00.txt").write_text("another caption")
        return load(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "load", load_and_write)
        with pytest.raises(UserError, match="changed while they were read"):
            encode_pictures(folder, pictures)
    assert "another caption" in encode_pictures(folder, pictures).prompts.texts


# Latents of prompts alone


def sampler(labels, first):
    noise = normal(3, "test", first, len(labels), (4, 2, 3), 1)
    return noise + labels.reshape(-1, 1, 1, 1)


def test_latents_of_prompts_alone(tmp_path):
    folder, how = Folder(tmp_path / "pipeline", micro=True), {"cache": tmp_path / "cache"}
    table = encode_prompts(folder, TEXTS, **how)
    cached = draw_latents(folder, TEXTS, table, sampler, {"steps": 3}, samples=2, batch=4, **how)
    labels = torch.arange(22) % 11
    content = cached.data()
    assert np.array_equal(content["x0"], sampler(labels, 0))
    assert content["cond"]["label"].tolist() == labels.tolist()
    assert content["cond"]["micro"].tolist() == [[4, 6, 0, 0, 4, 6]] * 22
    dataset = data.from_tensors(content, data.Reading(units="as-is"))
    assert torch.equal(dataset.train.x0, sampler(labels, 0))

    def none(labels, first):
        raise AssertionError

    draw_latents(folder, TEXTS, table, none, {"steps": 3}, samples=2, **how)
    with pytest.raises(AssertionError):
        draw_latents(folder, TEXTS, table, none, {"steps": 4}, samples=2, **how)
    with pytest.raises(UserError, match=r"latents from row 0 on.*NaN or infinity"):
        draw_latents(folder, TEXTS, table, lambda *a: sampler(*a) / 0, {"steps": 5}, **how)
    with pytest.raises(UserError, match="samples = 0: expected at least 1"):
        draw_latents(folder, TEXTS, table, sampler, {}, samples=0, **how)


# Kills


def everything(folder, pictures, cache):
    """All that is kept, in the order of the three passes."""
    how = {"cache": cache, "batch": 4}
    encode_pictures(folder, pictures, buckets=BUCKETS, **how)
    table = encode_prompts(folder, TEXTS, **how)
    draw_latents(folder, TEXTS, table, sampler, {}, **how)


def test_a_pass_that_is_killed_anywhere_goes_on_to_the_same_bits(tmp_path, pictures, monkeypatch):
    small(monkeypatch)
    folder, cache = Folder(tmp_path / "pipeline", micro=True), tmp_path / "cache"
    everything(folder, pictures, cache)
    whole = files_of(cache)
    assert sum(name.endswith("records") for name in whole) == 2
    for call in itertools.count():
        shutil.rmtree(cache)
        if not killed(monkeypatch, call, lambda: everything(folder, pictures, cache)):
            break
        everything(folder, pictures, cache)
        assert files_of(cache) == whole
    assert call > 50


def test_what_is_on_the_disk_is_not_made_again(folder, tmp_path, monkeypatch):
    small(monkeypatch)
    table, starts = encode_prompts(folder, TEXTS, cache=tmp_path), []

    def make(labels, first):
        if len(starts) == 2:
            starts.append(None)
            raise Killed
        starts.append(first)
        return sampler(labels, first)

    for _ in range(2):
        try:
            draw_latents(folder, TEXTS, table, make, {}, cache=tmp_path, batch=4)
        except Killed:
            continue
    assert starts == [0, 4, None, 8]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells it")
def test_rows_stay_in_their_file(folder, pictures):
    cached = encode_pictures(folder, pictures)
    content = cached.data()
    assert isinstance(content["x0"], np.memmap)
    assert content["x0"].filename is not None
    place = cached.prompts.parts["tokens"].data_ptr()
    lines = Path("/proc/self/maps").read_text().splitlines()
    ends = {
        line.split()[-1]: [int(end, 16) for end in line.split()[0].split("-")] for line in lines
    }
    (path,) = (name for name, (first, last) in ends.items() if first <= place < last)
    assert path.endswith("rows")
