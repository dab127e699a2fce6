"""How a training went, at its end: the epochs with what their figures say, the loss curve, the test split by class."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import curve
from pipelines.console import Console

MAX_EPOCHS = 30
MAX_CLASSES = 30


def show(epochs: Sequence[Mapping[str, Any]], test: Mapping[str, Any], console: Console) -> None:
    """Print it; of many epochs every so many and the best, of many classes the worst."""
    columns = ["epoch", "train loss", "accuracy", "val loss", "accuracy", "observation"]
    keys = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "observation")
    console.table(columns, [[epoch[key] for key in keys] for epoch in _shown(epochs)])
    for line in curve.draw([e["train_loss"] for e in epochs], [e["val_loss"] for e in epochs], "loss"):
        console.say(line)
    classes = sorted(test["classes"], key=lambda each: each["f1"])[:MAX_CLASSES]
    if len(classes) == len(test["classes"]):
        classes = test["classes"]
    names = ("name", "precision", "recall", "f1", "support")
    console.table(["class", *names[1:4], "test rows"], [[each[name] for name in names] for each in classes])
    if len(classes) < len(test["classes"]):
        console.say(f"The {len(classes)} classes with the lowest F1, of {len(test['classes'])}; all are in test.json")
    top, f1, error = test["top_k"], test["macro_f1"], test["ece"]
    console.say(f"Test: top-{test['k']} accuracy {top:.4f}, macro F1 {f1:.4f}, calibration error {error:.4f}")


def _shown(epochs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    step = -(-len(epochs) // MAX_EPOCHS)
    best = max(range(len(epochs)), key=lambda at: (epochs[at]["val_accuracy"], -epochs[at]["val_loss"]))
    kept = {best, len(epochs) - 1, *range(0, len(epochs), step)}
    return [epochs[at] for at in sorted(kept)]
