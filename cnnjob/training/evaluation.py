"""The test split, looked at once: sums over its rows that merge over ranks, and the figures that follow from them.

Beside loss and confusion: rows whose class is among the k likeliest, calibration by bins of confidence, and the worst
mistakes. A rank may have no row. Which rows are the worst does not depend on how rows lie on ranks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cnnjob.training.metrics import Tally, merge

BINS = 15
"""Bins of equal width over confidence (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
WORST = 36
"""Mistakes that are kept."""
LARGEST_K = 5


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrong.

    Attributes:
        row: Its number in the split, 0 on.
        label: Its class.
        predicted: The class it was taken for.
        confidence: Probability of that class.
        loss: Cross-entropy of the row.
    """

    row: int
    label: int
    predicted: int
    confidence: float
    loss: float


@dataclass(frozen=True)
class Calibration:
    """Sums by bin of confidence, lowest first.

    Attributes:
        rows: int64, rows whose confidence is in the bin; a bin has its upper edge, not its lower one.
        hits: int64, those of them predicted right.
        confidence: float64, sum of their confidences.
    """

    rows: np.ndarray
    hits: np.ndarray
    confidence: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1: the gap between confidence and accuracy in a bin, mean over rows."""
        total = int(self.rows.sum())
        return float(np.abs(self.hits - self.confidence).sum() / total) if total else 0.0


@dataclass(frozen=True)
class Evaluation:
    """What is counted of a split.

    Attributes:
        tally: Loss and confusion.
        top_k_hits: Rows whose class is among the ``k`` likeliest.
        calibration: By bins of confidence.
        worst: At most ``WORST`` mistakes, by falling loss, then by row.
    """

    tally: Tally
    top_k_hits: int
    calibration: Calibration
    worst: tuple[Mistake, ...]

    @property
    def k(self) -> int:
        """5, or fewer where there are few classes: always one less than would make it trivial."""
        return k_of(len(self.tally.confusion))

    @property
    def top_k(self) -> float:
        """Share of rows whose class is among the ``k`` likeliest, 0 to 1."""
        return self.top_k_hits / self.tally.rows if self.tally.rows else 0.0


def k_of(num_classes: int) -> int:
    """How many of the likeliest classes count as a hit."""
    return min(LARGEST_K, num_classes - 1)


def nothing(num_classes: int) -> Evaluation:
    """Of no row."""
    bins = Calibration(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS))
    return Evaluation(Tally.zero(num_classes), 0, bins, ())


def count(labels: np.ndarray, log_probabilities: np.ndarray, first_row: int) -> Evaluation:
    """Of a batch.

    Args:
        labels: Integer N.
        log_probabilities: float N x classes.
        first_row: Number of its first row in the split; the others follow.
    """
    num_rows, num_classes = log_probabilities.shape
    scores = log_probabilities.astype(np.float64)
    own = scores[np.arange(num_rows), labels]
    predicted = scores.argmax(axis=1)
    confidence = np.exp(scores[np.arange(num_rows), predicted])
    hits = predicted == labels
    # Of equally likely classes the first one comes first, as it does for argmax: top-1 is the accuracy.
    earlier = np.arange(num_classes) < labels[:, None]
    before_own = ((scores > own[:, None]) | ((scores == own[:, None]) & earlier)).sum(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    losses = -own
    wrong = np.flatnonzero(~hits)
    worst = wrong[np.lexsort((wrong, -losses[wrong]))][:WORST]
    return Evaluation(
        tally=Tally.zero(num_classes).count(float(losses.sum()), labels, predicted),
        top_k_hits=int((before_own < k_of(num_classes)).sum()),
        calibration=Calibration(
            np.bincount(bins, minlength=BINS),
            np.bincount(bins[hits], minlength=BINS),
            np.bincount(bins, weights=confidence, minlength=BINS),
        ),
        worst=tuple(
            Mistake(first_row + int(at), int(labels[at]), int(predicted[at]), float(confidence[at]), float(losses[at]))
            for at in worst
        ),
    )


def merge_evaluations(parts: Sequence[Evaluation]) -> Evaluation:
    """Of all rows. Sums run in the order given: batches in order, ranks in rank order, for the same bits."""
    calibrations = [part.calibration for part in parts]
    mistakes = sorted((mistake for part in parts for mistake in part.worst), key=lambda m: (-m.loss, m.row))
    return Evaluation(
        tally=merge([part.tally for part in parts]),
        top_k_hits=sum(part.top_k_hits for part in parts),
        calibration=Calibration(
            np.sum([each.rows for each in calibrations], axis=0),
            np.sum([each.hits for each in calibrations], axis=0),
            np.sum([each.confidence for each in calibrations], axis=0),
        ),
        worst=tuple(mistakes[:WORST]),
    )


def by_class(confusion: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, and its rows (support).

    Where a class has no row or no prediction, a division by zero gives 0: scikit-learn's ``zero_division=0``.
    """
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(predicted + support, 1)
    return [
        {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(class_names, precision, recall, f1, support, strict=True)
    ]


def to_plain(evaluation: Evaluation) -> dict[str, Any]:
    """As plain values, for the journal."""
    calibration = evaluation.calibration
    return {
        "loss_sum": evaluation.tally.loss_sum,
        "confusion": evaluation.tally.confusion.tolist(),
        "top_k_hits": evaluation.top_k_hits,
        "calibration": {name: getattr(calibration, name).tolist() for name in ("rows", "hits", "confidence")},
        "worst": [asdict(mistake) for mistake in evaluation.worst],
    }


def from_plain(plain: dict[str, Any]) -> Evaluation:
    """What ``to_plain`` was given."""
    return Evaluation(
        tally=Tally(plain["loss_sum"], np.asarray(plain["confusion"], dtype=np.int64)),
        top_k_hits=plain["top_k_hits"],
        calibration=Calibration(**{name: np.asarray(values) for name, values in plain["calibration"].items()}),
        worst=tuple(Mistake(**mistake) for mistake in plain["worst"]),
    )
