"""What long work tells while it runs.

The library speaks through this protocol and never prints; ``pipelines.console`` turns it into progress bars on a
terminal and plain lines elsewhere.
"""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """A listener. Every method returns at once and never raises."""

    def note(self, message: str) -> None:
        """One line a person wants to know: a decision, a reuse, a warning."""

    def advance(self, stage: str, done: int, total: int, unit: str) -> None:
        """``done`` of ``total`` (in ``unit``, such as "rows") of ``stage`` are finished."""

    def row(self, table: str, values: Mapping[str, object]) -> None:
        """A row of a table that grows, such as one epoch of training."""


class Silent:
    """A listener that ignores everything: for tests and for callers who do not watch."""

    def note(self, message: str) -> None:
        """Ignore."""

    def advance(self, stage: str, done: int, total: int, unit: str) -> None:
        """Ignore."""

    def row(self, table: str, values: Mapping[str, object]) -> None:
        """Ignore."""
