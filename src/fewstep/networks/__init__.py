"""The networks by name: `NAME(shape, classes, **options) -> nn.Module`.

Each module is called as (x, noise_label, cond, masks, end). shape: of one sample; classes: number
of labels, 0 for none; features: of float conditions, how many numbers a sample has. cond is labels,
features, or a dict with "label", "features" and "mask" (False where a sample has no element): what
a factory takes of these is its `takes`. ends: how many numbers `end` `[B, ends]` tell a two-time
network where its answer leads (`fewstep.networks.ends`), 0 for a one-time network; before training
they change nothing.

A function here declares the options of a network, their defaults and their help, and names the
class that takes them. The class is imported when a network is built, so that reading options needs
no torch.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, ParamSpec

if TYPE_CHECKING:
    from torch import nn

P = ParamSpec("P")


def _factory(declaration: Callable[P, "type[nn.Module]"]) -> Callable[P, "nn.Module"]:
    """The declaration of a network's options as the function that builds it."""
    signature = inspect.signature(declaration)

    @functools.wraps(declaration)
    def build(*args: P.args, **options: P.kwargs) -> "nn.Module":
        network = declaration(*args, **options)
        call = signature.bind(*args, **options)
        call.apply_defaults()
        return network(*call.args, **call.kwargs)

    parts = ("label", "features", "mask")
    build.takes = parts if "features" in signature.parameters else parts[:1]  # type: ignore[attr-defined]
    build.__signature__ = signature.replace(return_annotation="nn.Module")  # type: ignore[attr-defined]
    return build


@_factory
def mlp(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    width: int = 256,
    depth: int = 4,
    dropout: float = 0.0,
    features_at: Literal["blocks", "both"] | None = None,
) -> "type[nn.Module]":
    """A residual network for vectors and tiny images, which it flattens.

    Args:
        width: units of a layer
        depth: residual blocks of two layers each
        dropout: probability of dropping a unit inside a block
        features_at: where float conditions enter: both is the first layer too; None is the blocks
    """
    from fewstep.networks._mlp import ResidualMLP

    return ResidualMLP


@_factory
def song_unet(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    width: int = 128,
    mult: tuple[int, ...] = (2, 2, 2),
    blocks: int = 4,
    level_blocks: tuple[int, ...] | None = None,
    attention: tuple[int, ...] = (16,),
    dropout: float = 0.13,
    dropout_resolutions: tuple[int, ...] | None = None,
    embedding: Literal["positional", "fourier"] = "positional",
    fourier_scale: float = 16.0,
    encoder: Literal["standard", "skip", "residual"] = "standard",
    decoder: Literal["standard", "skip"] = "standard",
    taps: tuple[int, ...] = (1, 1),
    noise_mult: int = 1,
    emb_mult: int = 4,
    augment: int = 0,
) -> "type[nn.Module]":
    """The U-Net of Song et al. as in EDM; by default DDPM++ for CIFAR-10, 55.7 M weights.

    For pictures and fields [C, H, W], both sides divisible by 2^(levels - 1). NCSN++ is
    embedding=fourier, encoder=residual, taps=(1, 3, 3, 1), noise_mult=2.

    Args:
        width: channels that the factors multiply
        mult: factor of the channels at each resolution, from the images' own down
        blocks: residual blocks of a resolution
        level_blocks: those of each resolution instead, as many numbers as mult has
        attention: resolutions, by height, with self-attention; the middle of the lowest has one too
        dropout: probability of dropping an entry inside a block
        dropout_resolutions: those, by height, whose blocks drop; None is all
        embedding: how the noise level enters: cosines of fixed or of random frequencies
        fourier_scale: standard deviation of the random ones (iCT: 0.02)
        encoder: whether the shrunk images join each resolution
        decoder: whether each resolution adds its own image to the result
        taps: of the filter that halves and doubles resolutions
        noise_mult: length of the noise features, in widths
        emb_mult: length of the embedding, in widths
        augment: length of augmentation labels, given by a dict condition with "augment"; EDM has 9
    """
    from fewstep.networks._song_unet import SongUNet

    return SongUNet


@_factory
def adm_unet(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    width: int = 192,
    mult: tuple[int, ...] = (1, 2, 3, 4),
    blocks: int = 3,
    attention: tuple[int, ...] = (32, 16, 8),
    dropout: float = 0.1,
    dropout_resolutions: tuple[int, ...] | None = None,
    head_channels: int = 64,
    heads: int | None = None,
    scale_shift: bool = True,
    resample: Literal["block", "conv"] = "block",
    group: int = 4,
    emb_mult: int = 4,
    augment: int = 0,
) -> "type[nn.Module]":
    """The U-Net of Dhariwal & Nichol (ADM); by default for ImageNet at 64x64, 296 M weights.

    For pictures and fields [C, H, W], both sides divisible by 2^(levels - 1).

    Args:
        width: channels that the factors multiply
        mult: factor of the channels at each resolution, from the images' own down
        blocks: residual blocks of a resolution
        attention: resolutions, by height, with self-attention
        dropout: probability of dropping an entry inside a block
        dropout_resolutions: those, by height, whose blocks drop; None is all (iCT: 16 and 8)
        head_channels: of an attention head; a layer with fewer has no attention
        heads: of every attention, instead of going by head_channels
        scale_shift: the embedding scales and shifts normalised features, or is added before
        resample: halve and double resolutions in residual blocks, or by single convolutions
        group: least number of channels that are normalised together, where 32 groups are too many
        emb_mult: length of the embedding, in widths
        augment: length of augmentation labels, given by a dict condition with "augment"; EDM has 9
    """
    from fewstep.networks._adm_unet import AdmUNet

    return AdmUNet


@_factory
def edm2_unet(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    width: int = 192,
    mult: tuple[int, ...] = (1, 2, 3, 4),
    mult_noise: int | None = None,
    mult_emb: int | None = None,
    blocks: int = 3,
    attention: tuple[int, ...] = (16, 8),
    head_channels: int = 64,
    label_balance: float = 0.5,
    concat_balance: float = 0.5,
    residual_balance: float = 0.3,
    attention_balance: float = 0.3,
    clip: float = 256.0,
    dropout: float = 0.0,
    dropout_resolutions: tuple[int, ...] | None = None,
) -> "type[nn.Module]":
    """EDM2's magnitude-preserving U-Net; by default EDM2-S, 280 M weights for ImageNet at 64x64.

    For pictures and fields [C, H, W], both sides divisible by 2^(levels - 1).

    Args:
        width: channels that the multipliers multiply
        mult: multipliers of the channels, one per resolution
        mult_noise: multiplier of the noise features; None is the first of mult
        mult_emb: multiplier of the embedding; None is the largest of mult
        blocks: blocks per resolution
        attention: resolutions, by height, whose blocks attend
        head_channels: channels of an attention head; where there are fewer, nothing attends
        label_balance: share of the class, and of the features, in the embedding
        concat_balance: share of the skip connection in a concatenation
        residual_balance: share of the branch in a residual sum
        attention_balance: share of the attention in its sum
        clip: largest activation
        dropout: probability of dropping an activation inside a block
        dropout_resolutions: those, by height, whose blocks drop; None is all (TCM: 16 and 8)
    """
    from fewstep.networks._edm2_unet import EDM2UNet

    return EDM2UNet


@_factory
def dit(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    patch: int | tuple[int, ...] = 2,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    mlp_ratio: float = 4.0,
    dropout: float = 0.0,
) -> "type[nn.Module]":
    """A diffusion transformer (adaLN-zero) for data of any shape; by default DiT-S/2.

    Series [C, L], pictures and fields [C, H, W], volumes: axes of any length, of which zeros fill
    the last patches.

    Args:
        patch: length of a token's patch, one number or one for each axis
        width: channels of a token
        depth: transformer blocks
        heads: attention heads of a block
        mlp_ratio: hidden channels of an MLP, in widths
        dropout: probability of dropping a hidden unit of an MLP
    """
    from fewstep.networks._dit import DiT

    return DiT


@_factory
def uvit(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    width: int = 256,
    mult: tuple[int, ...] = (1, 2, 4),
    blocks: tuple[int, ...] = (3, 3, 16),
    residual_stages: int = 1,
    head_channels: int = 64,
    mlp_ratio: float = 4.0,
    embedding: int = 1024,
    dropout: float = 0.2,
    dropout_stages: int = 1,
) -> "type[nn.Module]":
    """The UViT of Multistep Consistency Models; by default 394 M weights for ImageNet at 64x64.

    Args:
        width: channels that the multipliers multiply
        mult: multipliers of the channels, one per stage; the last stage is the middle
        blocks: blocks of each stage, down as up
        residual_stages: how many of the first stages have residual blocks; others: transformers
        head_channels: channels of an attention head
        mlp_ratio: hidden channels of a transformer's MLP, in widths
        embedding: channels of the embedding of noise label and class
        dropout: probability of dropping a hidden unit of a block
        dropout_stages: how many of the last stages drop; 1 is the middle alone
    """
    from fewstep.networks._uvit import UViT

    return UViT


@_factory
def unet(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    width: int = 48,
    mult: tuple[int, ...] = (1, 1, 1),
    blocks: int = 1,
    patch: int | tuple[int, ...] = 4,
    dropout: float = 0.0,
) -> "type[nn.Module]":
    """A U-Net for series, fields and volumes of any lengths; by default small enough for one CPU.

    The channels come first: no network sees which axis --channel-axis names.

    Args:
        width: channels that the factors multiply
        mult: factor of the channels at each resolution; from one to the next each axis halves
        blocks: residual blocks of a resolution, down as up
        patch: neighbours that enter together along an axis, one number or one for each
        dropout: probability of dropping an entry inside a block
    """
    from fewstep.networks._unet import UNet

    return UNet


@_factory
def set_transformer(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    ends: int = 0,
    *,
    width: int = 64,
    depth: int = 3,
    heads: int = 4,
    mlp_ratio: float = 2.0,
    dropout: float = 0.0,
) -> "type[nn.Module]":
    """A transformer for sets [L, C] of L elements at most, whose order means nothing.

    Smaller sets are padded and have a mask [L].

    Args:
        width: channels of an element
        depth: transformer blocks
        heads: attention heads of a block
        mlp_ratio: hidden channels of an MLP, in widths
        dropout: probability of dropping a hidden unit of an MLP
    """
    from fewstep.networks._set_transformer import SetTransformer

    return SetTransformer


@_factory
def diffusers(shape: tuple[int, ...], classes: int = 0, *, config: str = "") -> "type[nn.Module]":
    """A UNet2DModel or DiTTransformer2DModel of the package diffusers, with its own weights' names.

    `fewstep import FOLDER` and --teacher FOLDER make it of a folder that diffusers saved.

    Args:
        config: its config.json, as text
    """
    from fewstep.networks._diffusers import DiffusersNetwork

    return DiffusersNetwork
