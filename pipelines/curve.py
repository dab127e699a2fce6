"""Two curves in a terminal: training and validation over the epochs, as lines of text."""

from collections.abc import Sequence
from math import isfinite

WIDTH, HEIGHT = 64, 12
_COLUMNS_AN_EPOCH = 5
_MARKS = " ·●◉"
"""Of a cell with neither curve, with that of training, of validation, of both."""


def draw(train: Sequence[float], val: Sequence[float], title: str) -> list[str]:
    """Draw them, below each other where they differ and as one where they do not.

    Args:
        train: A value for each epoch.
        val: The same of validation.
        title: What they are.

    Returns:
        At most 80 columns; nothing where there is no curve: fewer than two epochs, or a value that is not finite.
    """
    if len(train) < 2 or not all(map(isfinite, (*train, *val))):  # noqa: PLR2004 - a curve has two ends
        return []
    low, high = min(*train, *val), max(*train, *val)
    width = min(WIDTH, max(_COLUMNS_AN_EPOCH * len(train), 16))
    cells = [[0] * width for _ in range(HEIGHT)]
    for bit, values in ((1, train), (2, val)):
        lines = [_line(_at(values, column / (width - 1)), low, high) for column in range(width)]
        for column, (before, line) in enumerate(zip([lines[0], *lines], lines, strict=False)):
            # A steep curve is one stroke: what it passes in this column is drawn too.
            for passed in range(min(line, before + 1), max(line, before - 1) + 1):
                cells[passed][column] |= bit
    scale = {0: high, HEIGHT // 2: low + (high - low) * (1 - HEIGHT // 2 / (HEIGHT - 1)), HEIGHT - 1: low}
    drawn = [f"{title}: {_MARKS[1]} training, {_MARKS[2]} validation, {_MARKS[3]} both"]
    for number, row in enumerate(cells):
        label = f"{scale[number]:.3g}" if number in scale else ""
        drawn.append(f"{label:>8} ┤{''.join(_MARKS[cell] for cell in row)}".rstrip())
    last = f"epoch {len(train)}"
    drawn.append(" " * 9 + "└" + "─" * width)
    drawn.append(" " * 10 + "1" + last.rjust(width - 1))
    return drawn


def _line(value: float, low: float, high: float) -> int:
    """The line a value is on, 0 the uppermost."""
    return round((high - value) / (high - low) * (HEIGHT - 1)) if high > low else HEIGHT // 2


def _at(values: Sequence[float], share: float) -> float:
    """The value at a share of the way, on straight lines between the epochs."""
    place = share * (len(values) - 1)
    left = min(int(place), len(values) - 2)
    return values[left] + (values[left + 1] - values[left]) * (place - left)
