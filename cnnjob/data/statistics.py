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
        planes = np.ascontiguousarray(images.transpose(1, 0, 2, 3)).reshape(images.shape[1], -1)
        return cls(np.stack([_count(plane) for plane in planes]))

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


def _count(plane: np.ndarray) -> np.ndarray:
    """Counts of uint8 values, int64 256: two at a time, since what counting costs is each number that is looked at."""
    even = len(plane) // 2 * 2
    pairs = np.bincount(plane[:even].view(np.uint16), minlength=LEVELS**2).reshape(LEVELS, LEVELS)
    odd = np.bincount(plane[even:], minlength=LEVELS)
    return np.asarray(pairs.sum(axis=0) + pairs.sum(axis=1) + odd, dtype=np.int64)


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
