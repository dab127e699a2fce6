import numpy as np

from cnnjob.data.statistics import PixelCounts


def test_counts_are_counts():
    """The histogram of a channel says how often each value occurs in it."""
    images = np.array([[[[0, 0, 255]], [[7, 7, 7]]]], dtype=np.uint8)
    counts = PixelCounts.of(images).counts
    assert counts.shape == (2, 256)
    assert (counts[0, 0], counts[0, 255], counts[1, 7]) == (2, 1, 3)
    assert counts.sum() == images.size


def test_constant_channel_has_no_deviation():
    """A channel of one value has exactly that mean and a standard deviation of exactly zero."""
    images = np.full((3, 1, 4, 4), 51, dtype=np.uint8)
    counts = PixelCounts.of(images)
    assert (counts.mean, counts.std) == ([51 / 255], [0.0])


def test_half_black_half_white():
    """Half black and half white has mean and standard deviation of exactly one half."""
    images = np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1)
    counts = PixelCounts.of(images)
    assert (counts.mean, counts.std) == ([0.5], [0.5])


def test_nothing_has_no_mean():
    """Without pixels, mean and standard deviation are 0, and adding nothing changes nothing."""
    zero = PixelCounts.zero(2)
    assert (zero.mean, zero.std) == ([0.0, 0.0], [0.0, 0.0])
    images = np.arange(32, dtype=np.uint8).reshape(1, 2, 4, 4)
    assert np.array_equal((zero + PixelCounts.of(images)).counts, PixelCounts.of(images).counts)
    assert np.array_equal(PixelCounts.of(images[:0]).counts, zero.counts)
