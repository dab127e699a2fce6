"""What every source offers: its classes, its rows in units, and a digest of its listing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class RawImage:
    """One row as the source has it.

    Attributes:
        id: Unique in the source; see DESIGN.md, "Words", for each kind.
        uri: Where the row came from, for people.
        label: Index into the source's class names.
        pixels: uint8 H x W (gray) or H x W x 3 (RGB).
    """

    id: str
    uri: str
    label: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Unit:
    """A run of rows that one task reads: rows ``start`` to ``stop`` (exclusive) of the listing."""

    number: int
    start: int
    stop: int


class Source(Protocol):
    """A source is small and can be sent to workers; it holds no pixels."""

    @property
    def class_names(self) -> Sequence[str]:
        """Class names in the order of the labels."""

    @property
    def num_rows(self) -> int:
        """Rows listed."""

    def digest(self) -> str:
        """SHA-256 of the listing and what identifies its content: the same input gives the same digest."""

    def read(self, unit: Unit) -> Iterator[RawImage]:
        """The rows of a unit, in listing order."""


def cut_units(num_rows: int, rows_per_unit: int) -> list[Unit]:
    """Cut a listing into units of at most ``rows_per_unit`` rows, in order, each row in one unit."""
    starts = range(0, num_rows, rows_per_unit)
    return [Unit(number, start, min(start + rows_per_unit, num_rows)) for number, start in enumerate(starts)]


def describe(source: Source) -> dict[str, Any]:
    """What the manifest says of a source's listing."""
    return {"digest": source.digest(), "rows": source.num_rows}
