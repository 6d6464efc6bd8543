"""Networks of the package diffusers, built from their configuration and called as ours are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.base.conditions import NO_LABEL, Cond
from fewstep.base.errors import UserError, require
from fewstep.networks.attention import make_derivable, written_out

KINDS = ("UNet2DModel", "DiTTransformer2DModel")
MOST = 2**31  # of a number in a configuration


def read_config(text: str) -> dict[str, Any]:
    """The configuration in a JSON text. Raises UserError for a class that is not one of `KINDS`."""
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict) or config.get("_class_name") not in KINDS:
        name = config.get("_class_name") if isinstance(config, dict) else text[:60]
        raise UserError(
            f"config of {name!r}: expected the config.json of a diffusers network, as text, whose"
            f" _class_name is {' or '.join(KINDS)}"
        )
    return config


def shape_of(config: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a sample. Raises UserError where the configuration names none."""
    sides = config.get("sample_size")
    sides = [sides, sides] if isinstance(sides, int) else sides
    channels = config.get("in_channels")
    sizes = [channels, *sides] if isinstance(sides, list | tuple) else [None]
    if not all(type(size) is int and 0 < size < MOST for size in sizes) or len(sizes) != 3:
        raise UserError(
            f"config: in_channels = {channels!r}, sample_size = {config.get('sample_size')!r}:"
            " expected whole numbers: say the shape, such as --shape 3,32,32"
        )
    return tuple(int(size) for size in sizes if size is not None)


def classes_of(config: dict[str, Any]) -> int:
    """How many classes a network has, without the one that means none."""
    if config["_class_name"] == "DiTTransformer2DModel":
        return int(config.get("num_embeds_ada_norm") or 0)
    kind = config.get("class_embed_type")
    require(kind is None, "config: class_embed_type", kind, "None: labels are class numbers")
    return int(config.get("num_class_embeds") or 0)


class DiffusersNetwork(nn.Module):
    """A `UNet2DModel` or `DiTTransformer2DModel`: model(x, timestep, class_labels).sample.

    Of twice the channels, as DiT has, the second half is a variance and is left out. Its derivative
    under a jvp is true: attention is then written out, and norms have contiguous inputs.
    Needs the extra: pip install 'fewstep[diffusers]'.
    """

    def __init__(self, shape: tuple[int, ...], classes: int = 0, *, config: str) -> None:
        super().__init__()
        settings = read_config(config)
        own = shape_of({"sample_size": list(shape[1:]), **settings})
        fine = tuple(shape[:1]) == own[:1] and len(shape) == 3
        require(fine, "shape", tuple(shape), f"{own}, as the configuration has it")
        require(
            classes == classes_of(settings), "classes", classes, f"{classes_of(settings)}, likewise"
        )
        self.classes = classes
        self.has_null = settings["_class_name"] == "DiTTransformer2DModel"
        self.model = _build(settings)
        make_derivable(self.model)
        for module in self.model.modules():
            if type(module).__name__ == "Upsample2D" and _is_plain(module):
                module.__class__ = type("Upsample2D", (type(module),), {"forward": _double})
            if hasattr(module, "dropout_prob") and hasattr(module, "embedding_table"):
                # Labels are dropped by the run, not by the network.
                setattr(module, "dropout_prob", 0.0)  # noqa: B010 - torch types know no such field

    def forward(self, x: Tensor, noise_label: Tensor, cond: Cond = None) -> Tensor:
        labels = self._labels(x, cond)
        with written_out(x, noise_label):
            options = {} if labels is None else {"class_labels": labels}
            out: Tensor = self.model(x, noise_label, **options).sample
        return out[:, : x.shape[1]]

    def _labels(self, x: Tensor, cond: Cond) -> Tensor | None:
        """The labels as the network takes them. Raises UserError where it has none to take."""
        if not self.classes:
            return None
        label = cond.get("label") if isinstance(cond, Mapping) else cond
        if not isinstance(label, Tensor):
            label = torch.full((len(x),), NO_LABEL, device=x.device)
        is_none = label == NO_LABEL
        if not self.has_null and bool(is_none.any()):
            raise UserError("label -1: this network of diffusers has no index that means no label")
        return torch.where(is_none, self.classes, label)


def _build(settings: dict[str, Any]) -> nn.Module:
    """The network, with new weights. Raises UserError."""
    try:
        from diffusers import DiTTransformer2DModel, UNet2DModel
    except ImportError as error:
        raise UserError(
            "a network of diffusers needs that package: pip install 'fewstep[diffusers]'"
        ) from error
    kinds: dict[str, Any] = {one.__name__: one for one in (UNet2DModel, DiTTransformer2DModel)}
    options = {name: value for name, value in settings.items() if name[0] != "_"}
    try:
        model: nn.Module = kinds[settings["_class_name"]](**options)
    except (TypeError, ValueError, KeyError, ZeroDivisionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"config of {settings['_class_name']}: {reason}") from error
    return model


def _is_plain(module: Any) -> bool:
    """Whether an `Upsample2D` doubles the nearest pixels, and no more than convolves."""
    is_other = module.use_conv_transpose or module.norm is not None
    return bool(module.interpolate and not is_other)


def _double(module: Any, x: Tensor, output_size: Any = None) -> Tensor:
    """What an `Upsample2D` does, without asking for the size of the batch: a graph has any."""
    x = x.contiguous()
    if output_size is None:
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    else:
        x = nn.functional.interpolate(x, size=output_size, mode="nearest")
    if not module.use_conv:
        return x
    filters = module.conv if module.name == "conv" else module.Conv2d_0
    result: Tensor = filters(x)
    return result
