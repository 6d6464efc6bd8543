"""The kinds of pipelines, each as a value: its parts, its prompts, how its network is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from fewstep.base.errors import UserError
from fewstep.pipelines import encoding
from fewstep.pipelines.asking import Rows, ask_flux, ask_sd3, ask_unet


@dataclass(frozen=True)
class Family:
    """What is the same in all pipelines of one kind.

    encode(encoders, prompts, length=None): "tokens" [N, L, D] and for all but sd "pooled" [N, P],
    on the CPU, exactly as the pipeline's `encode_prompt` gives them. length: L of T5's tokens, for
    sd3 and flux; None is the pipeline's default, 256 and 512.
    null(encoders, folder, length=None): the same of no prompt, one row, as guidance has it.
    ask(network, x, time, rows, micro): x `[B, C, h, w]`, the time `[B]` as the folder's convention
    labels it, rows of embeddings, and for sdxl `[B, 6]` micro-conditions -> the output, like x.
    rows["guidance"] `[B]` is the guidance that FLUX.1-dev's network takes as an input.
    """

    name: str
    pipeline: tuple[str, ...]  # names of classes in diffusers; the first is used to save
    network: str  # the part that denoises
    parts: Mapping[str, str]  # the class of each part that is used here
    encode: Callable[..., dict[str, Tensor]]
    null: Callable[..., dict[str, Tensor]]
    ask: Callable[[nn.Module, Tensor, Tensor, Rows, Tensor | None], Tensor]
    targets: tuple[str, ...]  # ends of the names of layers that LoRA changes by default
    blocks: tuple[str, ...]  # classes of the parts of the network that are computed again
    time: str  # the part of the network that embeds the time
    # Arguments of the pipeline's class beside its parts.
    options: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()  # parts that a folder may lack

    @property
    def encoders(self) -> tuple[str, ...]:
        """The parts that encode prompts."""
        return tuple(name for name in self.parts if name.startswith(("tokenizer", "text_encoder")))


def family_of(index: Mapping[str, Any]) -> Family:
    """The family of the class that a model_index.json names. Raises UserError for any other."""
    name = index.get("_class_name")
    for family in FAMILIES.values():
        if name in family.pipeline:
            return family
    names = ", ".join(family.pipeline[0] for family in FAMILIES.values())
    raise UserError(f"a pipeline of the class {name!r}: expected one of {names}")


# Direct CM's: attention, feed-forward, convolutions, time projections.
UNET_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "time_emb_proj",
)
# Attention and feed-forward, of pictures and of texts.
TRANSFORMER_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff_context.net.0.proj", "ff_context.net.2"),
)
# Smaller than the members of its lists, of which one is half of SDXL.
UNET_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
CLIP = {"tokenizer": "CLIPTokenizer", "text_encoder": "CLIPTextModel"}
CLIP_2 = {"tokenizer_2": "CLIPTokenizer", "text_encoder_2": "CLIPTextModelWithProjection"}
VAE = {"vae": "AutoencoderKL"}
# The parts that embed the time alone, before texts, sizes and guidance are added.
UNET_TIME, TRANSFORMER_TIME = "time_embedding", "time_text_embed.timestep_embedder"

_ALL = (
    Family(
        name="sd",
        pipeline=("StableDiffusionPipeline",),
        network="unet",
        parts={**CLIP, "unet": "UNet2DConditionModel", **VAE},
        options={
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        },
        encode=partial(encoding.embeddings, encoding.of_sd),
        null=partial(encoding.no_embeddings, encoding.of_sd),
        ask=ask_unet,
        targets=UNET_LAYERS,
        blocks=UNET_BLOCKS,
        time=UNET_TIME,
    ),
    Family(
        name="sdxl",
        pipeline=("StableDiffusionXLPipeline",),
        network="unet",
        parts={**CLIP, **CLIP_2, "unet": "UNet2DConditionModel", **VAE},
        options={"add_watermarker": False},
        encode=partial(encoding.embeddings, encoding.of_sdxl),
        null=partial(encoding.no_embeddings, encoding.of_sdxl),
        ask=ask_unet,
        targets=UNET_LAYERS,
        blocks=UNET_BLOCKS,
        time=UNET_TIME,
    ),
    Family(
        name="sd3",
        pipeline=("StableDiffusion3Pipeline",),
        network="transformer",
        parts={
            "tokenizer": "CLIPTokenizer",
            "text_encoder": "CLIPTextModelWithProjection",
            **CLIP_2,
            "tokenizer_3": "T5Tokenizer",
            "text_encoder_3": "T5EncoderModel",
            "transformer": "SD3Transformer2DModel",
            **VAE,
        },
        encode=partial(encoding.embeddings, encoding.of_sd3),
        null=partial(encoding.no_embeddings, encoding.of_sd3),
        ask=ask_sd3,
        targets=TRANSFORMER_LAYERS,
        blocks=("JointTransformerBlock",),
        time=TRANSFORMER_TIME,
        optional=("tokenizer_3", "text_encoder_3"),
    ),
    Family(
        name="flux",
        pipeline=("FluxPipeline",),
        network="transformer",
        parts={
            **CLIP,
            "tokenizer_2": "T5Tokenizer",
            "text_encoder_2": "T5EncoderModel",
            "transformer": "FluxTransformer2DModel",
            **VAE,
        },
        encode=partial(encoding.embeddings, encoding.of_flux),
        null=partial(encoding.no_embeddings, encoding.of_flux),
        ask=ask_flux,
        # Its blocks of one stream have proj_mlp, and proj_out for attention and feed-forward.
        targets=(*TRANSFORMER_LAYERS, "proj_mlp", "proj_out"),
        blocks=("FluxTransformerBlock", "FluxSingleTransformerBlock"),
        time=TRANSFORMER_TIME,
    ),
)
FAMILIES = {family.name: family for family in _ALL}
