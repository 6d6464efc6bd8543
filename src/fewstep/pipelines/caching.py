"""What a run needs of prompts and pictures, made once: embeddings, and moments of latents.

| made by | rows, in a folder of their own (`fewstep.data.streams`) |
|---|---|
| `encode_prompts` | the embeddings of each prompt, and of none |
| `encode_pictures` | likewise of captions; the VAE's moments of each picture |
| `draw_latents` | latents of prompts alone, by a sampler |

All of a row lies together in one record of a file that all processes map. A pass that is killed
goes on from the blocks that are on the disk, to the same bits; where the data or the pipeline's
parts have changed, it begins anew. Embeddings have the type that the encoders give: they lose
nothing, and are halved where the encoders ran in half.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.data.archives import open_files, readable, source_mark
from fewstep.data.images import names_of
from fewstep.data.latents import Law
from fewstep.data.reading import Content
from fewstep.data.stored import check_finite
from fewstep.data.streams import Place, Stream
from fewstep.pipelines.autoencoder import Encoder, has_micro
from fewstep.pipelines.captions import captions_of
from fewstep.pipelines.folder import Folder
from fewstep.pipelines.pictures import Bucket
from fewstep.pipelines.prompts import Prompts, read_prompts, suffix_of
from fewstep.pipelines.records import pack, tensors_of

ENOUGH = 2**22  # bytes after which rows are written: seconds to minutes of work
Make = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Cached:
    """Latents `[N, C, h, w]`, or their moments `[N, 2 C, h, w]`, and the prompt of each.

    rows: "x0", for SDXL "micro" `[N, 6]`, with buckets "size" `[N, 2]` (height and width of the
    latents) and "mask" `[N, 1, P]`, x0 being `[N, ..., P]`. latents: the law of the moments for
    `Run.latents`, "" of latents.
    """

    prompts: Prompts
    label: np.ndarray
    rows: Mapping[str, np.ndarray]
    latents: Law

    def data(self) -> dict[str, Any]:
        """What `fewstep.train` takes: x0 in the network's units, and the condition."""
        cond = {name: part for name, part in self.rows.items() if name != "x0"}
        return {"x0": self.rows["x0"], "cond": {"label": self.label, **cond}}


@dataclass(frozen=True)
class Source:
    """Where prompts come from. mark: what tells whether it has changed."""

    name: str
    path: Path
    mark: Callable[[], str]
    texts: Callable[[], Sequence[str]]

    @staticmethod
    def of(prompts: str | Path | Sequence[str], cache: str | Path | None) -> Source:
        """A file of prompts, or they themselves, each once."""
        if isinstance(prompts, str | Path):
            path = Path(prompts)
            suffix_of(path)
            return Source(str(path), path, partial(source_mark, path), partial(read_prompts, path))
        need = "a folder, since these prompts are in no file"
        require(cache is not None, "cache", cache, need)
        texts = list(dict.fromkeys(prompts))
        require(bool(texts), "prompts", texts, "at least one")
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        path = Path("/", f"prompts-{digest[:8]}")
        return Source(f"{len(texts)} prompts", path, lambda: digest, lambda: texts)

    def place(self, folder: Folder, parts: Sequence[str], choices: Any, cache: Any) -> Place:
        """The folder for the rows that these parts of a pipeline make of it."""

        def mark() -> str:
            return "\n".join([self.mark(), *(source_mark(folder.path / name) for name in parts)])

        key = [str(folder.path.resolve()), *parts, choices]
        return replace(Place.of(self.name, self.path, key, mark, cache), verb="encodes")


def encode_prompts(
    folder: Folder,
    prompts: str | Path | Sequence[str],
    *,
    cache: str | Path | None = None,
    length: int | None = None,
    batch: int = 32,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Prompts:
    """The table of the prompts of a file, or of these, each once.

    cache: the folder below which it is kept; None: beside the file. length: of T5's tokens. The
    encoders are in memory only where it is made. Raises UserError and StorageError.
    """
    return _encode_texts(folder, Source.of(prompts, cache), cache, length, batch, dtype, device)


def _encode_texts(
    folder: Folder,
    source: Source,
    cache: str | Path | None,
    length: int | None,
    batch: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Prompts:
    require(batch > 0, "batch", batch, "at least 1")
    parts = [name for name in folder.family.encoders if (folder.path / name).is_dir()]
    place = source.place(folder, parts, ["prompts", str(dtype), length], cache)
    content = place.content()
    if content is None:
        texts = source.texts()
        with torch.no_grad(), folder.encoders(dtype, device) as encoders:

            def blocks(first: int) -> Iterator[np.ndarray]:
                for start in range(first, len(texts), batch):
                    some = texts[start : start + batch]
                    yield pack(folder.family.encode(encoders, some, length))

            null = pack(folder.family.null(encoders, folder, length))
            rows = Stream(len(texts), blocks, enough=ENOUGH)
            own = np.frombuffer(json.dumps(texts).encode(), np.uint8)
            content = place.keep(Content({"rows": rows, "null": null, "texts": own}))
    data = content.data
    none = {name: part[0] for name, part in tensors_of(data["null"]).items()}
    return Prompts(tensors_of(data["rows"]), none, json.loads(data["texts"].tobytes()))


def encode_pictures(
    folder: Folder,
    path: str | Path,
    *,
    size: int | None = None,
    buckets: Sequence[Bucket] = (),
    cache: str | Path | None = None,
    length: int | None = None,
    batch: int = 8,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Cached:
    """The pictures of a folder or zip, cropped to a square or to the nearest bucket, and captions.

    size: the square's side in pixels; None: the pipeline's. buckets: (height, width) in pixels,
    such as `sdxl_buckets(1024)`. dtype: of the text encoders, since autoencoders may overflow in
    half. The rest is as for `encode_prompts`. Raises UserError for what cannot be decoded and for
    missing captions, and StorageError.
    """
    path = Path(path)
    sizes = [*buckets] or [(size or folder.size,) * 2]
    require(size is None or not buckets, "size", size, "none, where buckets have theirs")
    for side in (side for sides in sizes for side in sides):
        fine = side > 0 and side % folder.factor == 0
        require(fine, "size", side, f"a multiple of {folder.factor} pixels, as the VAE has")

    @once
    def captions() -> tuple[list[str], list[str]]:
        """The names of pictures, and the caption of each."""
        with open_files(path) as files, readable(str(path)):
            names = names_of(path, files)
            return names, captions_of(path, files, names)

    def texts() -> list[str]:
        return list(dict.fromkeys(captions()[1]))

    source = Source(str(path), path, partial(source_mark, path), texts)
    choices = ["pictures", sizes, bool(buckets), has_micro(folder)]
    place = source.place(folder, ["vae"], choices, cache)
    prompts = _encode_texts(folder, source, cache, length, batch, dtype, device)
    content = place.content()
    if content is None:
        names, own = captions()
        number = {text: label for label, text in enumerate(prompts.texts)}
        label = np.array([number[text] for text in own])
        with open_files(path) as files, torch.no_grad():
            encoder = Encoder(folder, sizes, bool(buckets), folder.load("vae", device=device))
            blocks = partial(encoder.blocks, path, files, names, batch)
            stream = Stream(len(names), blocks, enough=ENOUGH)
            content = place.keep(Content({"x0": stream, "cond": {"label": label}}))
    return _result(prompts, content, "mean-logvar")


def _result(prompts: Prompts, content: Content, law: Law) -> Cached:
    records = content.data["x0"]
    rows = {name: records[name] for name in records.dtype.names}
    return Cached(prompts, content.data["cond"]["label"], rows, law)


def draw_latents(
    folder: Folder,
    prompts: str | Path | Sequence[str],
    table: Prompts,
    make: Make,
    about: Mapping[str, Any],
    *,
    samples: int = 1,
    cache: str | Path | None = None,
    batch: int = 8,
) -> Cached:
    """Latents of prompts alone: row i, from 0 on, is one of prompt i mod N.

    prompts: as for `encode_prompts`, whose table they have. make: labels `[B]` and the number of
    their first row -> latents `[B, C, h, w]` in the network's units; noise is addressed by rows, so
    that a pass that was killed goes on to the same bits. about: what tells this sampler from
    others, JSON. Raises UserError and StorageError.
    """
    require(samples > 0, "samples", samples, "at least 1 of each prompt")
    require(batch > 0, "batch", batch, "at least 1")
    label = np.arange(samples * len(table)) % len(table)

    def blocks(first: int) -> Iterator[np.ndarray]:
        for start in range(first, len(label), batch):
            x0 = make(torch.from_numpy(label[start : start + batch]), start).float().cpu()
            check_finite(f"latents from row {start} on", iter([x0]))
            parts: dict[str, Any] = {"x0": x0}
            if has_micro(folder):
                sides = [folder.factor * side for side in x0.shape[2:]]
                parts["micro"] = np.array([[*sides, 0, 0, *sides]] * len(x0))
            yield pack(parts)

    source = Source.of(prompts, cache)
    parts = [*folder.family.encoders, folder.family.network]
    own = [name for name in parts if (folder.path / name).is_dir()]
    place = source.place(folder, own, ["latents", samples, about], cache)
    content = place.content()
    if content is None:
        stream = Stream(len(label), blocks, enough=ENOUGH)
        content = place.keep(Content({"x0": stream, "cond": {"label": label}}))
    return _result(table, content, "")
