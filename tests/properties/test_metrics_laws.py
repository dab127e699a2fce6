"""Tallies of ranks merge to the figures of the whole, as scikit-learn computes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from cnnjob.training.metrics import Tally, merge


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    classes=st.integers(2, 7),
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 17),
)
def test_merged_tallies_agree_with_scikit_learn(sizes, classes, seed, batch):
    """Accuracy, confusion and mean loss over ranks of any sizes are scikit-learn's on all rows together."""
    generator = np.random.default_rng(seed)
    ranks, labels, probabilities = [], [], []
    for size in sizes:
        truth = generator.integers(0, classes, size)
        scores = generator.dirichlet(np.ones(classes), size) * 0.98 + 0.02 / classes
        tally = Tally.zero(classes)
        for start in range(0, size, batch):
            part = slice(start, start + batch)
            loss = float(-np.log(scores[part][np.arange(len(truth[part])), truth[part]]).sum())
            tally = tally.count(loss, truth[part], scores[part].argmax(axis=1))
        ranks.append(tally)
        labels.append(truth)
        probabilities.append(scores)
    merged = merge(ranks)
    truth, scores = np.concatenate(labels), np.concatenate(probabilities)
    names = list(range(classes))
    assert merged.rows == len(truth)
    assert merged.accuracy == pytest.approx(accuracy_score(truth, scores.argmax(axis=1)), abs=1e-15)
    assert np.array_equal(merged.confusion, confusion_matrix(truth, scores.argmax(axis=1), labels=names))
    assert merged.loss == pytest.approx(log_loss(truth, scores, labels=names), rel=1e-9)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.integers(0, 2**32))
def test_merging_is_a_sum_in_rank_order(losses, seed):
    """Merging adds in the order of the ranks, so the same ranks give the same bits."""
    generator = np.random.default_rng(seed)
    tallies = [Tally(loss, generator.integers(0, 9, (3, 3))) for loss in losses]
    total = 0.0
    for loss in losses:
        total += loss
    assert merge(tallies).loss_sum == total
    assert merge(tallies).rows == sum(tally.rows for tally in tallies)
