import numpy as np
import pytest
from scipy.stats import binomtest

from cnnjob.training.metrics import Tally, merge, wilson


def test_nothing_has_no_loss():
    """A tally of no rows has loss and accuracy 0, and merging it in changes nothing."""
    zero = Tally.zero(3)
    assert (zero.rows, zero.loss, zero.accuracy) == (0, 0.0, 0.0)
    one = zero.count(1.5, np.array([0, 1]), np.array([0, 2]))
    merged = merge([zero, one, zero])
    assert (merged.rows, merged.loss, merged.accuracy) == (2, 0.75, 0.5)


def test_rows_are_true_classes():
    """The confusion's row is the true class and its column the predicted one."""
    tally = Tally.zero(3).count(0.0, np.array([0, 2, 2]), np.array([1, 2, 0]))
    assert tally.confusion.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_counting_leaves_the_tally_before():
    """Counting gives a new tally and leaves the old one as it was."""
    zero = Tally.zero(2)
    zero.count(1.0, np.array([0]), np.array([0]))
    assert zero.rows == 0


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 10), (10, 10), (50, 100), (172, 175), (998, 999)])
def test_an_interval_is_that_of_scipy(hits, rows):
    """Wilson's interval is the one that scipy computes, from no hit at all to nothing but hits."""
    expected = binomtest(hits, rows).proportion_ci(method="wilson")
    assert wilson(hits / rows, rows) == pytest.approx((expected.low, expected.high), abs=1e-6)
