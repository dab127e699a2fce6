"""Pictures changed at random before each step: flipped, shifted, with a square cut out; on uint8, a batch at once.

What is drawn is a function of (seed, epoch, rank, step), so a restarted run sees the same pictures. What moves in from
outside, and what is cut out, is black.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from cnnjob.config.train import AugmentConfig
from cnnjob.training.feed import Batch

_PURPOSE = 1
"""Tells these draws from those of the order of rows, which have the same seed, epoch and rank."""


def augmented(
    batches: Iterable[Batch], config: AugmentConfig, *, seed: int, epoch: int, rank: int, first_step: int = 0
) -> Iterator[Batch]:
    """The batches, the first of them that of step ``first_step`` (0 on), changed; or as they are."""
    if config == AugmentConfig():
        yield from batches
        return
    for step, batch in enumerate(batches, start=first_step):
        generator = np.random.Generator(np.random.PCG64([seed, epoch, rank, _PURPOSE, step]))
        yield replace(batch, images=augment(batch.images, config, generator))


def augment(images: torch.Tensor, config: AugmentConfig, generator: np.random.Generator) -> torch.Tensor:
    """Change every picture of a batch by itself.

    Args:
        images: uint8 N x C x H x W.
        config: What may happen, and how much of it.
        generator: Draws the same for the same number of pictures, whatever their content.

    Returns:
        uint8 N x C x H x W, channels_last.
    """
    count, _, height, width = images.shape
    rows = torch.arange(height).expand(count, height)
    columns = torch.arange(width).expand(count, width)
    if config.flip:
        flipped = torch.from_numpy(generator.random(count) < 0.5)  # noqa: PLR2004 - a fair coin
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    if config.shift:
        moved = torch.from_numpy(generator.integers(-config.shift, config.shift, (count, 2), endpoint=True))
        rows, columns = rows + moved[:, :1], columns + moved[:, 1:]
    pad = config.shift
    padded = F.pad(images, (pad, pad, pad, pad)) if pad else images
    numbers = torch.arange(count)[:, None, None]
    # Indexed so, the channels come last: the layout that the net wants.
    changed = padded[numbers, :, (rows + pad)[:, :, None], (columns + pad)[:, None, :]]
    if config.cutout:
        changed = changed * _kept(count, height, width, config.cutout, generator)[..., None]
    return changed.permute(0, 3, 1, 2)


def _kept(count: int, height: int, width: int, side: int, generator: np.random.Generator) -> torch.Tensor:
    """uint8 N x H x W, 0 in a square of each picture (DeVries and Taylor, 2017: it may lie partly outside)."""
    center_y = torch.from_numpy(generator.integers(0, height, count))[:, None]
    center_x = torch.from_numpy(generator.integers(0, width, count))[:, None]
    inside_y = _within(torch.arange(height)[None] - center_y, side)
    inside_x = _within(torch.arange(width)[None] - center_x, side)
    return (~(inside_y[:, :, None] & inside_x[:, None, :])).to(torch.uint8)


def _within(offset: torch.Tensor, side: int) -> torch.Tensor:
    return (offset >= -(side // 2)) & (offset < side - side // 2)
