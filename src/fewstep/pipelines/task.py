"""What is distilled, beside its run: a value that lies in the run folder as `pipeline.json`."""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from fewstep.base import disk
from fewstep.base.errors import StorageError, UserError, require, storage
from fewstep.base.json_file import MOST_JSON, document
from fewstep.base.options import convert

FILE = "pipeline.json"
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A pipeline, the prompts or pictures it is distilled on, and which of its weights learn."""

    folder: str
    """Folder of the pipeline, as save_pretrained or a download of all its files writes it."""
    prompts: str | None = None
    """File of prompts: .txt with one on each line, .csv, .parquet, .json or .jsonl with a column
    caption, prompt or text.
    """
    images: str | None = None
    """Folder or zip of pictures with captions; left out, the teacher makes the latents."""
    rank: int = 64
    """Rank of the changes that learn (LoRA); 0: all weights."""
    alpha: float | None = None
    """The changes are alpha / rank B A; left out, the rank."""
    layers: tuple[str, ...] = ()
    """Ends of the names of the layers that are changed; left out, the family's own."""
    weights: Precision = "bf16"
    """Of the pipeline's own weights; those that learn are in fp32."""
    size: int | None = None
    """Side of the pictures in pixels; left out, the pipeline's own."""
    buckets: bool = False
    """Sort pictures into sizes of about the same area and their own shape, instead of squares."""
    guidance: float = 0.0
    """Of the teacher: g in D_c + g (D_c - D_u), 0 is none; left out, a recipe's own, of lora 7."""
    embedded_guidance: float | None = None
    """That a network of FLUX.1-dev's kind takes as an input; left out, 3.5."""
    samples: int = 1
    """Latents that the teacher makes for each prompt, without pictures."""
    teacher_steps: int = 50
    """Steps of DDIM that it takes for one."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for one in fields(self):
            value = convert(one.name, getattr(self, one.name), hints[one.name])
            object.__setattr__(self, one.name, value)
        has_one = (self.prompts is None) != (self.images is None)
        need = "either a file of prompts, or --images, whose captions lie beside them"
        require(has_one, "prompts", self.prompts, need)
        for name in ("rank", "samples", "teacher_steps"):
            low = 0 if name == "rank" else 1
            require(getattr(self, name) >= low, name, getattr(self, name), f"at least {low}")
        need = "none without --images: the teacher's latents have one size"
        require(not self.buckets or self.images is not None, "buckets", self.buckets, need)

    def with_full_paths(self) -> Task:
        """Itself with the places of what there is in full, so that a run is sampled anywhere."""
        names = ("folder", "prompts", "images")
        places = {name: getattr(self, name) for name in names}
        full = {name: str(Path(one).resolve()) for name, one in places.items() if one is not None}
        return replace(self, **full)  # type: ignore[arg-type]

    def write(self, out: Path) -> None:
        """Raises StorageError."""
        with storage(f"cannot write to {out}"):
            disk.make_folder(out)
            disk.replace(out / FILE, json.dumps(asdict(self), indent=1).encode())


def read_task(out: str | Path) -> Task:
    """That of a run folder. Raises StorageError where there is none, or no sound one."""
    path = Path(out) / FILE
    with storage(f"{path} cannot be read"), path.open("rb") as file:
        values: Any = document(file.read(MOST_JSON + 1), path)
    try:
        return Task(**values)
    except (TypeError, UserError) as error:
        raise StorageError(f"{path}: {error}") from error


def check_same(task: Task, out: Path) -> None:
    """Raises UserError where a run that goes on was begun with another task."""
    if not (out / FILE).exists():
        return
    before = read_task(out)
    for one in fields(task):
        new, old = getattr(task, one.name), getattr(before, one.name)
        require(new == old, one.name, new, f"{old!r}, with which {out} was begun")
