"""The receipts of a job as they come in, and their sums: what is checked and published when all are there.

A receipt comes with some 10 KB of pixel counts. They are added up here and let go, so that a hundred thousand units
take the driver some 100 MB and not a gigabyte.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable

import numpy as np

from cnnjob.data.statistics import LEVELS
from cnnjob.schema import REASON
from cnnjob.scoring.work import Receipt


class Ledger:
    """Receipts without their counts, and what the counts add up to.

    Attributes:
        counts: int64, rows by predicted class.
        pixels: int64 channels x 256, counts of pixel values over a sample of rows.
    """

    def __init__(self, num_classes: int, channels: int, receipts: Iterable[Receipt] = ()) -> None:
        self._by_unit: dict[str, Receipt] = {}
        self.counts = np.zeros(num_classes, dtype=np.int64)
        self.pixels = np.zeros((channels, LEVELS), dtype=np.int64)
        for receipt in receipts:
            self.add(receipt)

    def add(self, receipt: Receipt) -> None:
        """Take in the receipt of a unit that has none yet."""
        self.counts += np.asarray(receipt.counts)
        self.pixels += np.asarray(receipt.pixels)
        self._by_unit[receipt.unit] = dataclasses.replace(receipt, counts=[], pixels=[])

    def __len__(self) -> int:
        return len(self._by_unit)

    def of(self, unit: str) -> Receipt | None:
        """The receipt of the unit of this name."""
        return self._by_unit.get(unit)

    def in_order(self) -> list[Receipt]:
        """All receipts, in the order of the plan."""
        return sorted(self._by_unit.values(), key=lambda receipt: receipt.number)

    @property
    def rows(self) -> int:
        """Rows scored."""
        return sum(receipt.rows for receipt in self._by_unit.values())

    @property
    def refused(self) -> dict[str, int]:
        """Rows refused, by reason."""
        reasons = (row[REASON] for receipt in self._by_unit.values() for row in receipt.refused)
        return dict(sorted(Counter(reasons).items()))
