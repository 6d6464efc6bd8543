"""A folder that a pipeline's `save_pretrained` wrote: checked at once, parts loaded on demand."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewstep.adapters.ready import scheduler_convention
from fewstep.base.errors import StorageError, UserError, require
from fewstep.core.conventions import Convention
from fewstep.foreign.diffusers_folder import CONFIG, INDEX, SCHEDULER, read_json
from fewstep.networks.attention import make_derivable
from fewstep.pipelines.asking import GUIDANCE
from fewstep.pipelines.families import Family, family_of
from fewstep.pipelines.libraries import classes, need_libraries, quiet

FLUX_SIDE = 128  # of the latents by default, which its configuration does not name
PATCH = 4  # latents that are one token of FLUX


@dataclass(frozen=True, eq=False)
class Folder:
    """A pipeline on the disk. Latents of the network are (latents of the VAE - shift) * scale."""

    path: Path
    family: Family
    index: Mapping[str, Any]  # model_index.json
    config: Mapping[str, Any]  # of the network
    convention: Convention  # of the network, as the scheduler says
    scale: float
    shift: float
    channels: int  # of latents
    factor: int  # pixels per latent, each way
    size: int  # side of a picture in pixels, by default
    embedded_guidance: float | None  # that the network takes as an input; None: it takes none

    @property
    def has_half_alone(self) -> bool:
        """Whether the network's weights are there in float16 alone."""
        return _variant(self.path / self.family.network) is not None

    def has(self, name: str) -> bool:
        """Whether the part is there; only those of `Family.optional` may be missing."""
        return _kind(self.index, name) is not None

    def load(
        self, name: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Any:
        """The part: a network in eval mode without gradients, or a tokenizer.

        Raises UserError for a part that there is not, StorageError for files that cannot be read.
        """
        need_libraries()
        require(name in self.family.parts, "part", name, f"one of {', '.join(self.family.parts)}")
        require(self.has(name), "part", name, f"one that {self.path} has")
        kind = self.family.parts[name]
        place = self.path / name
        options: dict[str, Any] = {"local_files_only": True}
        if kind.endswith("Tokenizer"):
            with quiet(), reading(place, kind):
                return classes()[kind].from_pretrained(place, **options)
        options |= {"use_safetensors": True, "variant": _variant(place)}
        if name.startswith("text_encoder"):  # of transformers, whose error only names a report
            options |= {"dtype": dtype, "ignore_mismatched_sizes": True}
        else:
            options |= {"torch_dtype": dtype}
        with quiet(), reading(place, kind):
            part, info = classes()[kind].from_pretrained(place, output_loading_info=True, **options)
        for what in ("missing", "mismatched"):
            names = sorted(map(str, info[f"{what}_keys"]))
            if names:
                raise StorageError(f"{place}: {len(names)} weights are {what}, as {names[0]}")
        if name == self.family.network:
            make_derivable(part)
        return part.eval().requires_grad_(False).to(device)

    @contextmanager
    def encoders(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Iterator[Mapping[str, Any]]:
        """What `Family.encode` and `Family.null` take, loaded inside and gone afterwards."""
        parts: dict[str, Any] = {"config": self.config}
        try:
            for name in self.family.encoders:
                parts[name] = self.load(name, dtype, device) if self.has(name) else None
            yield parts
        finally:
            parts.clear()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def open_folder(path: str | Path, embedded_guidance: float | None = None) -> Folder:
    """The pipeline in a folder, by its JSON alone. Raises UserError and StorageError.

    embedded_guidance: that a network gets as an input, where it takes one; 3.5 by default.

    So for a folder that is no pipeline, a pipeline of another class, a missing part, a network that
    takes more than latents, and where the extra is not installed.
    """
    need_libraries()
    path = Path(path)
    if not (path / INDEX).is_file():
        raise UserError(
            f"{path}: no {INDEX} there: expected the folder of a pipeline, as save_pretrained or"
            " a download of all its files writes it"
        )
    index = read_json(path / INDEX)
    try:
        family = family_of(index)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for name, kind in family.parts.items():
        _check_part(path, index, name, kind, name in family.optional)
    config, vae = (read_json(path / name / CONFIG) for name in (family.network, "vae"))
    require(_kind(index, "scheduler") is not None, "scheduler", None, f"one in {path}")
    channels = _number(path, vae, "latent_channels", 4)
    _check_inputs(path, family, config, vae, channels)
    factor = 2 ** (len(vae.get("block_out_channels") or (0,)) - 1)
    is_flux = family.name == "flux"
    return Folder(
        path=path,
        family=family,
        index=index,
        config=config,
        convention=scheduler_convention(read_json(path / "scheduler" / SCHEDULER)),
        scale=float(_number(path, vae, "scaling_factor", 0.18215)),
        shift=float(vae.get("shift_factor") or 0.0),
        channels=channels,
        factor=factor,
        size=factor * (FLUX_SIDE if is_flux else _number(path, config, "sample_size", 64)),
        embedded_guidance=_guidance(config, embedded_guidance),
    )


def _guidance(config: Mapping[str, Any], own: float | None) -> float | None:
    """What a network gets as its guidance, None where it takes none. Raises UserError."""
    takes_one = bool(config.get("guidance_embeds"))
    need = "none: the network takes no guidance as an input"
    require(takes_one or own is None, "embedded_guidance", own, need)
    return (GUIDANCE if own is None else own) if takes_one else None


def _kind(index: Mapping[str, Any], name: str) -> str | None:
    """The class of a part by the index, None where there is no such part."""
    value = index.get(name)
    return value[1] if isinstance(value, list) and len(value) == 2 else None


def _check_part(
    path: Path, index: Mapping[str, Any], name: str, kind: str, is_optional: bool
) -> None:
    """Raises UserError where a part is missing or of another class."""
    own = _kind(index, name)
    if own is None and is_optional:
        return
    if own is None or not (path / name).is_dir():
        raise UserError(f"{path}: no part {name}: expected a folder {name} with a {kind}")
    # The tokenizers' fast classes are the plain ones by another name.
    if own.removesuffix("Fast") != kind:
        raise UserError(f"{path}: {name} is a {own}: expected a {kind}")


def _check_inputs(
    path: Path, family: Family, config: Mapping[str, Any], vae: Mapping[str, Any], channels: int
) -> None:
    """Raises UserError for a network that does not map latents and a prompt to latents."""
    width = channels * (PATCH if family.name == "flux" else 1)
    inputs = _number(path, config, "in_channels", width)
    outputs = _number(path, config, "out_channels", inputs)
    if (inputs, outputs) != (width, width):
        raise UserError(
            f"{path}: a {family.network} from {inputs} channels to {outputs}: expected {width} and"
            f" {width}, a network of latents alone"
        )
    for name, values in (("time_cond_proj_dim", config), ("latents_mean", vae)):
        if values.get(name) is not None:
            raise UserError(f"{path}: {name} = {values[name]!r}: expected none, which is not known")


def _number(path: Path, config: Mapping[str, Any], name: str, default: float) -> Any:
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{path}: {name} = {value!r}: expected a number above 0")
    return value


def _variant(place: Path) -> str | None:
    """The ending of a part's weights where only those in float16 are there."""
    names = [file.name for file in place.glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


@contextmanager
def reading(place: Path, kind: str) -> Iterator[None]:
    """Inside, what a library says of files that it cannot read becomes one line."""
    try:
        yield
    except Exception as error:  # each library has its own, those of Rust among them
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise StorageError(f"{place} cannot be read as a {kind}: {reason}") from error
