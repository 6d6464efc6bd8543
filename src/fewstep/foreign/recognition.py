"""`recognise`: which of our networks a foreign file holds, and its weights under our names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import networks
from fewstep.base.errors import UserError
from fewstep.base.options import checked_options, choose
from fewstep.base.randomness import fork_rng
from fewstep.core.conventions import convention
from fewstep.foreign.candidates import Candidate, pick, prefix_of
from fewstep.foreign.edm import (
    DEFAULTS,
    FIRST,
    WRAPPERS,
    Shaped,
    fold_scale,
    halve_outputs,
    network_for,
)
from fewstep.foreign.inference import infer
from fewstep.foreign.modules import Module
from fewstep.foreign.openai import Body, body_of, first_channels, infer_openai, reorder
from fewstep.foreign.recognised import Recognised, Said
from fewstep.foreign.tree import Tree, entries
from fewstep.foreign.wrappers import (
    DDPM_LABEL,
    SONG_LABEL,
    Asked,
    ask_by_class,
    ask_flow_map,
    override,
)
from fewstep.networks.ends import ends_in
from fewstep.networks.openai_weights import from_openai
from fewstep.networks.outline import WithoutMemory, at_most

MOST_TENSORS = 20_000  # of a network
CM_BOUNDARY = 0.002  # the boundary of consistency models (CM, iCT, GC)
SHOWN = 40  # names that are not taken; of more the beginnings


def recognise(tree: Tree, words: Said | None = None) -> Recognised:
    """The network in a file, with its weights in float32 under our names.

    Raises UserError, which names the option, where the file leaves open what it is; network is None
    for weights of no known kind where the user names none.
    """
    words = Said() if words is None else words
    candidate, notes = pick(tree, words.part)
    if words.network is not None:
        return as_said(candidate, words, notes)
    place = prefix_of(candidate.weights, words.part)
    if place is None:
        note = "a network of no known kind: name it by --network, where it is one of ours"
        return Recognised(
            kind=f"{tree.form}: weights of an unknown network",
            network=None,
            shape=words.shape or (),
            classes=words.classes or 0,
            is_student=bool(words.is_student),
            convention=override(Asked(convention()), words).convention,
            weights=candidate.weights,
            notes=(*notes, note),
        )
    family, prefix = place
    if family == "openai":
        return of_openai(tree, candidate, prefix, words, notes)
    return of_nvidia(tree, candidate, family, prefix, words, notes)


# NVIDIA's networks.


def of_nvidia(
    tree: Tree, candidate: Candidate, family: str, prefix: str, words: Said, notes: list[str]
) -> Recognised:
    """EDM's and EDM2's networks: by their arguments where these are in the file, else by shapes."""
    inside, left_out = within(candidate.weights, prefix)
    wrapper = wrapper_of(candidate.module)
    config = wrapper.arguments(FIRST) if wrapper else None
    if wrapper is not None and config is not None:
        own = network_for({**DEFAULTS.get(wrapper.name, {}), **config}, WRAPPERS[wrapper.name])
        kind = f"{tree.form}: {wrapper.name} of {own.network}"
    else:
        own = infer(family, inside)
        kind = f"{tree.form}: weights of {family.upper()}'s {own.network}"
        notes.append("the network by the shapes of its weights, without dropout")
        if own.network == "edm2_unet" and "head_channels" not in words.network_options:
            notes.append("attention heads of 64 channels, as published models have")
    if wrapper is not None:
        manner = ask_by_class(wrapper.name, config or wrapper.attributes, own_buffers(wrapper))
    else:
        manner = ask_by_file(tree, candidate)
    if manner.convention.prediction == "eps":
        inside = halve_outputs(inside, own.shape[0])
        left_out += ("the learned variance",)
    inside, scales = fold_scale(inside)
    left_out += scales
    manner = override(manner, words)
    return finish(kind, own, inside, manner, words, (*notes, *manner.notes), left_out)


def wrapper_of(module: Module | None) -> Module | None:
    """The wrapper of a known class, itself or inside others (DDP, compiled)."""
    while module is not None and module.name not in WRAPPERS:
        inner = list(module.children())
        module = inner[0][1] if len(inner) == 1 else None
    return module


def own_buffers(module: Module) -> dict[str, Tensor]:
    buffers = entries(module.attributes.get("_buffers"))
    return {str(name): one for name, one in buffers.items() if isinstance(one, Tensor)}


def ask_by_file(tree: Tree, candidate: Candidate) -> Asked:
    """How a network without its wrapper is asked: as EDM's are, and GC's by what its file holds."""
    edm = convention("edm")
    note = "asked as EDM's networks are, with sigma_data 0.5 (--sigma-data)"
    if "training_step" in entries(tree.root) and "model_ema_state_dict" in entries(tree.root):
        text = "a consistency model with its boundary at 0.002, by the names in the file"
        return Asked(edm, is_student=True, shift=CM_BOUNDARY, notes=(note, text))
    table = next((w for n, w in candidate.weights.items() if f".{n}".endswith(".u")), None)
    if table is not None:
        return ask_by_class("iDDPMPrecond", {}, {"u": table})
    if any(name.startswith("logvar_linear") for name in candidate.weights):
        return Asked(edm, is_student=False, notes=(note,))
    return Asked(edm, is_student=None, notes=(note,))


# openai's networks.


def of_openai(
    tree: Tree, candidate: Candidate, prefix: str, words: Said, notes: list[str]
) -> Recognised:
    """The U-Nets of consistency models, guided and improved diffusion."""
    inside, left_out = within(candidate.weights, prefix)
    body = body_of(inside)
    own, guesses = infer_openai(body, words)
    notes += guesses
    has_variance = body.outputs == 2 * body.channels
    manner = ask_openai(Path(tree.path).name, body, has_variance, words)
    own = complete(own, words)
    with WithoutMemory(), at_most(MOST_TENSORS), fork_rng(0, "outline"):
        network: Any = build(own)
    if has_variance:
        inside = first_channels(inside, body.channels)
        left_out += ("the learned variance: channels of out.2",)
        order = words.attention_order or attention_order(body, notes)
        inside = reorder(inside, network) if order == "legacy" else inside
    elif words.attention_order == "legacy":
        inside = reorder(inside, network)
    weights = from_openai(network, inside)
    manner = override(manner, words)
    kind = f"{tree.form}: openai's U-Net, {manner.convention.prediction}-prediction"
    return finish(kind, own, weights, manner, words, (*notes, *manner.notes), left_out)


def ask_openai(name: str, body: Body, has_variance: bool, words: Said) -> Asked:
    """How openai's network is asked: by its outputs, and by the names of published files."""
    if not has_variance:
        edm = convention("edm", label=SONG_LABEL)
        for start, is_student in {"cd_": True, "ct_": True, "edm_": False}.items():
            if name.startswith(start):
                word = "a consistency model" if is_student else "a denoiser"
                notes = (f"{word}, by the name of the file ({start}...)",)
                return Asked(edm, is_student, CM_BOUNDARY if is_student else 0.0, notes)
        shift = CM_BOUNDARY if words.is_student else 0.0
        return Asked(edm, None, shift, ("asked as openai's consistency models are",))
    place = words.process
    if place is None and body.resample == "block":
        place = "ddpm-cosine" if body.mult == (1, 2, 3, 4) else "ddpm"
    if place is None:
        raise UserError(
            "its table of noise is not in the weights: say it, --process ddpm (linear betas) or"
            " ddpm-cosine"
        )
    word = "cosine" if place == "ddpm-cosine" else "linear"
    note = f"noise-prediction on 1000 {word} betas, as guided-diffusion publishes it"
    eps = override(Asked(convention()), Said(prediction="eps", process=place, label=DDPM_LABEL))
    return replace(eps, notes=() if words.process else (note,))


def attention_order(body: Body, notes: list[str]) -> str:
    """The order of q, k and v in guided-diffusion: the newer one in its model of 64x64 alone."""
    is_newer = body.mult == (1, 2, 3, 4) and body.resample == "block"
    order = "new" if is_newer else "legacy"
    notes.append(f"attention in the {order} order (--attention-order), as published models have it")
    return order


# Any network.


def as_said(candidate: Candidate, words: Said, notes: list[str]) -> Recognised:
    """The network that the user names, with the weights that have its names behind some prefix."""
    if words.shape is None:
        raise UserError(
            f"--network {words.network} also needs the shape of a sample: --shape 3,64,64"
        )
    own = Shaped(str(words.network), words.shape, words.classes or 0, {})
    names = list(outline_of(complete(own, words)))
    prefixes = {n.removesuffix(names[0]) for n in candidate.weights if n.endswith(names[0])}
    fits = [p for p in prefixes if all(f"{p}{name}" in candidate.weights for name in names)]
    if len(fits) > 1:
        fits = [p for p in fits if (words.part or "ema") in p] or [min(fits, key=len)]
    inside, left_out = within(candidate.weights, fits[0] if fits else "")
    own = own._replace(ends=ends_in(inside))
    manner = Asked(convention(), is_student=None)
    if own.ends:
        manner = ask_flow_map(own.ends, words, notes)
    manner = override(manner, words)
    kind = f"weights of {words.network}"
    return finish(kind, own, inside, manner, words, tuple(notes), left_out)


def within(weights: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(weights behind the prefix by the rest of their names, names of the others)."""
    inside = {n.removeprefix(prefix): one for n, one in weights.items() if n.startswith(prefix)}
    others = [name for name in weights if not name.startswith(prefix)]
    if len(others) > SHOWN:
        others = sorted({f"{name.partition('.')[0]}.*" for name in others})
    return inside, tuple(others)


def complete(own: Shaped, words: Said) -> Shaped:
    """The network with what the user says of it, all its options checked. Raises UserError."""
    factory = choose("network", networks, own.network)
    options = checked_options("network", factory, {**own.options, **words.network_options})
    classes = own.classes if words.classes is None else words.classes
    return own._replace(shape=words.shape or own.shape, classes=classes, options=options)


def build(own: Shaped) -> torch.nn.Module:
    ends = {"ends": own.ends} if own.ends else {}
    return choose("network", networks, own.network)(own.shape, own.classes, **own.options, **ends)


def outline_of(own: Shaped) -> dict[str, Tensor]:
    """The names, shapes and types of its weights, without memory for them."""
    with WithoutMemory(), at_most(MOST_TENSORS), fork_rng(0, "outline"):
        return build(own).state_dict()


def finish(
    kind: str,
    own: Shaped,
    weights: Mapping[str, Tensor],
    manner: Asked,
    words: Said,
    notes: Iterable[str],
    left_out: tuple[str, ...],
) -> Recognised:
    """The result, after its weights were compared with the network. Raises UserError."""
    own = complete(own, words)
    check(outline_of(own), weights, own.network)
    if manner.is_student is None:
        raise UserError(
            "the file does not say what its network gives: say --is-student true for a consistency"
            " model, false for a denoiser"
        )
    options = {n: list(v) if isinstance(v, tuple) else v for n, v in own.options.items()}
    return Recognised(
        kind=kind,
        network=own.network,
        network_options=options,
        shape=own.shape,
        classes=own.classes,
        convention=manner.convention,
        is_student=manner.is_student,
        ends=own.ends,
        shift=manner.shift,
        label_drop=own.label_drop,
        weights={name: plain(one) for name, one in weights.items()},
        left_out=left_out,
        notes=tuple(notes),
    )


def plain(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it holds numbers with a fraction."""
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor.contiguous()


def check(outline: Mapping[str, Tensor], weights: Mapping[str, Tensor], network: str) -> None:
    """Raises UserError with the first weight that is missing, too many or of another shape."""
    for name in sorted(outline.keys() | weights.keys()):
        here = tuple(weights[name].shape) if name in weights else None
        there = tuple(outline[name].shape) if name in outline else None
        if here != there:
            raise UserError(
                f"weight {name!r} is {here or 'none'} in the file and {there or 'none'} in"
                f" {network}: say the network's options (--network-options)"
            )
