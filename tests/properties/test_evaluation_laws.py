"""What ranks count of the test split merges to the figures that scikit-learn has for all rows together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, precision_recall_fscore_support, top_k_accuracy_score

from cnnjob.training.evaluation import (
    BINS,
    WORST,
    Evaluation,
    by_class,
    count,
    from_plain,
    k_of,
    merge_evaluations,
    nothing,
    to_plain,
)
from cnnjob.training.order import share


def rows(num_rows: int, classes: int, seed: int, *, used: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels, of the first ``used`` classes alone, and log-probabilities of all of them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, used or classes, num_rows)
    return labels, np.log(generator.dirichlet(np.ones(classes), num_rows) * 0.98 + 0.02 / classes).astype(np.float32)


def over_ranks(labels: np.ndarray, scores: np.ndarray, world_size: int, batch: int) -> Evaluation:
    """Counted by ranks in batches, and merged."""
    ranks, start = [], 0
    for rank in range(world_size):
        stop = start + share(len(labels), rank, world_size)
        parts = [nothing(scores.shape[1])]
        for first in range(start, stop, batch):
            part = slice(first, min(first + batch, stop))
            parts.append(count(labels[part], scores[part], first))
        ranks.append(merge_evaluations(parts))
        start = stop
    return merge_evaluations(ranks)


@given(
    num_rows=st.integers(1, 90),
    world_size=st.integers(1, 7),
    classes=st.integers(2, 9),
    batch=st.integers(1, 17),
    seed=st.integers(0, 2**32),
)
def test_merged_figures_are_scikit_learns(num_rows, world_size, classes, batch, seed):
    """Loss, top-k, precision, recall and F1 are scikit-learn's, also with ranks and classes that have no row."""
    labels, scores = rows(num_rows, classes, seed, used=max(1, classes - 1))
    merged = over_ranks(labels, scores, world_size, batch)
    names, k, probabilities = list(range(classes)), k_of(classes), np.exp(scores.astype(np.float64))
    assert merged.tally.rows == num_rows
    whole = log_loss(labels, probabilities / probabilities.sum(axis=1, keepdims=True), labels=names)
    assert merged.tally.loss == pytest.approx(whole, rel=1e-5)
    if classes > 2:
        assert merged.top_k == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=names))
    expected = precision_recall_fscore_support(labels, scores.argmax(axis=1), labels=names, zero_division=0.0)
    found = by_class(merged.tally.confusion, [str(name) for name in names])
    for values, key in zip(expected, ("precision", "recall", "f1", "support"), strict=True):
        assert [each[key] for each in found] == pytest.approx(list(values)), key


@given(num_rows=st.integers(1, 200), classes=st.integers(2, 9), seed=st.integers(0, 2**32))
def test_calibration_error_is_that_of_its_definition(num_rows, classes, seed):
    """The expected calibration error is Guo et al.'s, computed row by row from the definition."""
    labels, scores = rows(num_rows, classes, seed)
    found = over_ranks(labels, scores, 3, 8).calibration.error
    probabilities = np.exp(scores.astype(np.float64))
    confidence, hits = probabilities.max(axis=1), scores.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert found == pytest.approx(total, abs=1e-9)


@given(num_rows=st.integers(1, 120), batch=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_the_worst_rows_do_not_depend_on_the_ranks(num_rows, batch, seed):
    """The mistakes that are kept are those of highest loss, by row where it is equal, at any world size."""
    labels, scores = rows(num_rows, 4, seed)
    scores[::3] = scores[0]  # Rows of equal loss.
    labels[::3] = labels[0]
    one = over_ranks(labels, scores, 1, num_rows).worst
    for world_size in (2, 3, 5):
        assert over_ranks(labels, scores, world_size, batch).worst == one
    losses = -scores[np.arange(num_rows), labels].astype(np.float64)
    wrong = np.flatnonzero(scores.argmax(axis=1) != labels)
    expected = sorted(wrong, key=lambda row: (-losses[row], row))[:WORST]
    assert [mistake.row for mistake in one] == expected


@given(num_rows=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_plain_values_come_back(num_rows, seed):
    """What the journal keeps is all of it, to the last bit."""
    labels, scores = rows(num_rows, 3, seed)
    wrote = merge_evaluations([nothing(3), count(labels, scores, 0)])
    assert to_plain(from_plain(to_plain(wrote))) == to_plain(wrote)


def test_no_row_has_no_figures():
    """An empty split has zeros everywhere, and no warning."""
    found = nothing(3)
    assert (found.tally.loss, found.top_k, found.calibration.error, found.worst) == (0.0, 0.0, 0.0, ())
    assert all(each["f1"] == each["support"] == 0 for each in by_class(found.tally.confusion, ["a", "b", "c"]))


@given(num_rows=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_equally_likely_classes_are_taken_in_order(num_rows, seed):
    """With two classes, top-k is the accuracy, also where both are equally likely."""
    generator = np.random.default_rng(seed)
    scores = np.log([[0.5, 0.5], [0.25, 0.75]])[generator.integers(0, 2, num_rows)]
    found = merge_evaluations([count(generator.integers(0, 2, num_rows), scores, 0)])
    assert (found.k, found.top_k) == (1, found.tally.accuracy)


@pytest.mark.parametrize(("classes", "k"), [(2, 1), (3, 2), (6, 5), (10, 5), (1000, 5)])
def test_top_k_is_never_trivial(classes, k):
    """The k likeliest are five, and always fewer than there are classes."""
    assert k_of(classes) == k
