from dataclasses import replace

import numpy as np
import pytest

from cnnjob.scoring.drift import Counted, allowance, by_chance, drift, pictures, psi

FLAT = [[10] * 256] * 3
DARK = [[100] * 64 + [1] * 192] * 3
MANY = 10**9
TRAINING = Counted([1 / 6, 2 / 6, 3 / 6], MANY, FLAT, MANY)
DATE = Counted([5, 10, 15], 30, [[30] * 256] * 3, 30)


def test_same_data_do_not_drift():
    """A date with the training data's shares has no drift, however many rows it has."""
    found = drift(DATE, TRAINING)
    assert (found.predictions, found.pixels) == pytest.approx((0, 0), abs=1e-12)


def test_index_follows_its_definition():
    """PSI is the sum of (actual - expected) x ln(actual / expected) over shares."""
    expected = 0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5)
    assert psi(np.array([8, 2]), np.array([50, 50]), 10, 100) == pytest.approx(expected)


def test_pixels_take_the_worst_channel():
    """One channel that shifted is enough: the largest index of the channels counts."""
    found = drift(replace(DATE, pixels=[*FLAT[:2], DARK[0]]), TRAINING)
    assert found.pixels == pytest.approx(drift(replace(DATE, pixels=DARK), TRAINING).pixels)
    assert found.pixels > 0.25
    assert found.predictions == pytest.approx(0)


def test_empty_bins_stay_finite():
    """A class that never occurs on one side makes a large index, not an infinite one."""
    found = psi(np.array([0, 10_000]), np.array([10_000, 0]), 10_000, 10_000)
    assert np.isfinite(found)
    assert found > 10


def test_an_empty_bin_of_few_rows_counts_as_half_a_row():
    """Of ten rows a class without one has a share of 0.05, and of very many rows one of 0.0001."""
    few = psi(np.array([0, 10]), np.array([0.5, 0.5]), 10, MANY)
    assert few == pytest.approx(0.45 * np.log(0.5 / 0.05) + 0.5 * np.log(1 / 0.5))
    many = psi(np.array([0, 10]), np.array([0.5, 0.5]), MANY, MANY)
    assert many == pytest.approx(0.4999 * np.log(0.5 / 1e-4) + 0.5 * np.log(1 / 0.5))


def test_a_bin_that_expects_less_than_half_a_row_may_be_empty():
    """A class of which ten rows have none by right adds nothing to the index."""
    assert psi(np.array([0, 10]), np.array([0.01, 0.99]), 10, MANY) == pytest.approx(0.01 * np.log(1 / 0.99))


def test_nothing_scored_is_no_drift():
    """A date without rows has no drift, and chance adds nothing to its bounds."""
    nothing = Counted([0, 0, 0], 0, [[0] * 256] * 3, 0)
    for found in (drift(nothing, TRAINING), allowance(nothing, TRAINING)):
        assert (found.predictions, found.pixels) == (0.0, 0.0)


def test_chance_follows_chi_square():
    """The allowance is (1/n + 1/m) times the 99 % quantile of chi-square: 21.666 for 10 bins, 30.578 for 16."""
    assert by_chance(100, 1_000, 10) == pytest.approx(0.011 * 21.666, rel=1e-4)
    found = allowance(Counted([1] * 10, 200, FLAT, 50), Counted([0.1] * 10, 1_000, FLAT, 1_000))
    assert found.predictions == pytest.approx((1 / 200 + 1 / 1_000) * 21.666, rel=1e-4)
    assert found.pixels == pytest.approx((1 / 50 + 1 / 1_000) * 30.578, rel=1e-4)


@pytest.mark.parametrize("bins", [1, 2, 1_000, 100_000])
def test_chance_is_finite(bins):
    """Whatever the number of classes, also where most have no training row, index and allowance are numbers."""
    training = np.zeros(bins)
    training[0] = 1.0
    date = np.ones(bins, dtype=int)
    assert np.isfinite(by_chance(bins, 165, bins))
    assert np.isfinite(psi(date, training, bins, 165))


def test_pictures_are_told_by_their_pixels():
    """The pixel values of 7 pictures of 4 x 6 pixels are told to be those of 7, whatever the number of channels."""
    counts = np.bincount(np.arange(7 * 4 * 6) % 256, minlength=256).tolist()
    assert pictures([counts], 4, 6) == pictures([counts] * 3, 4, 6) == 7


EVEN, UNEVEN = np.full(10, 0.1), 1 / np.arange(1, 101) / np.sum(1 / np.arange(1, 101))


def beyond(shares, training_shares, rows, training_rows=1_400, draws=400) -> float:
    """In which share of seeded draws a sample exceeds the default bound with its allowance."""
    generator = np.random.default_rng(rows)
    bound = 0.25 + by_chance(rows, training_rows, len(shares))
    samples = generator.multinomial(rows, shares, size=draws)
    training = generator.multinomial(training_rows, training_shares, size=draws)
    pairs = zip(samples, training, strict=True)
    return float(np.mean([psi(sample, other, rows, training_rows) > bound for sample, other in pairs]))


@pytest.mark.parametrize("rows", [1, 12, 100, 165, 1_000])
@pytest.mark.parametrize("shares", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("training_rows", [165, 1_400])
def test_samples_of_the_training_data_are_within_bounds(rows, shares, training_rows):
    """Rows drawn from the population of the training split exceed no bound in 95 of 100 draws, however few they are."""
    assert beyond(shares, shares, rows, training_rows) <= 0.05


@pytest.mark.parametrize("shares", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_a_shift_of_a_thousand_rows_is_beyond(shares):
    """A class that half of all rows move to is seen in each draw of 1,000."""
    shifted = shares / 2
    shifted[-1] += 0.5
    assert beyond(shifted, shares, 1_000) == 1.0


def test_twelve_rows_of_one_class_are_beyond():
    """Few rows can tell as well, where the shift is as large as one can be."""
    bound = 0.25 + by_chance(12, 1_400, 10)
    assert psi(np.array([12] + [0] * 9), EVEN, 12, 1_400) > bound


@pytest.mark.parametrize("rows", [1, 12, 100, 1_000])
@pytest.mark.parametrize("plain", [False, True], ids=["photos", "plain pictures"])
def test_pictures_of_the_training_data_are_within_bounds(rows, plain):
    """Pictures drawn from the training split exceed no bound, also where all pixels of each have one value."""
    generator = np.random.default_rng(rows)
    darkness = generator.uniform(0, 200, size=(1_400, 1))
    spread = 0 if plain else generator.normal(0, 30, size=(1_400, 64))
    values = np.clip(darkness + spread + np.zeros(64), 0, 255).astype(int)
    of_picture = np.stack([np.bincount(each, minlength=256) for each in values])
    training = Counted([1.0], 1_400, [of_picture.sum(axis=0).tolist()], 1_400)
    exceeded = []
    for _ in range(200):
        drawn = of_picture[generator.integers(0, 1_400, rows)].sum(axis=0)
        date = Counted([1], rows, [drawn.tolist()], rows)
        exceeded.append(drift(date, training).pixels > 0.25 + allowance(date, training).pixels)
    assert np.mean(exceeded) <= 0.05
