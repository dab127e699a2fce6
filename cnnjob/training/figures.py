"""Pictures of a training: the curves by epoch and the confusion matrix, as PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DPI = 110
_MAX_LABELLED_CLASSES = 30


def curves(epochs: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss and accuracy of training and validation, by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    numbers = [row["epoch"] for row in epochs]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, style in (("train", "--"), ("val", "-")):
            axes.plot(numbers, [row[f"{part}_{quantity}"] for row in epochs], style, label=part, color="tab:blue")
        axes.set(xlabel="epoch", title=quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    return _png(figure)


def confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
    """Rows counted by true class (down) and predicted class (across); shade by share of the true class."""
    counts = np.asarray(matrix)
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


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(sink, format="png", dpi=_DPI)
    return sink.getvalue()
