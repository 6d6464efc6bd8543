"""A student and its teacher from the same noise, by one stock pipeline where that is possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from fewstep.base.errors import UserError, require
from fewstep.base.randomness import fork_rng, generator
from fewstep.pipelines.libraries import quiet
from fewstep.pipelines.network import PipelineNetwork
from fewstep.pipelines.out import call_options
from fewstep.pipelines.prompts import Prompts
from fewstep.pipelines.roles import teacher_solver
from fewstep.pipelines.sampling import Student, stock_pipeline

STYLE = "style"  # the name of the second LoRA in a pipeline
STREAM = "pictures of prompts"


@dataclass(frozen=True)
class Rows:
    """Some prompts with some seeds: row i starts from noise of its seed and its prompt's number.

    Both models start at x = z, as stock pipelines do.
    """

    texts: Sequence[str]
    numbers: Sequence[int]  # of the prompts
    seeds: Sequence[int]

    def sources(self) -> list[torch.Generator]:
        """A row's generator: of its first noise, then of what its sampler draws."""
        pairs = zip(self.seeds, self.numbers, strict=True)
        return [generator(seed, STREAM, number) for seed, number in pairs]

    def noise(self, shape: tuple[int, ...], sources: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(shape, generator=source) for source in sources])


@dataclass(frozen=True, eq=False)
class Both:
    """The student, and its teacher of so many steps of DDIM, each also with a second LoRA.

    Where the student is a LoRA, the teacher is the same pipeline with it switched off.
    """

    student: Student
    teacher: Any  # of diffusers
    teacher_steps: int
    own: tuple[str, ...]  # the student's adapters
    scale: float | None = None  # of the second LoRA; None: there is none

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of latents."""
        folder = self.student.folder
        side = self.size // folder.factor
        return folder.channels, side, side

    @property
    def size(self) -> int:
        """Side of a picture in pixels."""
        return self.student.task.size or self.student.folder.size

    @torch.no_grad()
    def of_student(self, rows: Rows, *, steps: int, style: bool = False) -> Tensor:
        """Its latents `[B, C, h, w]` in float32 on the CPU, by stock diffusers."""
        student, pipeline = self.student, self.student.pipeline
        self.choose(pipeline, self.own, style)
        sources = rows.sources()
        z = rows.noise(self.shape, sources).to(pipeline.dtype)
        is_flux = student.folder.family.name == "flux"
        options = {
            **call_options(student.folder, student.method, steps),
            "height": self.size,
            "width": self.size,
            "latents": pixel_unshuffle(z, 2).flatten(2).transpose(1, 2) if is_flux else z,
            "generator": sources,
            "output_type": "latent",
        }
        # The scheduler of flow matching draws from the global generator.
        with quiet(), fork_rng(rows.seeds[0], f"{STREAM} {rows.numbers[0]}", pipeline.device):
            x = pipeline(list(rows.texts), **options).images.float().cpu()
        if is_flux:
            sides = (self.shape[1] // 2, self.shape[2] // 2)
            x = pixel_shuffle(x.transpose(1, 2).unflatten(2, sides), 2)
        return _finite(x, f"the student in {steps} steps")

    @torch.no_grad()
    def of_teacher(self, rows: Rows, *, style: bool = False) -> Tensor:
        """The end of its own ODE from the same noise, with the run's guidance, likewise."""
        pipeline, folder, task = self.teacher, self.student.folder, self.student.task
        self.choose(pipeline, (), style)
        family = folder.family
        parts = {name: getattr(pipeline, name, None) for name in family.encoders}
        parts["config"] = folder.config
        texts = list(dict.fromkeys(rows.texts))
        null = {name: part[0] for name, part in family.null(parts, folder).items()}
        prompts = Prompts(family.encode(parts, texts), null, texts)
        guidance = folder.embedded_guidance
        if guidance is not None and task.embedded_guidance is not None:
            guidance = task.embedded_guidance
        own = getattr(pipeline, family.network)
        network = PipelineNetwork(family, own, prompts, guidance=guidance)
        plan = replace(task, teacher_steps=self.teacher_steps)
        z = rows.noise(self.shape, rows.sources()).to(pipeline.dtype).float()
        label = torch.tensor([texts.index(text) for text in rows.texts])
        with one_time(own):
            x = teacher_solver(folder, network, plan, pipeline.device)(z, label)
        return _finite(x.float().cpu(), f"the teacher in {self.teacher_steps} steps")

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """Latents as pictures `[B, 3, H, W]` in [-1, 1], by the VAE in float32."""
        folder, vae = self.student.folder, self.student.pipeline.vae
        x = latents / folder.scale + folder.shift
        return vae.decode(x.to(vae.device), return_dict=False)[0].clamp(-1, 1).float().cpu()

    def choose(self, pipeline: Any, own: tuple[str, ...], style: bool) -> None:
        """Switches the pipeline's LoRAs: the student's own, and the second where `style`."""
        names = [*own, *([STYLE] if style else [])]
        if names:
            pipeline.enable_lora()
            scales = [self.scale if name == STYLE else 1.0 for name in names]
            pipeline.set_adapters(names, scales)
        elif _adapters(pipeline):
            pipeline.disable_lora()


@contextmanager
def one_time(network: Any) -> Iterator[None]:
    """Inside, a network of diffusers is not told where it leads."""
    embedding = getattr(network, "end_embedding", None)
    if embedding is None:
        yield
        return
    embedding.active = False
    try:
        yield
    finally:
        embedding.active = True


@contextmanager
def open_both(
    student: Student, *, teacher_steps: int, stack: str | Path | None = None, scale: float = 1.0
) -> Iterator[Both]:
    """The student beside its teacher, and a second LoRA of diffusers' format on both.

    stack: its .safetensors file, or a folder with one. Afterwards the student is as it was before.
    Raises UserError.
    """
    require(teacher_steps >= 1, "teacher_steps", teacher_steps, "at least 1")
    pipeline = student.pipeline
    dtype = pipeline.vae.dtype
    own = tuple(sorted(_adapters(pipeline)))
    file = None if stack is None else _lora_file(Path(stack))
    teacher = pipeline
    if not own:
        teacher = stock_pipeline(student.folder, pipeline.dtype).to(pipeline.device)
    both = Both(student, teacher, teacher_steps, own, None if file is None else scale)
    try:
        if file is not None:
            for one in {id(part): part for part in (pipeline, teacher)}.values():
                _load(one, file)
        # Many autoencoders overflow in half precision.
        with quiet():
            pipeline.vae.to(torch.float32)
        yield both
    finally:
        with quiet():
            pipeline.vae.to(dtype)
        if STYLE in _adapters(pipeline):
            pipeline.delete_adapters(STYLE)
        both.choose(pipeline, own, False)


def _lora_file(path: Path) -> Path:
    """The file of a LoRA. Raises UserError where there is none, or several."""
    if path.is_file():
        require(path.suffix == ".safetensors", "stack", str(path), "a .safetensors file of a LoRA")
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        there = f"{len(files)} of them" if path.is_dir() else "no such file or folder"
        raise UserError(f"stack {path}: {there}: expected one .safetensors file of a LoRA")
    return files[0]


def _load(pipeline: Any, file: Path) -> None:
    before = len(_adapters(pipeline))
    try:
        with quiet():
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=STYLE, local_files_only=True
            )
    except Exception as error:  # diffusers, peft and safetensors have each their own
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise UserError(f"stack {file}: no LoRA of this pipeline: {reason}") from error
    if len(_adapters(pipeline)) == before:
        raise UserError(f"stack {file}: it changes no layer of this pipeline: expected its LoRA")


def _adapters(pipeline: Any) -> set[str]:
    """The names of all LoRAs that its parts have."""
    return {name for names in pipeline.get_list_adapters().values() for name in names}


def _finite(latents: Tensor, of: str) -> Tensor:
    if not bool(latents.isfinite().all()):
        raise UserError(
            f"latents of {of} hold NaN or infinity: with half-precision weights try fp32 or bf16"
        )
    return latents
