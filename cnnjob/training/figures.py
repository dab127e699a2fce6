"""Pictures of a training, as PNG: the curves by epoch, and the test split's confusion, calibration and mistakes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnnjob.training.evaluation import BINS, Calibration, Mistake

_DPI = 110
_COLUMNS = 9
_MAX_LABELLED_CLASSES = 30


def curves(epochs: Sequence[Mapping[str, Any]], best_epoch: int) -> bytes:
    """Loss and accuracy of training and validation, by epoch; the best one is marked."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    numbers = [row["epoch"] for row in epochs]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, style in (("train", "--"), ("val", "-")):
            values = [row[f"{part}_{quantity}"] for row in epochs]
            axes.plot(numbers, values, style, label=part, color="tab:blue", marker="." if len(epochs) == 1 else "")
        axes.axvline(best_epoch, color="tab:orange", linewidth=1, label=f"best: {best_epoch}")
        axes.set(xlabel="epoch", title=quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return _png(figure)


def confusion(counts: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Rows of the test split by true class (down) and predicted class (across); shade by share of the true class."""
    size = max(4.0, min(12.0, 0.5 * len(class_names)))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"test split, {int(counts.sum()):,} rows")
    if len(class_names) <= _MAX_LABELLED_CLASSES:
        ticks = range(len(class_names))
        axes.set_xticks(ticks, class_names, rotation=45, ha="right")
        axes.set_yticks(ticks, class_names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if count > counts[row].sum() / 2 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    return _png(figure)


def reliability(calibration: Calibration) -> bytes:
    """Accuracy by confidence, with the rows in each bin below: on the diagonal, a confidence means what it says."""
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    centers, filled = (np.arange(BINS) + 0.5) / BINS, calibration.rows > 0
    rows = calibration.rows[filled]
    accuracy, confidence = calibration.hits[filled] / rows, calibration.confidence[filled] / rows
    upper.bar(centers[filled], accuracy, width=0.9 / BINS, color="tab:blue", alpha=0.4, label="accuracy")
    upper.plot(confidence, accuracy, "o", color="tab:blue", markersize=4, label="at mean confidence")
    upper.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"calibration, ECE {calibration.error:.4f}")
    upper.legend(loc="upper left")
    lower.bar(centers, calibration.rows, width=0.9 / BINS, color="gray")
    lower.set(xlabel="confidence", ylabel="rows", yscale="symlog")
    return _png(figure)


def mistakes(worst: Sequence[Mistake], images: Sequence[np.ndarray], class_names: Sequence[str]) -> bytes:
    """The rows that were wrong with the highest loss, each with what it is and what it was taken for.

    Args:
        worst: The mistakes, in order.
        images: uint8 C x H x W, one for each.
        class_names: By label.
    """
    lines = max(1, -(-len(worst) // _COLUMNS))
    figure = Figure(figsize=(1.25 * _COLUMNS, 1.75 * lines + 0.5), layout="constrained")
    figure.suptitle("test rows that were wrong with the highest loss" if worst else "no test row was wrong")
    tiles = figure.subplots(lines, _COLUMNS, squeeze=False).reshape(-1)
    for axes in tiles:
        axes.axis("off")
    for axes, mistake, image in zip(tiles, worst, images, strict=False):
        axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        true, taken = _short(class_names[mistake.label]), _short(class_names[mistake.predicted])
        axes.set_title(f"is {true}\nnot {taken}, {mistake.confidence:.2f}", fontsize=7)
    return _png(figure)


def _short(name: str, length: int = 12) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(sink, format="png", dpi=_DPI)
    return sink.getvalue()
