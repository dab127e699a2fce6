"""How far a scored date is from the training data: the population stability index (PSI), and what of it is chance.

PSI = sum over bins of (actual - expected) x ln(actual / expected), over shares; see Siddiqi, "Credit Risk
Scorecards" (2006). By custom: below 0.1 stable, 0.1 to 0.25 worth a look, above 0.25 shifted. The custom is of large
samples: few rows are never 0, since which rows they are is chance (``by_chance``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri  # type: ignore[import-untyped]

_PIXEL_BINS = 16
_FLOOR = 1e-4
"""Share that an empty bin counts as, so that the logarithm exists; of few rows more, see ``_floor``."""
_CHANCE = 0.01
"""How often chance alone may exceed what is allowed for it."""


@dataclass(frozen=True)
class Counted:
    """What was counted of a date, or of the training split.

    Attributes:
        classes: Rows by class, or their shares.
        rows: How many rows these are of.
        pixels: Counts of pixel values, channels x 256.
        pictures: How many pictures these are of.
    """

    classes: Sequence[float]
    rows: int
    pixels: Sequence[Sequence[int]]
    pictures: int


@dataclass(frozen=True)
class Drift:
    """The index of a date, or the largest that is within bounds.

    Attributes:
        predictions: Of the predicted classes against the training classes.
        pixels: Of the pixel values, the largest over the channels.
    """

    predictions: float
    pixels: float


def drift(date: Counted, training: Counted) -> Drift:
    """Compare a date's predictions and pixel values with those of the training split."""
    predictions = psi(np.asarray(date.classes), np.asarray(training.classes), date.rows, training.rows)
    channels = [
        psi(_bins(actual), _bins(expected), date.pictures, training.pictures)
        for actual, expected in zip(date.pixels, training.pixels, strict=True)
    ]
    return Drift(predictions, max(channels))


def allowance(date: Counted, training: Counted) -> Drift:
    """What chance alone makes of both indexes, to be added to their bounds.

    Pixels of one picture depend on each other, so a picture counts as one row, however many pixels it has: as if they
    were all in one bin. They are in several, so pixels exceed this less often than predictions do.
    """
    return Drift(
        predictions=by_chance(date.rows, training.rows, len(training.classes)),
        pixels=by_chance(date.pictures, training.pictures, _PIXEL_BINS),
    )


def by_chance(rows: int, training_rows: int, bins: int) -> float:
    """The index that chance alone exceeds one time in a hundred, for two samples of one population.

    For n and m rows over B bins the index is distributed as about (1/n + 1/m) x chi-square with B - 1 degrees of
    freedom; see Yurdakul, "Statistical Properties of Population Stability Index" (2018). 0 where nothing is compared.
    """
    if not rows or not training_rows or bins == 1:
        return 0.0
    return (1 / rows + 1 / training_rows) * float(chdtri(bins - 1, _CHANCE))


def pictures(pixels: Sequence[Sequence[int]], height: int, width: int) -> int:
    """Of how many pictures pixel values were counted (channels x 256): each has one a pixel in every channel."""
    return sum(pixels[0]) // (height * width)


def psi(actual: np.ndarray, expected: np.ndarray, rows: int, training_rows: int) -> float:
    """The index of two histograms over the same bins; 0 where they have the same shares, or one is empty.

    Args:
        actual: Counts or shares of the date.
        expected: Counts or shares of the training split.
        rows: How many independent rows ``actual`` is of.
        training_rows: How many ``expected`` is of.
    """
    if actual.sum() == 0 or expected.sum() == 0:
        return 0.0
    share_actual, share_expected = actual / actual.sum(), expected / expected.sum()
    one = np.maximum(share_actual, _floor(share_expected, rows))
    other = np.maximum(share_expected, _floor(share_actual, training_rows))
    return float(np.sum((one - other) * np.log(one / other)))


def _floor(opposite: np.ndarray, rows: int) -> np.ndarray:
    """The least share that a bin counts as: half a row, but no more than the other side has in it.

    Of few rows many bins are empty by chance. At a fixed small share each would look like a shift: 12 rows of 10
    classes would exceed what ``by_chance`` allows on 63 nights of 100.
    """
    least: np.ndarray = np.maximum(_FLOOR, np.minimum(0.5 / rows, opposite))
    return least


def _bins(histogram: Sequence[int]) -> np.ndarray:
    binned: np.ndarray = np.asarray(histogram).reshape(_PIXEL_BINS, -1).sum(axis=1)
    return binned
