"""The table of a benchmark: sections of cases that take turns, figures of a round, their bars and their noise."""

import json
import operator
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

Figures = dict[str, float]
STEP_MFLOP = 9.6
"""Of training on an image with the default net on 3 x 32 x 32: 3.5 forward, twice that backward, less the first
convolution's gradient of its input."""


@dataclass(frozen=True)
class Bar:
    """A figure of the table: of one round's figures, and what it should be.

    Attributes:
        name: What it is.
        of: From the figures of all cases of a round, by name.
        bar: What it should be; None where it is only told.
        at_most: The bar is a ceiling.
    """

    name: str
    of: Callable[[dict[str, Figures]], float]
    bar: float | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Section:
    """Cases that take turns, and what is told of them."""

    cases: dict[str, Callable[[], Figures]]
    bars: Sequence[Bar]


@dataclass
class Row:
    """A line of the table."""

    section: str
    name: str
    bar: float | None
    at_most: bool
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.values)

    @property
    def noise(self) -> float:
        """Half of the distance between the largest and the smallest."""
        return (max(self.values) - min(self.values)) / 2

    @property
    def verdict(self) -> str:
        """Whether it is what it should be, as far as the noise lets one say."""
        if self.bar is None:
            return ""
        if (operator.le if self.at_most else operator.ge)(self.median, self.bar):
            return "ok"
        slack = -self.noise if self.at_most else self.noise
        return "within noise" if (self.median + slack >= self.bar) != self.at_most else "FAILS"


def measured(name: str, section: Section, rounds: int) -> list[Row]:
    """Do the rounds of a section."""
    rows = [Row(name, bar.name, bar.bar, bar.at_most) for bar in section.bars]
    for number in range(rounds):
        figures: dict[str, Figures] = {}
        for case, work in section.cases.items():
            sys.stderr.write(f"{name}, round {number + 1} of {rounds}: {case}\n")
            figures[case] = work()
            sys.stderr.write(f"    {', '.join(f'{key} {value:,.4g}' for key, value in figures[case].items())}\n")
        for row, bar in zip(rows, section.bars, strict=True):
            # A rough look leaves out cases, and with them the bars that need them.
            with suppress(KeyError):
                row.values.append(bar.of(figures))
    return [row for row in rows if row.values]


def table_of(rows: Sequence[Row]) -> Table:
    """The table for people."""
    table = Table("section", "figure", "median", "+-", "bar", "")
    for row in rows:
        bar = "" if row.bar is None else f"{'<=' if row.at_most else '>='} {row.bar:g}"
        table.add_row(row.section, row.name, f"{row.median:,.4g}", f"{row.noise:,.2g}", bar, row.verdict)
    return table


def keep(path: Path, section: str, rows: Sequence[Row]) -> None:
    """Put a section into ``bench.json``, beside those of earlier calls."""
    document = json.loads(path.read_text()) if path.exists() else {}
    document[section] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "rows": [{**asdict(r), "median": r.median, "verdict": r.verdict} for r in rows if r.section == section],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def figure(case: str, key: str) -> Callable[[dict[str, Figures]], float]:
    """A figure of a case."""
    return lambda figures: figures[case][key]


def ratio(key: str, above: str, below: str) -> Callable[[dict[str, Figures]], float]:
    """Of two cases' figures."""
    return lambda figures: figures[above][key] / figures[below][key]


def over_best(key: str, above: str, *below: str, below_key: str = "") -> Callable[[dict[str, Figures]], float]:
    """Of a case's rate and the largest of those of others that were measured."""
    other = below_key or key
    return lambda figures: figures[above][key] / max(figures[name][other] for name in below if name in figures)


def least(figures: dict[str, Figures], key: str, *cases: str) -> float:
    """The smallest of a figure of cases that were measured."""
    return min(figures[name][key] for name in cases if name in figures)


def ratio_within(case: str, above: str, below: str) -> Callable[[dict[str, Figures]], float]:
    """Of two figures of a case."""
    return lambda figures: figures[case][above] / figures[case][below]


def difference(key: str, left: str, right: str) -> Callable[[dict[str, Figures]], float]:
    """Of two cases' figures."""
    return lambda figures: figures[left][key] - figures[right][key]


def share_of(case: str) -> Callable[[dict[str, Figures]], float]:
    """Of the matrix peak of the same round."""
    return lambda figures: figures[case]["rate"] * STEP_MFLOP / 1e3 / figures["roof"]["gflops"]
