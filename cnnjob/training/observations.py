"""What the figures of an epoch say, in a word or two, by rules that anyone can check.

The trend is one word:

- ``overfitting``: the validation loss has been more than 2 % above its lowest for three epochs in a row, this one
  included, while the training loss has fallen below what it was at that lowest;
- else, compared with the epoch before: ``flattening``, the validation loss moved by at most 1 %; ``improving``, it fell
  by more; ``worse``, it rose by more.

``best so far`` is said of an epoch whose weights would be registered if the training ended there. It is never called
overfitting.
"""

from collections.abc import Mapping, Sequence
from typing import Any

OVERFITTING = 0.02
OVERFITTING_EPOCHS = 3
"""One or two epochs above the lowest loss are noise, above all where few rows are validated."""
FLAT = 0.01


def observations(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A text for each epoch.

    Args:
        epochs: In order, with ``train_loss``, ``val_loss`` and ``val_accuracy``.
    """
    return [_observation(epochs[: number + 1]) for number in range(len(epochs))]


def _observation(epochs: Sequence[Mapping[str, Any]]) -> str:
    *before, now = epochs
    if not before:
        return "first"
    if all(_rank(now) > _rank(earlier) for earlier in before):
        return f"{_change(before[-1], now)}, best so far"
    return "overfitting" if _is_overfitting(epochs) else _change(before[-1], now)


def _is_overfitting(epochs: Sequence[Mapping[str, Any]]) -> bool:
    lowest = min(epochs, key=lambda epoch: epoch["val_loss"])
    above = lowest["val_loss"] * (1 + OVERFITTING)
    # The lowest itself is not above: where it is one of the last, or there are too few, this is false.
    lasts = all(epoch["val_loss"] > above for epoch in epochs[-OVERFITTING_EPOCHS:])
    return lasts and epochs[-1]["train_loss"] < lowest["train_loss"]


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    change = now["val_loss"] - before["val_loss"]
    if abs(change) <= FLAT * before["val_loss"]:
        return "flattening"
    return "improving" if change < 0 else "worse"


def _rank(epoch: Mapping[str, Any]) -> tuple[float, float]:
    return epoch["val_accuracy"], -epoch["val_loss"]
