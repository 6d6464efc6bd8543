"""NVIDIA's networks (EDM, EDM2, ECT, TCM, GC): their arguments as options of ours.

Sources: NVlabs/edm, NVlabs/edm2, locuslab/ect, NVlabs/TCM, thibautissenhuth/consistency_GC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fewstep.base.errors import UserError, short_repr


class Shaped(NamedTuple):
    """A network of ours by name, with what it is made with."""

    network: str
    shape: tuple[int, ...]
    classes: int
    options: dict[str, Any]
    label_drop: float = 0.0  # how often it was trained without its label
    ends: int = 0  # numbers that it takes of where it leads


# Their argument: our option, their default.
SONG: dict[str, tuple[str, Any]] = {
    "model_channels": ("width", 128),
    "channel_mult": ("mult", [1, 2, 2, 2]),
    "channel_mult_emb": ("emb_mult", 4),
    "num_blocks": ("blocks", 4),
    "attn_resolutions": ("attention", [16]),
    "dropout": ("dropout", 0.1),
    "augment_dim": ("augment", 0),
    "embedding_type": ("embedding", "positional"),
    "channel_mult_noise": ("noise_mult", 1),
    "encoder_type": ("encoder", "standard"),
    "decoder_type": ("decoder", "standard"),
    "resample_filter": ("taps", [1, 1]),
}
DHARIWAL: dict[str, tuple[str, Any]] = {
    **{name: SONG[name] for name in ("channel_mult_emb", "dropout", "augment_dim")},
    "model_channels": ("width", 192),
    "channel_mult": ("mult", [1, 2, 3, 4]),
    "num_blocks": ("blocks", 3),
    "attn_resolutions": ("attention", [32, 16, 8]),
}
EDM2: dict[str, tuple[str, Any]] = {
    "model_channels": ("width", 192),
    "channel_mult": ("mult", [1, 2, 3, 4]),
    "channel_mult_noise": ("mult_noise", None),
    "channel_mult_emb": ("mult_emb", None),
    "num_blocks": ("blocks", 3),
    "attn_resolutions": ("attention", [16, 8]),
    "channels_per_head": ("head_channels", 64),
    "label_balance": ("label_balance", 0.5),
    "concat_balance": ("concat_balance", 0.5),
    "res_balance": ("residual_balance", 0.3),
    "attn_balance": ("attention_balance", 0.3),
    "clip_act": ("clip", 256),
    "dropout": ("dropout", 0),
}
NETWORKS = {
    "SongUNet": ("song_unet", SONG),
    "DhariwalUNet": ("adm_unet", DHARIWAL),
    "UNet": ("edm2_unet", EDM2),
    "EDM2UNet": ("edm2_unet", {**EDM2, "dout_resolutions": ("dropout_resolutions", [16, 8])}),
}
# The network inside each of their wrappers, unless an argument names another.
WRAPPERS = {
    "VPPrecond": "SongUNet",
    "VEPrecond": "SongUNet",
    "iDDPMPrecond": "DhariwalUNet",
    "EDMPrecond": "DhariwalUNet",
    "ECMPrecond": "DhariwalUNet",
    "ConsistencyPrecond": "SongUNet",
    "Precond": "UNet",
}
# Defaults of the networks inside where they are others than EDM's.
DEFAULTS: dict[str, dict[str, Any]] = {"ConsistencyPrecond": {"attn_resolutions": []}}
# The wrappers' first arguments, which may have been passed without their names.
FIRST = ("img_resolution", "img_channels", "label_dim")
# Of the wrapper, of training, or in the weights themselves.
IGNORED = {
    "use_fp16", "sigma_min", "sigma_max", "sigma_data", "label_dropout", "beta_d", "beta_min", "M",
    "epsilon_t", "C_1", "C_2", "logvar_channels", "song_rescaling", "scale", "learnable_scale",
    "fourier_scale", "div_factor_cfunc",
}  # fmt: skip
# What theirs can do and ours cannot, by the value that is the same in both.
FIXED = {"emb_norm": False, "consistency": False, "resample_filter": [1, 1], "attn_type": "dot"}


def network_for(config: Mapping[str, Any], model_type: str | None = None) -> Shaped:
    """Our network for the arguments of their wrapper. Raises UserError for one that ours lacks.

    model_type: the network where the arguments do not name it.
    """
    arguments = dict(config)
    kind = arguments.pop("model_type", model_type or "DhariwalUNet")
    if kind not in NETWORKS:
        raise UserError(f"its network is {short_repr(kind)}: expected one of {', '.join(NETWORKS)}")
    network, names = NETWORKS[kind]
    try:
        side = int(arguments.pop("img_resolution"))
        shape = (int(arguments.pop("img_channels")), side, side)
    except (KeyError, TypeError, ValueError):
        raise UserError("it does not say the size of its images: say it, --shape 3,64,64") from None
    classes = int(arguments.pop("label_dim", 0) or 0)
    options = dict(names.values())
    for name, value in arguments.items():
        if name in names:
            options[names[name][0]] = value
        elif name == "attn_type" and value == "none":
            options["attention"] = []
        elif name not in IGNORED and FIXED.get(name, ...) != value:
            raise UserError(f"its network has {name} = {short_repr(value)}, which ours has not")
    if isinstance(options.get("blocks"), list | tuple):
        options |= {"level_blocks": list(options["blocks"]), "blocks": options["blocks"][0]}
    if isinstance(options.get("dropout"), list | tuple):
        options |= dropout_of_levels(options["dropout"], side)
    drop = arguments.get("label_dropout", 0)
    if not isinstance(drop, int | float) or not 0 <= drop < 1:
        raise UserError(f"its network has label_dropout = {short_repr(drop)}")
    return Shaped(network, shape, classes, _plain(options), float(drop))


def dropout_of_levels(values: Sequence[Any], side: int) -> dict[str, Any]:
    """GC's dropout, one for each resolution, as ours. Raises UserError for several unlike 0."""
    kinds = sorted({value for value in values if value})
    if len(kinds) > 1:
        raise UserError(f"its network has dropout = {short_repr(values)}, ours only one beside 0")
    sides = [side >> level for level, value in enumerate(values) if value]
    return {"dropout": kinds[0] if kinds else 0.0, "dropout_resolutions": sides}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of JSON's own types. Raises UserError."""
    result: dict[str, Any] = {}
    for name, value in options.items():
        values = list(value) if isinstance(value, list | tuple) else value
        for one in values if isinstance(values, list) else [values]:
            if not isinstance(one, int | float | str | None):
                raise UserError(f"its network was made with {name} = {short_repr(value)}")
        result[name] = values
    return result


def halve_outputs(weights: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Weights without the outputs of a learned variance."""
    ends = ("out_conv.weight", "out_conv.bias", "aux_conv.weight", "aux_conv.bias")
    return {n: one[:channels] if n.endswith(ends) else one for n, one in weights.items()}


def fold_scale(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """TCM's learned scale of the frequencies as part of them: 10 s in SongUNet, else e^s."""
    result = dict(weights)
    if "map_noise.scale" in result:
        result["map_noise.freqs"] = result["map_noise.freqs"] * result.pop("map_noise.scale") * 10
        return result, ("map_noise.scale (in the frequencies)",)
    if "emb_fourier.scale" in result:
        scale = result.pop("emb_fourier.scale").exp()
        result["emb_fourier.freqs"] = result["emb_fourier.freqs"] * scale
        return result, ("emb_fourier.scale (in the frequencies)",)
    return result, ()
