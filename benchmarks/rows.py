"""Data that stay in files: 200,000 made-up pictures, 3x64x64, in a zip as EDM writes it.

How fast they are decoded into records beside a bare loop of the same library and threads, when a
run on them takes its first step, what drawing a batch takes of a step, what two processes need of
anonymous memory, and, where `datasets` is installed, size and random batches of its Arrow files.
Needs Linux; some minutes, and an hour on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from memory import anonymous
from PIL import Image

import fewstep as fs
from fewstep.base.surroundings import cores
from fewstep.data.gathering import BLOCK

SIDE = 64
SMALL = (
    *(
        "train",
        "glyphs",
        "--network",
        "unet",
        "--network.width",
        "32",
        "--batch",
        "32",
        "--block",
        "16",
    ),
    *("--picture-every", "0", "--device", "cpu", "--quiet"),
)


def pictures(first: int, count: int) -> np.ndarray:
    """Waves of a few colours under some noise, which a PNG packs to about two thirds."""
    random = np.random.default_rng(first)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    wave = random.uniform(1, 9, (count, 3, 2, 1, 1))
    values = 128 + 90 * np.sin(wave[:, :, 0] * x + wave[:, :, 1] * y)
    values = values + random.integers(-4, 5, values.shape)
    return np.moveaxis(values, 1, 3).astype(np.uint8)


def make_zip(path: Path, count: int) -> None:
    labels = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for first in range(0, count, 1000):
            for place, values in enumerate(pictures(first, 1000), start=first):
                name = f"{place // 1000:05d}/img{place:08d}.png"
                file = io.BytesIO()
                Image.fromarray(values).save(file, "PNG", compress_level=1)
                target.writestr(name, file.getvalue())
                labels.append([name, place % 10])
        target.writestr("dataset.json", json.dumps({"labels": labels}))


def bare_loop(path: Path, count: int) -> None:
    """What decoder and disk give: Pillow alone, on as many threads, its pixels in one file."""
    with (
        zipfile.ZipFile(path) as source,
        tempfile.TemporaryFile(dir=path.parent) as target,
        ThreadPoolExecutor(cores()) as pool,
    ):
        names = [name for name in source.namelist() if name.endswith(".png")][:count]

        def decode(some: list[str]) -> np.ndarray:
            rows = [np.asarray(Image.open(io.BytesIO(source.read(name)))) for name in some]
            return np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2))

        for rows in pool.map(decode, (names[i : i + BLOCK] for i in range(0, count, BLOCK))):
            target.write(rows)
        target.flush()
        os.fsync(target.fileno())
        if target.tell() != count * 3 * SIDE**2:
            raise SystemExit("the bare loop has lost pixels")


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and those of processor time of all threads."""
    start, own = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - own


def compare_decoding(path: Path, count: int) -> None:
    """The bare loop before and behind the pass that keeps what it decodes."""
    some = min(count, 50_000)
    before = [own * count / some for own in cost(lambda: bare_loop(path, some))]
    own = cost(lambda: fs.data.scan(path))
    behind = [own * count / some for own in cost(lambda: bare_loop(path, some))]
    print(f"zip {path.stat().st_size / 1e6:.0f} MB, {count} pictures, {cores()} threads")
    for what, place in (("seconds", 0), ("processor seconds", 1)):
        bare = (before[place] + behind[place]) / 2
        print(
            f"{what}: bare loop {before[place]:.1f} and {behind[place]:.1f}, records"
            f" {own[place]:.1f}; rate {bare / own[place]:.2f} of the bare loop"
        )


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                yield from family(int(child))
        except OSError:
            continue


def watch(words: list[str]) -> str:
    """What a command and all its processes took: anonymous memory, seconds, processor time."""
    start, before, most = time.monotonic(), os.times(), 0
    process = subprocess.Popen([sys.executable, *words])
    while process.poll() is None:
        most = max(most, sum(map(anonymous, family(process.pid))))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    now, seconds = os.times(), time.monotonic() - start
    processor = sum(now[2:4]) - sum(before[2:4])
    return f"{most / 1e9:.2f} GB anonymous, {seconds:.1f} s, {processor:.1f} s of processor time"


def train(path: Path, folder: Path) -> None:
    """A cached run from its start to the end of its first step, and in two processes."""
    own = [*SMALL, "--data", str(path), "--out"]
    print("the first run, which also looks at all rows:", end=" ", flush=True)
    print(watch(["-m", "fewstep", *own, str(folder / "first"), "--iterations", "1"]))
    print("one process, one step:", end=" ", flush=True)
    print(watch(["-m", "fewstep", *own, str(folder / "one"), "--iterations", "1"]))
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "fewstep"]
    print("torchrun of two, 3 steps:", end=" ", flush=True)
    print(watch([*torchrun, *own, str(folder / "two"), "--iterations", "3"]))


def compare_drawing(path: Path, batch: int) -> None:
    """A batch, and a step of DDPM++ on it."""
    import torch

    from fewstep.run.build import build_method, with_defaults
    from fewstep.run.facts import facts_of
    from fewstep.run.prepare import Prepared
    from fewstep.run.stages import Stage
    from fewstep.training.batches import draw_batch
    from fewstep.training.state import new_state
    from fewstep.training.step import train_step

    start = time.perf_counter()
    dataset = fs.data.load(path)
    facts = facts_of(_run(batch), dataset)
    print(f"data ready in {time.perf_counter() - start:.2f} s, once cached and looked at")
    run = with_defaults(_run(batch))
    parts = build_method(run, facts)
    stage = Stage(run, parts)
    state = new_state(Prepared(run, facts, parts))
    draws = [cost(lambda k=k: draw_batch(stage, dataset.train, k))[1] for k in range(1, 40)]  # type: ignore[misc]
    some = draw_batch(stage, dataset.train, 0)
    steps = [cost(lambda: train_step(stage, state, some))[1] for _ in range(3)]
    one, step = statistics.median(draws), min(steps)
    print(
        f"batch of {batch}: drawn in {one * 1e3:.1f} ms, a step of song_unet takes {step:.2f} s"
        f" ({torch.get_num_threads()} threads, processor time): {one / step:.2%}"
    )


def _run(batch: int) -> Any:
    return fs.recipes.glyphs(batch=batch, block=batch, iterations=100, network="song_unet")


def compare_stores(folder: Path, path: Path, whole: int, count: int, rows: int = 64) -> None:
    """Bytes on the disk, and a batch of random rows: records, and `datasets`' Arrow files."""
    import datasets

    store = fs.data.load(path).train.samples
    random = np.random.default_rng(0)

    def batches(take: Callable[[np.ndarray], Any]) -> float:
        picks = [random.integers(0, count, rows) for _ in range(30)]
        return statistics.median(cost(lambda p=p: take(p))[1] for p in picks)  # type: ignore[misc]

    import torch

    torch.set_num_threads(1)
    ours = batches(lambda p: store[torch.from_numpy(p) % len(store)])
    size = (path.with_name(f"{path.name}.fewstep") / "whole" / "records").stat().st_size
    print(f"records: {size / whole:.0f} bytes a picture, {rows} random rows {ours * 1e3:.2f} ms")
    shape = (3, SIDE, SIDE)
    kinds = {
        "arrays": datasets.Features({"x": datasets.Array3D(shape, "uint8")}),
        "encoded pictures": datasets.Features({"x": datasets.Image()}),
    }
    for name, features in kinds.items():
        values = pictures(0, count)

        def examples(name: str = name, values: np.ndarray = values) -> Iterator[dict[str, Any]]:
            for one in values:
                is_array = name == "arrays"
                yield {"x": one.transpose(2, 0, 1) if is_array else Image.fromarray(one)}

        place = folder / name.replace(" ", "-")
        table = datasets.Dataset.from_generator(examples, features, cache_dir=str(place / "cache"))
        table.save_to_disk(str(place / "set"))
        table = datasets.load_from_disk(str(place / "set")).with_format("numpy")
        bytes_ = sum(file.stat().st_size for file in (place / "set").glob("*.arrow"))
        seconds = batches(lambda p, table=table: table[p.tolist()]["x"])  # type: ignore[misc]
        print(f"datasets, {name}: {bytes_ / count:.0f} bytes a picture, {seconds * 1e3:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the zip for a next time")
    args = parser.parse_args()
    os.nice(10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = (args.folder or folder) / "pictures.zip"
        if not path.exists():
            make_zip(path, args.pictures)
        compare_decoding(path, args.pictures)
        train(path, folder)
        compare_drawing(path, args.batch)
        compare_stores(folder, path, args.pictures, min(args.pictures, 10_000))


if __name__ == "__main__":
    main()
