"""How a training went, at its end: the epochs with what their figures say, the loss curve, the test split by class."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import curve
from pipelines.console import Console

MAX_EPOCHS = 10
MAX_CLASSES = 30
HEADINGS = {
    "epoch": "epoch",
    "train_loss": "train loss",
    "train_accuracy": "train accuracy",
    "val_loss": "val loss",
    "val_accuracy": "val accuracy",
}
"""Of the figures of an epoch, in both tables."""


def live(entry: Mapping[str, Any]) -> dict[str, object]:
    """The row of an epoch in the table that grows while the training goes on, by heading."""
    return {**{HEADINGS[key]: entry[key] for key in HEADINGS}, "images/s": round(entry["images_per_s"])}


def show(epochs: Sequence[Mapping[str, Any]], test: Mapping[str, Any], console: Console) -> None:
    """Print it; of many epochs the first, the best, the last and some between, of many classes the worst."""
    keys = (*HEADINGS, "observation")
    shown = _shown(epochs)
    rows = [[epoch[key] for key in keys] for epoch in shown]
    console.table([*HEADINGS.values(), "observation"], rows, unbroken=["observation"])
    if len(shown) < len(epochs):
        console.say(f"{len(shown)} of {len(epochs)} epochs; all are in MLflow")
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
    if len(epochs) <= MAX_EPOCHS:
        return list(epochs)
    even = [round(number * (len(epochs) - 1) / (MAX_EPOCHS - 1)) for number in range(MAX_EPOCHS)]
    best = max(range(len(epochs)), key=lambda at: (epochs[at]["val_accuracy"], -epochs[at]["val_loss"]))
    if best not in even:
        # In the place of the nearest, but not of the first or the last.
        even[min(range(1, MAX_EPOCHS - 1), key=lambda number: abs(even[number] - best))] = best
    return [epochs[at] for at in even]
