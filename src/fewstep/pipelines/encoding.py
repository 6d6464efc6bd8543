"""Prompts to embeddings, by the pipeline's own `encode_prompt`, on one without its other parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.pipelines.libraries import quiet

if TYPE_CHECKING:
    from fewstep.pipelines.folder import Folder

Parts = Mapping[str, Any]  # a folder's encoders by their names, as `Folder.encoders` gives them
# (parts, prompts, the folder's index, whether those of no prompt too, T5's number of tokens)
# -> tokens [N, L, D], those of no prompt, pooled [N, P] or None, those of no prompt
Encode = Callable[[Parts, list[str], Mapping[str, Any], bool, int | None], tuple[Any, ...]]


@torch.no_grad()
def embeddings(
    own: Encode, parts: Parts, prompts: Sequence[str], length: int | None = None
) -> dict[str, Tensor]:
    """What `Family.encode` says."""
    with quiet(warns=True):
        tokens, _, summary, _ = own(parts, list(prompts), {}, False, length)
    return _rows(tokens, summary)


@torch.no_grad()
def no_embeddings(
    own: Encode, parts: Parts, folder: Folder, length: int | None = None
) -> dict[str, Tensor]:
    """What `Family.null` says."""
    with quiet(warns=True):
        _, tokens, _, summary = own(parts, [""], folder.index, True, length)
    return _rows(tokens, summary)


def _rows(tokens: Tensor, summary: Tensor | None) -> dict[str, Tensor]:
    rows = {"tokens": tokens.cpu()}
    return rows if summary is None else rows | {"pooled": summary.cpu()}


def of_sd(
    parts: Parts, prompts: list[str], index: Mapping[str, Any], guides: bool, length: int | None
) -> tuple[Any, ...]:
    from diffusers import StableDiffusionPipeline

    _refuse(length)
    pipeline = StableDiffusionPipeline(
        **_encoders(parts, ""),
        vae=None,
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return *pipeline.encode_prompt(prompts, _place(parts), 1, guides), None, None


def of_sdxl(
    parts: Parts, prompts: list[str], index: Mapping[str, Any], guides: bool, length: int | None
) -> tuple[Any, ...]:
    from diffusers import StableDiffusionXLPipeline

    _refuse(length)
    pipeline = StableDiffusionXLPipeline(
        **_encoders(parts, "", "_2"),
        vae=None,
        unet=None,
        scheduler=None,
        force_zeros_for_empty_prompt=index.get("force_zeros_for_empty_prompt", True),
        add_watermarker=False,
    )
    return pipeline.encode_prompt(prompts, device=_place(parts), do_classifier_free_guidance=guides)


class _Outline:
    """In place of a network of which a pipeline only looks at the configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = SimpleNamespace(**config)


def of_sd3(
    parts: Parts, prompts: list[str], index: Mapping[str, Any], guides: bool, length: int | None
) -> tuple[Any, ...]:
    from diffusers import StableDiffusion3Pipeline

    # A folder without T5 has zeros of the network's width in its place.
    pipeline = StableDiffusion3Pipeline(
        **_encoders(parts, "", "_2", "_3"),
        vae=None,
        transformer=_Outline(parts["config"]),
        scheduler=None,
    )
    return pipeline.encode_prompt(
        prompts,
        None,
        None,
        device=_place(parts),
        do_classifier_free_guidance=guides,
        **_most(length),
    )


def of_flux(
    parts: Parts, prompts: list[str], index: Mapping[str, Any], guides: bool, length: int | None
) -> tuple[Any, ...]:
    """No prompt is the empty one, which is what a user of FLUX guides away from."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline(
        **_encoders(parts, "", "_2"), vae=None, transformer=None, scheduler=None
    )
    tokens, summary, _ = pipeline.encode_prompt(prompts, device=_place(parts), **_most(length))
    return tokens, tokens, summary, summary


def _encoders(parts: Parts, *ends: str) -> dict[str, Any]:
    kinds = ("tokenizer", "text_encoder")
    return {f"{kind}{end}": parts[f"{kind}{end}"] for end in ends for kind in kinds}


def _place(parts: Parts) -> torch.device:
    """Where the encoders are."""
    return next(parts["text_encoder"].parameters()).device


def _refuse(length: int | None) -> None:
    require(length is None, "length", length, "None: CLIP's prompts have one length")


def _most(length: int | None) -> dict[str, int]:
    return {} if length is None else {"max_sequence_length": length}
