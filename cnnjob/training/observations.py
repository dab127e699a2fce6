"""What the figures of an epoch say, in a word or two, by rules that anyone can check.

The trend compares with the epoch before:

- ``overfitting``: the validation loss is more than 2 % above its lowest, while the training loss has fallen since;
- ``flattening``: the validation loss moved by at most 1 %;
- ``improving``: it fell by more; ``worse``: it rose by more.

``best so far`` is said of an epoch whose weights would be registered if the training ended there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

OVERFITTING = 0.02
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
    words = [_trend(before, now)]
    if all(_rank(now) > _rank(earlier) for earlier in before):
        words.append("best so far")
    return ", ".join(words)


def _trend(before: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> str:
    lowest = min(before, key=lambda epoch: epoch["val_loss"])
    if now["val_loss"] > lowest["val_loss"] * (1 + OVERFITTING) and now["train_loss"] < lowest["train_loss"]:
        return "overfitting"
    change = now["val_loss"] - before[-1]["val_loss"]
    if abs(change) <= FLAT * before[-1]["val_loss"]:
        return "flattening"
    return "improving" if change < 0 else "worse"


def _rank(epoch: Mapping[str, Any]) -> tuple[float, float]:
    return epoch["val_accuracy"], -epoch["val_loss"]
