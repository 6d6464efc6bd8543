"""The networks by name: `NAME(shape, classes, **options) -> nn.Module` called as (x, noise_label, cond, masks).

shape: of one sample; classes: number of labels, 0 for none. A network that has a third parameter `features`
also takes float conditions, so many numbers a sample, and dicts with "label", "features" and "mask". The
imports are inside, so that reading the options needs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def mlp(
    shape: tuple[int, ...],
    classes: int = 0,
    features: int = 0,
    *,
    width: int = 256,
    depth: int = 4,
    dropout: float = 0.0,
) -> "nn.Module":
    """A residual network for vectors and tiny images, which it flattens.

    Args:
        width: units of a layer
        depth: residual blocks of two layers each
        dropout: probability of dropping a unit inside a block
    """
    from fewstep.networks.residual import ResidualMLP

    return ResidualMLP(shape, classes, features, width=width, depth=depth, dropout=dropout)
