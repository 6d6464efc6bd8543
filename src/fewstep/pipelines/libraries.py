"""The libraries that pipelines need: whether they are there, their classes, their silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from logging import CRITICAL
from typing import Any

from fewstep.base.errors import UserError

NEEDS = ("diffusers", "transformers", "peft", "accelerate")


def need_libraries() -> None:
    """Raises UserError where one of the extra's libraries is missing."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise UserError(
            f"text to image needs {', '.join(missing)}: pip install 'fewstep[t2i]' brings"
            f" {'it' if len(missing) == 1 else 'them'}"
        )


def classes() -> dict[str, Any]:
    """The classes of all parts, by name: a folder's file can name no other."""
    from diffusers import (
        AutoencoderKL,
        FluxTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5EncoderModel,
        T5Tokenizer,
    )

    return {
        "AutoencoderKL": AutoencoderKL,
        "CLIPTextModel": CLIPTextModel,
        "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
        "CLIPTokenizer": CLIPTokenizer,
        "FluxTransformer2DModel": FluxTransformer2DModel,
        "SD3Transformer2DModel": SD3Transformer2DModel,
        "T5EncoderModel": T5EncoderModel,
        "T5Tokenizer": T5Tokenizer,
        "UNet2DConditionModel": UNet2DConditionModel,
    }


def classes_out() -> dict[str, Any]:
    """The pipelines and schedulers of diffusers that a student is sampled with, by name."""
    from diffusers import (
        DDIMScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        LCMScheduler,
        StableDiffusion3Pipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    return {
        "DDIMScheduler": DDIMScheduler,
        "EulerDiscreteScheduler": EulerDiscreteScheduler,
        "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
        "FluxPipeline": FluxPipeline,
        "LCMScheduler": LCMScheduler,
        "StableDiffusion3Pipeline": StableDiffusion3Pipeline,
        "StableDiffusionPipeline": StableDiffusionPipeline,
        "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
    }


@contextmanager
def quiet(warns: bool = False) -> Iterator[None]:
    """Inside, transformers and diffusers draw no bars and say nothing: they raise.

    So of names that get others in later versions. warns: diffusers does say such things as that a
    prompt is cut.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_transformers,) if warns else (of_transformers, of_diffusers)
    levels = [library.get_verbosity() for library in libraries]
    with_bars = [one for one in (of_transformers, of_diffusers) if one.is_progress_bar_enabled()]
    for library in with_bars:
        library.disable_progress_bar()
    for library in libraries:
        library.set_verbosity(CRITICAL)
    try:
        with warnings.catch_warnings():
            if not warns:  # names of options that change, a second LoRA
                warnings.filterwarnings("ignore", category=FutureWarning)
                warnings.filterwarnings("ignore", "Already found a `peft_config`")
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        for library in with_bars:
            library.enable_progress_bar()
