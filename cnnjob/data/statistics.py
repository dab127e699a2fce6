"""Exact statistics of uint8 images: counts of each pixel value, which add up without rounding.

Mean and standard deviation follow from the counts in exact integer arithmetic, rounded once at the end; so they
do not depend on how rows were grouped, ordered or spread, to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import numpy as np

LEVELS = 256
PIXEL_MAX = 255


@dataclass(frozen=True)
class PixelCounts:
    """How often each value occurs in each channel.

    Attributes:
        counts: int64 C x 256.
    """

    counts: np.ndarray

    @classmethod
    def zero(cls, channels: int) -> "PixelCounts":
        """Of no image."""
        return cls(np.zeros((channels, LEVELS), dtype=np.int64))

    @classmethod
    def of(cls, images: np.ndarray) -> "PixelCounts":
        """Of uint8 images N x C x H x W."""
        planes = images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
        return cls(np.stack([np.bincount(plane, minlength=LEVELS) for plane in planes]).astype(np.int64))

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(self.counts + other.counts)

    @property
    def mean(self) -> list[float]:
        """Of each channel, on the 0..1 scale; 0 where there are no pixels."""
        return [float(_mean(row) / PIXEL_MAX) for row in self.counts.tolist()]

    @property
    def std(self) -> list[float]:
        """Population standard deviation of each channel, on the 0..1 scale."""
        return [_sqrt(_variance(row)) / PIXEL_MAX for row in self.counts.tolist()]


def _mean(counts: Sequence[int]) -> Fraction:
    total = sum(counts)
    return Fraction(sum(value * count for value, count in enumerate(counts)), total) if total else Fraction(0)


def _variance(counts: Sequence[int]) -> Fraction:
    total = sum(counts)
    if not total:
        return Fraction(0)
    squares = Fraction(sum(value * value * count for value, count in enumerate(counts)), total)
    return squares - _mean(counts) ** 2


def _sqrt(value: Fraction) -> float:
    """Square root rounded once: integer root of the value scaled by 2**128."""
    return isqrt((value.numerator << 128) // value.denominator) / (1 << 64)
