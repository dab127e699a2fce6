"""How far a scored date is from the training data: the population stability index (PSI).

PSI = sum over bins of (actual - expected) x ln(actual / expected), over shares; see Siddiqi, "Credit Risk
Scorecards" (2006). By custom: below 0.1 stable, 0.1 to 0.25 worth a look, above 0.25 shifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_PIXEL_BINS = 16
_FLOOR = 1e-4
"""Share that an empty bin counts as, so that the logarithm exists."""


@dataclass(frozen=True)
class Drift:
    """The index of a date.

    Attributes:
        predictions: Of the predicted classes against the training classes.
        pixels: Of the pixel values, the largest over the channels.
    """

    predictions: float
    pixels: float


def drift(
    counts: Sequence[int],
    pixels: Sequence[Sequence[int]],
    reference_shares: Sequence[float],
    reference_pixels: Sequence[Sequence[int]],
) -> Drift:
    """Compare predictions and pixel values (channels x 256) with those of the training split."""
    channels = [psi(_bins(actual), _bins(expected)) for actual, expected in zip(pixels, reference_pixels, strict=True)]
    return Drift(psi(np.asarray(counts), np.asarray(reference_shares)), max(channels))


def psi(actual: np.ndarray, expected: np.ndarray) -> float:
    """The index of two histograms over the same bins; 0 where they have the same shares, or one is empty."""
    if actual.sum() == 0 or expected.sum() == 0:
        return 0.0
    share_actual = np.maximum(actual / actual.sum(), _FLOOR)
    share_expected = np.maximum(expected / expected.sum(), _FLOOR)
    return float(np.sum((share_actual - share_expected) * np.log(share_actual / share_expected)))


def _bins(histogram: Sequence[int]) -> np.ndarray:
    binned: np.ndarray = np.asarray(histogram).reshape(_PIXEL_BINS, -1).sum(axis=1)
    return binned
