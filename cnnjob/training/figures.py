"""Pictures of a training, as PNG: the curves by epoch, and the test split's confusion, calibration and mistakes."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnjob.training.evaluation import BINS, Calibration, Mistake

_DPI = 110
_COLUMNS = 9
_FEWEST_COLUMNS = 4
"""So that the title fits above them."""
_MAX_LABELLED_CLASSES = 30
_NAME_CHARACTERS = 20
_TILE_CHARACTERS = 12


def curves(epochs: Sequence[Mapping[str, Any]], best_epoch: int) -> bytes:
    """Loss and accuracy of training and validation, by epoch; the best one is marked."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    numbers = [row["epoch"] for row in epochs]
    marker = "o" if len(epochs) == 1 else ""
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.axvline(best_epoch, color="tab:orange", linewidth=1, label=f"best: {best_epoch}")
        for part, color, style in (("train", "tab:gray", "--"), ("val", "tab:blue", "-")):
            axes.plot(
                numbers, [row[f"{part}_{quantity}"] for row in epochs], style, label=part, color=color, marker=marker
            )
        axes.set(xlabel="epoch", title=quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    return _png(figure)


def confusion(counts: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Rows of the test split by true class (down) and predicted class (across); shade by share of the true class.

    Up to 30 classes have their names and counts; of more, the axes have the numbers of the classes.
    """
    has_names = len(class_names) <= _MAX_LABELLED_CLASSES
    size = max(4.0, min(12.0, 0.5 * len(class_names)))
    figure = Figure(figsize=(size + 1, size + 1), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    what = "" if has_names else ", number of the class"
    axes.set(xlabel=f"predicted{what}", ylabel=f"true{what}", title=f"test split, {int(counts.sum()):,} rows")
    if has_names:
        names = [_plain(name, _NAME_CHARACTERS) for name in class_names]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if count > counts[row].sum() / 2 else "black"
                axes.text(column, row, _count(int(count)), ha="center", va="center", fontsize=8, color=color)
    return _png(figure)


def reliability(calibration: Calibration) -> bytes:
    """Accuracy by confidence, with the rows in each bin below: on the diagonal, a confidence means what it says."""
    figure = Figure(figsize=(4.6, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    centers, filled = (np.arange(BINS) + 0.5) / BINS, calibration.rows > 0
    rows = calibration.rows[filled]
    accuracy, confidence = calibration.hits[filled] / rows, calibration.confidence[filled] / rows
    upper.bar(centers[filled], accuracy, width=0.9 / BINS, color="tab:blue", alpha=0.4, label="accuracy")
    upper.plot(
        confidence, accuracy, "o", color="tab:blue", markersize=4, clip_on=False, label="at the bin's mean confidence"
    )
    upper.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    title = f"test split, {int(calibration.rows.sum()):,} rows, calibration error {calibration.error:.4f}"
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(title, fontsize=10)
    lower.bar(centers, calibration.rows, width=0.9 / BINS, color="gray")
    lower.set(xlabel="confidence", ylabel="rows", yscale="symlog")
    lower.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return _png(figure)


def mistakes(worst: Sequence[Mistake], images: Sequence[np.ndarray], class_names: Sequence[str]) -> bytes:
    """The rows that were wrong with the highest loss, each with what it is and what it was taken for.

    Args:
        worst: The mistakes, in order.
        images: uint8 C x H x W, one for each.
        class_names: By label.
    """
    columns = min(_COLUMNS, max(_FEWEST_COLUMNS, len(worst)))
    lines = -(-len(worst) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.8 * max(lines, 1) + 0.4), layout="constrained")
    title = (
        "test rows taken for another class, highest loss first" if worst else "no test row was taken for another class"
    )
    figure.suptitle(title, fontsize=10)
    tiles = figure.subplots(max(lines, 1), columns, squeeze=False).reshape(-1)
    for axes in tiles:
        axes.axis("off")
    for axes, mistake, image in zip(tiles, worst, images, strict=False):
        axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        true, taken = (_plain(class_names[n], _TILE_CHARACTERS) for n in (mistake.label, mistake.predicted))
        text = f"{true}\ntaken for {taken}\n{mistake.confidence:.2f}, loss {mistake.loss:.2f}"
        axes.set_title(text, fontsize=6.5, parse_math=False)
    return _png(figure)


def _count(count: int) -> str:
    """A count that fits into a cell: at most five characters, up to 9,999 million."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= 10 * unit:
            return f"{count // unit}{name}"
    return str(count)


def _plain(name: str, length: int) -> str:
    """A class name on one line. Of a long one both ends are kept: names often differ in the last characters."""
    line = "".join(char if char.isprintable() else "?" for char in name)
    tail = length // 2
    return line if len(line) <= length else f"{line[: length - 1 - tail]}…{line[-tail:]}"


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Class names may be in a script that the font does not have: there are boxes then.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(sink, format="png", dpi=_DPI)
    return sink.getvalue()
