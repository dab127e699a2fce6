"""Sums that merge: what each rank counts, and the figures of the whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964
"""Of a normal distribution 95 % lie within so many standard deviations."""


@dataclass(frozen=True)
class Tally:
    """Sums over rows.

    Attributes:
        loss_sum: Sum of the rows' losses.
        confusion: int64 classes x classes; row the true class, column the predicted one.
    """

    loss_sum: float
    confusion: np.ndarray

    @classmethod
    def zero(cls, num_classes: int) -> "Tally":
        """Of no row."""
        return cls(0.0, np.zeros((num_classes, num_classes), dtype=np.int64))

    def count(self, loss_sum: float, labels: np.ndarray, predicted: np.ndarray) -> "Tally":
        """With a batch of rows more."""
        classes = len(self.confusion)
        cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
        return Tally(self.loss_sum + loss_sum, self.confusion + cells.reshape(classes, classes))

    @property
    def rows(self) -> int:
        """Rows counted."""
        return int(self.confusion.sum())

    @property
    def loss(self) -> float:
        """Mean loss of a row; 0 where there is none."""
        return self.loss_sum / self.rows if self.rows else 0.0

    @property
    def accuracy(self) -> float:
        """Share of rows predicted right, 0 to 1; 0 where there is none."""
        return int(np.trace(self.confusion)) / self.rows if self.rows else 0.0


def merge(tallies: Sequence[Tally]) -> Tally:
    """The tally of all rows. Sums run in the order given, so ranks are passed in rank order: the same bits."""
    confusion = np.stack([tally.confusion for tally in tallies]).sum(axis=0)
    return Tally(sum(tally.loss_sum for tally in tallies), confusion)


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Where a share lies at 95 %, that was found in so many rows drawn at random: its lower and its upper end.

    The score interval of Wilson, "Probable inference, the law of succession, and statistical inference", 1927. It
    stays within 0 to 1, and is no single point where all rows were right.

    Args:
        share: 0 to 1.
        rows: At least 1.
    """
    center = (share + Z95**2 / (2 * rows)) / (1 + Z95**2 / rows)
    half = Z95 / (1 + Z95**2 / rows) * math.sqrt(share * (1 - share) / rows + Z95**2 / (4 * rows**2))
    return max(0.0, center - half), min(1.0, center + half)
