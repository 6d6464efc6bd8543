"""Tiny pipelines of diffusers' real classes for text to image, of random weights, made offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub is imported

import torch

NAMES = ("sd", "sd-v", "sdxl", "sd3", "flux")
SIDE = 8  # of the latents
CLIP_TOKENS = 12  # of a prompt; T5's are the pipelines' own 256 and 512
LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789,."


def build(
    name: str, folder: Path, *, seed: int = 0, side: int = SIDE, distilled: bool = False
) -> Path:
    """The folder, in which a pipeline of one of the NAMES now is; its VAE halves the sides once.

    distilled: of flux, a network that takes its guidance as an input, as FLUX.1-dev does.
    """
    pipeline = make(name, seed=seed, side=side, distilled=distilled)
    pipeline.save_pretrained(folder)
    return folder


def make(name: str, *, seed: int = 0, side: int = SIDE, distilled: bool = False) -> Any:
    """The pipeline itself, on the CPU in float32, with its networks in eval mode."""
    makers = {"sd": _sd, "sd-v": _sd_v, "sdxl": _sdxl, "sd3": _sd3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = _flux(side, distilled) if name == "flux" else makers[name](side)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(
        vocab=vocab, merges=[("c", "a"), ("ca", "t</w>")], model_max_length=CLIP_TOKENS
    )


def _clip(width: int, projection: bool = False) -> Any:
    """A text encoder of CLIP, two layers deep, since some pipelines read the last but one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    end = 2 * 256 + 3
    config = CLIPTextConfig(
        vocab_size=end + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=width,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "cat", *LETTERS.replace(" ", "")]
    vocab = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=CLIP_TOKENS)


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=64,
        d_model=width,
        d_kv=4,
        d_ff=2 * width,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def _vae(channels: int, scale: float, shift: float | None = None) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=channels,
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
        sample_size=2 * SIDE,
    )


def _unet(side: int, **options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )


# The noise of Stable Diffusion, in all its versions.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _sd(side: int, prediction: str = "epsilon") -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=_vae(4, 0.18215),
        text_encoder=_clip(8),
        tokenizer=_clip_tokenizer(),
        unet=_unet(side, cross_attention_dim=8, attention_head_dim=4),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd_v(side: int) -> Any:
    return _sd(side, "v_prediction")


def _sdxl(side: int) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    unet = _unet(
        side,
        cross_attention_dim=16,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4, 0.13025),
        text_encoder=_clip(8),
        text_encoder_2=_clip(8, projection=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def _sd3(side: int) -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    transformer = SD3Transformer2DModel(
        sample_size=side,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=8,
        pooled_projection_dim=16,
        pos_embed_max_size=2 * side,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, 1.5305, 0.0609),
        text_encoder=_clip(8, projection=True),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(8, projection=True),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5(16),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux(side: int, distilled: bool) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        guidance_embeds=distilled,
        axes_dims_rope=(2, 2, 4),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(16, 0.3611, 0.1159),
        text_encoder=_clip(8),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(16),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    )
