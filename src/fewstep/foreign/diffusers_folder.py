"""Folders that diffusers saved: a pipeline, or a network of its own, from JSON and safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.adapters.ready import CONSISTENCY, scheduler_convention
from fewstep.base.errors import StorageError, UserError, storage
from fewstep.base.json_file import MOST_JSON, document
from fewstep.core.conventions import Convention, convention
from fewstep.foreign.reading import read_foreign
from fewstep.foreign.recognised import Recognised, Said
from fewstep.foreign.tree import tensors_in
from fewstep.networks._diffusers import KINDS, classes_of, read_config, shape_of

INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
ENDS = ("safetensors", "fp16.safetensors", "bin", "fp16.bin")  # the first there is
BOUNDARY = 0.002  # sigma_min of a consistency model's scheduler where it names none


def is_diffusers(path: Path) -> bool:
    """Whether a folder is a pipeline or a network that diffusers saved, by its files alone."""
    return (path / INDEX).is_file() or (path / CONFIG).is_file()


def recognise_folder(path: Path, words: Said | None = None) -> Recognised:
    """The network in a folder of diffusers, and what its scheduler says of it.

    Raises UserError and StorageError.
    """
    words = words or Said()
    part, scheduler, pipeline = _parts(path)
    config = read_json(part / CONFIG)
    config = {
        name: value for name, value in config.items() if name in ("_class_name",) or name[0] != "_"
    }
    if words.shape is not None:
        config["sample_size"] = list(words.shape[1:])
    text = json.dumps(config)
    read_config(text)
    own, is_student, notes = _convention(scheduler, words, path)
    weights = {f"model.{name}": tensor.float() for name, tensor in _weights(part).items()}
    if "vae" in pipeline:
        notes += ("samples are latents: the pipeline's VAE stays where it is",)
    name = scheduler.get("_class_name", "no scheduler") if scheduler else "no scheduler"
    latents = " of latents" if "vae" in pipeline else ""
    return Recognised(
        kind=f"diffusers folder: {config['_class_name']}{latents} with {name}",
        network="diffusers",
        network_options={"config": text},
        shape=shape_of(config),
        classes=classes_of(config),
        convention=own,
        is_student=is_student,
        shift=float(scheduler.get("sigma_min", BOUNDARY)) if is_student and scheduler else 0.0,
        label_drop=0.1 if config["_class_name"].startswith("DiT") else 0.0,
        weights=weights,
        notes=notes,
    )


def _parts(path: Path) -> tuple[Path, dict[str, Any] | None, dict[str, Any]]:
    """The folder of the network, the scheduler's configuration, and the pipeline's index."""
    if not (path / INDEX).is_file():
        beside = path / SCHEDULER
        return path, read_json(beside) if beside.is_file() else _scheduler_above(path), {}
    pipeline = read_json(path / INDEX)
    kinds = {name: value[1] for name, value in pipeline.items() if _is_part(value)}
    names = [name for name, kind in kinds.items() if kind in KINDS]
    if len(names) != 1:
        others = ", ".join(f"{name} ({kind})" for name, kind in sorted(kinds.items()))
        raise UserError(
            f"{path}: a pipeline of {others}: expected one network among {', '.join(KINDS)}"
        )
    scheduler = path / "scheduler" / SCHEDULER
    return path / names[0], read_json(scheduler) if scheduler.is_file() else None, pipeline


def _scheduler_above(path: Path) -> dict[str, Any] | None:
    """The scheduler of the pipeline whose network this folder is."""
    scheduler = path.parent / "scheduler" / SCHEDULER
    is_part = (path.parent / INDEX).is_file() and scheduler.is_file()
    return read_json(scheduler) if is_part else None


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that diffusers wrote. Raises StorageError."""
    with storage(f"{path} cannot be read"), path.open("rb") as file:
        values = document(file.read(MOST_JSON + 1), path)
    if not isinstance(values, dict):
        raise StorageError(f"{path} holds no JSON object: expected what diffusers wrote")
    return values


def _convention(
    scheduler: Mapping[str, Any] | None, words: Said, path: Path
) -> tuple[Convention, bool, tuple[str, ...]]:
    """What the network predicts, whether it is a consistency model, and notes."""
    if words.prediction is not None:
        own = convention(
            words.prediction,
            words.process or "ddpm",
            label=words.label,
            sigma_data=words.sigma_data,
        )
        return own, bool(words.is_student), ("what it predicts is what was typed",)
    if scheduler is None:
        raise UserError(
            f"{path}: a network without a scheduler: say what it predicts, such as --prediction eps"
            " --process ddpm"
        )
    is_student = words.is_student
    if is_student is None:
        is_student = scheduler.get("_class_name") == CONSISTENCY
    return scheduler_convention(scheduler), is_student, ()


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a network's folder, in one file or several. Raises UserError, StorageError."""
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if index.is_file():
        names = set(map(str, read_json(index).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise StorageError(f"{index} names files outside of its folder")
        files = [folder / name for name in sorted(names)]
    else:
        files = [folder / f"{WEIGHTS}.{end}" for end in ENDS]
        files = [file for file in files if file.is_file()][:1]
    if not files:
        raise UserError(
            f"{folder}: no {WEIGHTS}.safetensors: expected a folder that save_pretrained wrote"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:  # a .bin file is a pickle: read by a process that runs nothing
        tensors |= dict(tensors_in(read_foreign(file).root))
    return tensors
