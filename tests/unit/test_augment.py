import numpy as np
import pytest
import torch

from cnnjob.config.train import AugmentConfig
from cnnjob.training.augment import augment, augmented
from cnnjob.training.feed import Batch


def pictures(count: int, *, height: int = 9, width: int = 7) -> torch.Tensor:
    shape = (count, 3, height, width)
    images = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    return torch.from_numpy(images).contiguous(memory_format=torch.channels_last)


def run(images: torch.Tensor, seed: int = 0, **config) -> torch.Tensor:
    return augment(images, AugmentConfig(**config), np.random.default_rng(seed))


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The picture as seen through a window that has moved by so much; black outside."""
    padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
    return padded[:, 4 + down : 4 + down + image.shape[1], 4 + right : 4 + right + image.shape[2]]


def test_flips_are_flips():
    """Each picture is itself or its mirror image, and about half are mirrored."""
    images = pictures(400)
    found = run(images, flip=True)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    same = (found == images).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 140 < int(mirrored.sum()) < 260


def test_shifts_are_shifts():
    """Each picture is moved by at most the configured pixels each way, black moves in, and every move occurs."""
    images = pictures(300)
    found = run(images, shift=2).numpy()
    seen = set()
    for image, result in zip(images.numpy(), found, strict=True):
        moves = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if np.array_equal(result, moved(image, d, r))]
        assert len(moves) == 1
        seen.update(moves)
    assert len(seen) == 25


def test_cutout_is_one_square():
    """Each picture loses one square, cut at the border, and nothing else."""
    images = pictures(200)
    found = run(images, cutout=4)
    for image, result in zip(images, found, strict=True):
        gone = (result == 0).all(0)
        rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4
        assert int(gone.sum()) == len(rows) * len(columns)
        assert torch.equal(result[:, ~gone], image[:, ~gone])


def test_the_same_draws_change_pictures_alike():
    """The same seed, epoch and rank give the same pictures; another of each gives others."""
    batch = Batch(pictures(32), torch.zeros(32, dtype=torch.int64), 32)
    config = AugmentConfig(flip=True, shift=1, cutout=3)

    def images(**values: int) -> torch.Tensor:
        (found,) = augmented([batch], config, **({"seed": 1, "epoch": 2, "rank": 0} | values))
        return found.images

    assert torch.equal(images(), images())
    for change in ({"seed": 2}, {"epoch": 3}, {"rank": 1}):
        assert not torch.equal(images(), images(**change))


def test_a_step_draws_by_itself():
    """A step's pictures are the same whether the epoch begins before it or with it, and no two steps draw alike."""
    batch = Batch(pictures(32), torch.zeros(32, dtype=torch.int64), 32)
    config = AugmentConfig(flip=True, shift=1, cutout=3)
    whole = [found.images for found in augmented([batch] * 4, config, seed=1, epoch=2, rank=0)]
    rest = [found.images for found in augmented([batch] * 2, config, seed=1, epoch=2, rank=0, first_step=2)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not torch.equal(whole[0], whole[1])


def test_nothing_configured_changes_nothing():
    """Without augmentation the batches go through as they are."""
    batch = Batch(pictures(3), torch.zeros(3, dtype=torch.int64), 3)
    assert next(iter(augmented([batch], AugmentConfig(), seed=0, epoch=1, rank=0))) is batch


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_form_stays(count):
    """The result is uint8 of the same shape, channels_last, also for a rank without rows."""
    found = run(pictures(count), flip=True, shift=2, cutout=3)
    assert found.shape == (count, 3, 9, 7)
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
