"""Fields by matplotlib, with colour bars, and pictures as tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

from fewstep.data.pictures.look import Look, Rows, are_paired
from fewstep.data.pictures.panels import (
    CHANNELS,
    Result,
    ends,
    how_many,
    left_out,
    sheet,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = 5  # of a row of fields
SIDE = 256  # pixels of a field, about

_MAP, _MISSING = "viridis", "#d0d0d0"


def fields(groups: Sequence[Rows], look: Look) -> Result:
    """For each channel a row of each group's fields, all by the colour bar beside them."""
    arrays = [look.values(rows)[:IMAGES] for rows in groups]
    step = max(1, -(-max(arrays[0].shape[2:]) // SIDE))
    arrays = [x[:, :, ::step, ::step] for x in arrays]
    count = min(len(look.columns), CHANNELS)
    height, width = arrays[0].shape[2:]
    high = float(np.clip(1.3 * height / width, 0.4, 2.6))
    ratios = [1.0, 0.025]
    across = min(6.5, high * IMAGES * width / height)
    drawing, grid = sheet(
        count * len(groups), 2, (across, high), gap=(0.1, 0.18), right=0.7, ratios=ratios
    )
    for channel in range(count):
        low, top = ends(*(x[:, channel] for x in arrays))
        scale: Any = {"cmap": _MAP, "vmin": low, "vmax": top, "aspect": "auto"}
        rows = slice(channel * len(groups), (channel + 1) * len(groups))
        for k, x in enumerate(arrays):
            ax = drawing.add_subplot(grid[rows.start + k, 0])
            images = _row_of_images(ax, x[:, channel], scale)
            ax.set_ylabel(f"{short(look.columns[channel].name, 16)}\n{short(groups[k].name, 16)}")
        bar = drawing.colorbar(images, cax=drawing.add_subplot(grid[rows, 1]))
        bar.outline.set_visible(False)
    about = [how_many(rows, min(len(rows.x), IMAGES)) for rows in groups]
    about += left_out(look, CHANNELS, "channels")
    if len(look.shape) > 3:
        about.append(f"the middle of the axes between, of samples {look.shape}")
    if any(np.isnan(x).any() for x in arrays):
        about.append("grey: no value")
    if are_paired(groups, IMAGES):
        about.append("one below the other: same condition")
    return drawing, about


def _row_of_images(ax: Axes, x: np.ndarray, scale: dict[str, Any]) -> Any:
    """Fields `[n, H, W]` side by side, the first row of each on top."""
    height, width = x.shape[1:]
    step = 1.04 * width
    for k, image in enumerate(x):
        extent = (k * step, k * step + width, height, 0)
        ax.add_patch(_box(k * step, width, height))
        mappable = ax.imshow(image, extent=extent, interpolation="nearest", **scale)
    ax.set(xlim=(0, (IMAGES - 1) * step + width), ylim=(height, 0), xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return mappable


def _box(left: float, width: float, height: float) -> Any:
    """Grey below a field, seen where it has no value."""
    from matplotlib.patches import Rectangle

    return Rectangle((left, 0), width, height, color=_MISSING, linewidth=0, zorder=-1)


def tiles(groups: Sequence[Rows], look: Look) -> Result:
    """Pictures in [-1, 1], a row with its name for each group."""
    count = min(12, *(len(rows.x) for rows in groups)) if len(groups) > 1 else len(groups[0].x)
    x = torch.stack([(rows.x[:count].cpu().float().clamp(-1, 1) + 1) / 2 for rows in groups])
    x = pad(x, (0, 1, 0, 1), value=1.0).permute(0, 3, 1, 4, 2)  # white lines between
    lines, high, columns, wide, _ = x.shape
    cell = 6.4, 6.4 * lines * high / (columns * wide)
    drawing, grid = sheet(1, 1, cell, left=1.5)
    ax = drawing.add_subplot(grid[0, 0])
    picture = x.reshape(lines * high, columns * wide, -1).expand(-1, -1, 3)
    ax.imshow(picture.numpy(), interpolation="nearest")
    places = [(i + 0.5) * high for i in range(lines)]
    ax.set_yticks(places, [short(rows.name) for rows in groups])
    ax.set_xticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return drawing, [how_many(rows, count) for rows in groups]
