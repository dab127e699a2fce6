"""Sums that merge: what each rank counts, and the figures of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
