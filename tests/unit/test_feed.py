import numpy as np
import pytest
import torch

from cnnjob.errors import ResourceError
from cnnjob.training.feed import EvaluationFeed, Place, TrainingFeed, check_cache
from tests.helpers import manifest_of, rows_of, training_rows

ROWS = 23


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_rows(tmp_path_factory.mktemp("feed") / "set", ROWS)


def training_feed(dataset, rank, world_size, *, seed=0, batch=8, cache_bytes=10**9):
    place = Place(rank, world_size)
    options = {"global_batch_size": batch, "seed": seed, "cache_bytes": cache_bytes}
    return TrainingFeed(dataset.path, dataset.manifest, place, **options)


def fingerprints(batches) -> list[tuple[bytes, int]]:
    """Each row as its pixels and its label: random images are all different."""
    return [
        (image.contiguous().numpy().tobytes(), int(label))
        for batch in batches
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]


def expected(dataset) -> list[tuple[bytes, int]]:
    rows = rows_of(dataset.path, dataset.manifest, "train")
    return sorted((image.tobytes(), int(label)) for image, label in zip(rows.images, rows.labels, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 9])
def test_training_sees_every_row_once(dataset, world_size):
    """In every epoch the ranks together see each row once, each with its own label."""
    for epoch in (1, 2):
        seen = [
            row
            for rank in range(world_size)
            for row in fingerprints(training_feed(dataset, rank, world_size).epoch(epoch))
        ]
        assert sorted(seen) == expected(dataset)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 9, 30])
def test_evaluation_sees_every_row_once(dataset, world_size):
    """At any world size, also above the number of rows, the ranks together evaluate each row once."""
    places = [Place(rank, world_size) for rank in range(world_size)]
    feeds = [EvaluationFeed(dataset.path, dataset.manifest, "train", place, batch_size=4) for place in places]
    assert sorted(row for feed in feeds for row in fingerprints(feed.batches())) == expected(dataset)


def test_evaluation_keeps_the_order(dataset):
    """A rank evaluates its rows in the order of the shards, the same every time."""
    feed = EvaluationFeed(dataset.path, dataset.manifest, "train", Place(0, 1), batch_size=5)
    rows = rows_of(dataset.path, dataset.manifest, "train")
    assert [label for _, label in fingerprints(feed.batches())] == rows.labels.tolist()
    assert fingerprints(feed.batches()) == fingerprints(feed.batches())


def test_epochs_are_functions_of_the_seed(dataset):
    """The same seed and epoch are the same batches, whatever was read before; another of either is not."""
    used = training_feed(dataset, 0, 2)
    first = fingerprints(used.epoch(1))
    assert fingerprints(used.epoch(2)) != first
    assert fingerprints(used.epoch(1)) == first
    assert fingerprints(training_feed(dataset, 0, 2).epoch(1)) == first
    assert fingerprints(training_feed(dataset, 0, 2, seed=1).epoch(1)) != first


def test_batches_are_uint8_channels_last(dataset):
    """Images stay uint8 and lie channels_last; labels are int64."""
    batch = next(training_feed(dataset, 0, 1).epoch(1))
    assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_rows_beyond_the_budget_are_refused_before_reading():
    """Rows that do not fit the worker's memory are refused with the arithmetic, before a file is opened."""
    manifest = manifest_of([100], split="train")
    check_cache(manifest, 100, 100 * 192)
    with pytest.raises(ResourceError, match="19,200"):
        check_cache(manifest, 100, 100 * 192 - 1)
    with pytest.raises(ResourceError):
        TrainingFeed("/nowhere", manifest, Place(0, 1), global_batch_size=8, seed=0, cache_bytes=1)


def test_labels_stay_with_their_images(dataset):
    """Shuffling moves an image and its label together."""
    rows = rows_of(dataset.path, dataset.manifest, "train")
    label_of = {image.tobytes(): int(label) for image, label in zip(rows.images, rows.labels, strict=True)}
    assert all(label_of[image] == label for image, label in fingerprints(training_feed(dataset, 0, 1).epoch(3)))
    assert len(np.unique(rows.labels)) > 1
