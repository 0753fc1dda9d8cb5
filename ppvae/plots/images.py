"""Grids of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.vision import torchvision

#: side of the smallest flat event that counts as an image without a given shape: four numbers rarely are one
_SMALLEST_IMAGE = 8


def is_image(event: Sequence[int]) -> bool:
    """Whether data of this event shape count as pictures: [H, W], [1 or 3, H, W], or flat and square, from 8×8 on."""
    return _image_shape(event) is not None and (len(event) > 1 or event[0] >= _SMALLEST_IMAGE**2)


def image_grid(x: Tensor, ax: Axes, columns: int = 8, shape: Sequence[int] | None = None) -> Axes:
    """Samples or reconstructions as a grid, row by row; black and white are 0 and 1, or the extremes of other values.

    Args:
        x: images [N, H, W], [N, 1 or 3, H, W], or flat ones, square where `shape` is None.
        columns: images in a row.
        shape: of one image.

    Raises:
        PpvaeError: x holds no images.
    """
    return _show_grid(_unit(_images(x, shape)), ax, columns)


def reconstructions(x: Tensor, recon: Tensor, ax: Axes, columns: int = 8, shape: Sequence[int] | None = None) -> Axes:
    """Rows of originals, each above the row of their reconstructions.

    Args:
        x, recon: the same number of images each, in a form that `image_grid` takes.

    Raises:
        PpvaeError: they hold no images, or are not of one shape.
    """
    if x.shape != recon.shape:
        raise PpvaeError(
            f"x {list(x.shape)} and recon {list(recon.shape)} differ: give the same number of images of one shape"
        )
    columns = min(require.count("columns", columns), len(x))
    both = _unit(_images(torch.cat([x.to(recon), recon]), shape))
    rows = math.ceil(len(x) / columns)
    blank = both.new_full((rows * columns - len(x), *both.shape[1:]), 0.5)
    paired = [torch.cat([half, blank]).unflatten(0, (rows, columns)) for half in both.chunk(2)]
    _show_grid(torch.stack(paired, 1).flatten(0, 2), ax, columns)
    step = both.shape[-2] + 1  # make_grid puts one pixel between images
    ax.set_yticks(
        [1 + (both.shape[-2] - 1) / 2 + step * row for row in range(2 * rows)],
        ["data", "reconstruction"] * rows,
        fontsize="small",
    )
    return ax


def _image_shape(event: Sequence[int]) -> tuple[int, ...] | None:
    """(channels, height, width) of an event, or None if it is not an image."""
    if len(event) == 1 and event[0] and math.isqrt(event[0]) ** 2 == event[0]:
        return 1, math.isqrt(event[0]), math.isqrt(event[0])
    if len(event) == 2:
        return 1, *event
    return tuple(event) if len(event) == 3 and event[0] in (1, 3) else None


def _images(x: Tensor, shape: Sequence[int] | None) -> Tensor:
    """x as images [N, C, H, W] on the CPU."""
    event = _image_shape(x.shape[1:] if shape is None else shape)
    if event is None or not len(x) or x[0].numel() != math.prod(event):
        given = "" if shape is None else f" of shape {list(shape)}"
        raise PpvaeError(
            f"{list(x.shape)} holds no images{given}: they are [N, H, W], [N, 1 or 3, H, W], or flat and square; else "
            "give shape=(H, W)"
        )
    return x.detach().cpu().float().reshape(-1, *event)


def unit_images(x: Tensor) -> Tensor:
    """x as images [N, C, H, W] from 0 to 1, as `image_grid` shows them.

    Raises:
        PpvaeError: x holds no images.
    """
    return _unit(_images(x, None))


def _unit(images: Tensor) -> Tensor:
    """The images scaled to 0 … 1 by their common extremes; unchanged if they already are in 0 … 1."""
    low, high = float(images.min()), float(images.max())
    return images if low >= 0 and high <= 1 else (images - low) / max(high - low, 1e-12)


def _show_grid(images: Tensor, ax: Axes, columns: int) -> Axes:
    columns = min(require.count("columns", columns), len(images))
    grid = torchvision().utils.make_grid(images, nrow=columns, padding=1, pad_value=0.5)
    ax.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest", vmin=0, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
