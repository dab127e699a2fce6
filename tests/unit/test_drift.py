import numpy as np
import pytest

from cnnjob.scoring.drift import drift, psi

FLAT = [[10] * 256] * 3
DARK = [[100] * 64 + [1] * 192] * 3


def test_same_data_do_not_drift():
    """A date with the training data's shares has no drift, however many rows it has."""
    found = drift([5, 10, 15], [[30] * 256] * 3, [1 / 6, 2 / 6, 3 / 6], FLAT)
    assert (found.predictions, found.pixels) == pytest.approx((0, 0), abs=1e-12)


def test_index_follows_its_definition():
    """PSI is the sum of (actual - expected) x ln(actual / expected) over shares."""
    expected = 0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5)
    assert psi(np.array([8, 2]), np.array([50, 50])) == pytest.approx(expected)


def test_pixels_take_the_worst_channel():
    """One channel that shifted is enough: the largest index of the channels counts."""
    found = drift([1, 1], [*FLAT[:2], DARK[0]], [0.5, 0.5], FLAT)
    assert found.pixels == pytest.approx(drift([1, 1], DARK, [0.5, 0.5], FLAT).pixels)
    assert found.pixels > 0.25
    assert found.predictions == pytest.approx(0)


def test_empty_bins_stay_finite():
    """A class that never occurs on one side makes a large index, not an infinite one."""
    found = psi(np.array([0, 10]), np.array([10, 0]))
    assert np.isfinite(found)
    assert found > 10


def test_nothing_scored_is_no_drift():
    """A date without rows has no drift."""
    assert psi(np.zeros(3), np.array([1, 2, 3])) == 0.0
    assert drift([0, 0], [[0] * 256] * 3, [0.5, 0.5], FLAT).pixels == 0.0
