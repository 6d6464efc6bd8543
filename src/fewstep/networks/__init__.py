"""The networks by name: `NAME(shape, classes, **options) -> nn.Module` called as (x, noise_label, cond, masks).

shape: of one sample; classes: number of labels, 0 for none. The imports are inside, so that reading the
options needs no torch.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn


def mlp(
    shape: tuple[int, ...], classes: int = 0, *, width: int = 256, depth: int = 4, dropout: float = 0.0
) -> "nn.Module":
    """A residual network for vectors and tiny images, which it flattens.

    Args:
        width: units of a layer
        depth: residual blocks of two layers each
        dropout: probability of dropping a unit inside a block
    """
    from fewstep.networks.residual import ResidualMLP

    return ResidualMLP(shape, classes, width=width, depth=depth, dropout=dropout)


def song_unet(
    shape: tuple[int, ...],
    classes: int = 0,
    *,
    width: int = 128,
    mult: tuple[int, ...] = (2, 2, 2),
    blocks: int = 4,
    attention: tuple[int, ...] = (16,),
    dropout: float = 0.13,
    features: Literal["positional", "fourier"] = "positional",
    encoder: Literal["standard", "skip", "residual"] = "standard",
    decoder: Literal["standard", "skip"] = "standard",
    taps: tuple[int, ...] = (1, 1),
    noise_mult: int = 1,
    emb_mult: int = 4,
    augment: int = 0,
) -> "nn.Module":
    """The U-Net of Song et al. as in EDM; by default DDPM++ for CIFAR-10, 55.7 M weights.

    NCSN++ is features=fourier, encoder=residual, taps=1,3,3,1, noise_mult=2.

    Args:
        width: channels that the factors multiply
        mult: factor of the channels at each resolution, from the images' own down
        blocks: residual blocks of a resolution
        attention: resolutions with self-attention
        dropout: probability of dropping an entry inside a block
        features: how the noise level enters: cosines of fixed or of random frequencies
        encoder: whether the shrunk images join each resolution
        decoder: whether each resolution adds its own image to the result
        taps: of the filter that halves and doubles resolutions
        noise_mult: length of the noise features, in widths
        emb_mult: length of the embedding, in widths
        augment: length of the augmentation labels, 0 for none; EDM has 9
    """
    from fewstep.networks.song import SongUNet

    return SongUNet(
        shape,
        classes,
        width=width,
        mult=mult,
        blocks=blocks,
        attention=attention,
        dropout=dropout,
        features=features,
        encoder=encoder,
        decoder=decoder,
        taps=taps,
        noise_mult=noise_mult,
        emb_mult=emb_mult,
        augment=augment,
    )


def adm_unet(
    shape: tuple[int, ...],
    classes: int = 0,
    *,
    width: int = 192,
    mult: tuple[int, ...] = (1, 2, 3, 4),
    blocks: int = 3,
    attention: tuple[int, ...] = (32, 16, 8),
    dropout: float = 0.1,
    head_channels: int = 64,
    heads: int | None = None,
    scale_shift: bool = True,
    resample: Literal["block", "conv"] = "block",
    group: int = 4,
    emb_mult: int = 4,
    augment: int = 0,
) -> "nn.Module":
    """The U-Net of Dhariwal & Nichol (ADM); by default the one for ImageNet at 64x64, 296 M weights.

    Args:
        width: channels that the factors multiply
        mult: factor of the channels at each resolution, from the images' own down
        blocks: residual blocks of a resolution
        attention: resolutions with self-attention
        dropout: probability of dropping an entry inside a block
        head_channels: of an attention head; a layer with fewer has no attention
        heads: of every attention, instead of going by head_channels
        scale_shift: the embedding scales and shifts normalised features, or is added before
        resample: halve and double resolutions in residual blocks, or by single convolutions
        group: least number of channels that are normalised together, where 32 groups are too many
        emb_mult: length of the embedding, in widths
        augment: length of the augmentation labels, 0 for none; EDM has 9
    """
    from fewstep.networks.adm import AdmUNet

    return AdmUNet(
        shape,
        classes,
        width=width,
        mult=mult,
        blocks=blocks,
        attention=attention,
        dropout=dropout,
        head_channels=head_channels,
        heads=heads,
        scale_shift=scale_shift,
        resample=resample,
        group=group,
        emb_mult=emb_mult,
        augment=augment,
    )
