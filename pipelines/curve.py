"""Two curves in a terminal: training and validation over the epochs, as lines of text."""

from collections.abc import Sequence

WIDTH, HEIGHT = 64, 12
_TRAIN, _VAL, _BOTH = "·", "●", "◉"


def draw(train: Sequence[float], val: Sequence[float], title: str) -> list[str]:
    """Draw them, below each other where they differ and as one where they do not.

    Args:
        train: A value for each epoch.
        val: The same of validation.
        title: What they are.

    Returns:
        At most 80 columns; nothing for fewer than two epochs, which make no curve.
    """
    if len(train) < 2:  # noqa: PLR2004 - a curve has two ends
        return []
    low, high = min(*train, *val), max(*train, *val)
    width = min(WIDTH, max(2 * len(train), 16))
    cells = [[" "] * width for _ in range(HEIGHT)]
    for column in range(width):
        for values, mark in ((train, _TRAIN), (val, _VAL)):
            value = _at(values, column / (width - 1))
            line = round((high - value) / (high - low) * (HEIGHT - 1)) if high > low else HEIGHT // 2
            cells[line][column] = _BOTH if cells[line][column] == _TRAIN else mark
    scale = {0: high, HEIGHT // 2: low + (high - low) * (1 - HEIGHT // 2 / (HEIGHT - 1)), HEIGHT - 1: low}
    lines = [f"{title}: {_TRAIN} training, {_VAL} validation, {_BOTH} both"]
    for number, row in enumerate(cells):
        label = f"{scale[number]:.4g}" if number in scale else ""
        lines.append(f"{label:>8} ┤{''.join(row)}".rstrip())
    last = f"epoch {len(train)}"
    lines.append(" " * 9 + "└" + "─" * width)
    lines.append(" " * 10 + "1" + last.rjust(width - 1))
    return lines


def _at(values: Sequence[float], share: float) -> float:
    """The value at a share of the way, on straight lines between the epochs."""
    place = share * (len(values) - 1)
    left = min(int(place), len(values) - 2)
    return values[left] + (values[left + 1] - values[left]) * (place - left)
