import threading
import time

import numpy as np
import pytest
import torch

from cnnjob.data.rows import read_spans, spans
from cnnjob.errors import IntegrityError, ResourceError
from cnnjob.training import blocks as block_module
from cnnjob.training import feed
from cnnjob.training.blocks import BlockReader
from cnnjob.training.feed import ARROW_BYTES, EvaluationFeed, Place, Run, TrainingFeed, choose_feed, feed_of
from cnnjob.training.order import WINDOW_BYTES
from cnnjob.training.stream import StreamingFeed
from tests.helpers import manifest_of, rows_of, training_rows
from tests.workers import job_of, left_by, worker_of

ROWS = 23


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_rows(tmp_path_factory.mktemp("feed") / "set", ROWS)


def run_of(dataset, rank, world_size, *, seed=0, batch=8):
    return Run(dataset.path, dataset.manifest, Place(rank, world_size), batch, seed)


def training_feed(dataset, rank, world_size, **options):
    return TrainingFeed(run_of(dataset, rank, world_size, **options))


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


def test_rows_are_kept_where_they_fit():
    """Rows of training and validation are kept where together they fit the budget, to the byte."""
    shard_manifest = manifest_of([100], split="train")
    assert choose_feed(shard_manifest, 90, 10, 100 * 192).kind == "in memory"
    with pytest.raises(ResourceError, match="19,199 bytes; and streaming them takes"):
        choose_feed(shard_manifest, 90, 10, 100 * 192 - 1)


@pytest.mark.parametrize("group", [64, 2048, 200_000])
def test_a_budget_below_two_windows_is_refused(monkeypatch, group):
    """Streaming holds two windows, a group and what reading takes: a budget without room for them is refused."""
    monkeypatch.setattr(feed, "rows_per_group", lambda _: group)
    manifest = manifest_of([10**7], split="train")
    least = (2 * max(WINDOW_BYTES // 192, group) + group) * 192 + max(ARROW_BYTES, 3 * group * 192)
    assert choose_feed(manifest, 10**7, 0, least).kind == "streamed"
    with pytest.raises(ResourceError, match=f"takes {least:,} bytes. Raise cache_bytes_per_worker"):
        choose_feed(manifest, 10**7, 0, least - 1)


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of five rows of 8 x 8 pixels, on row groups of two: a small data set has many."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", 5 * 192)
    monkeypatch.setattr(feed, "ARROW_BYTES", 0)
    monkeypatch.setattr(feed, "rows_per_group", lambda _: 2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9, 30])
@pytest.mark.parametrize("batch", [1, 4, 8, 23, 40])
def test_streamed_batches_are_those_of_memory(dataset, small_windows, world_size, batch):
    """From any step on, streamed batches are those of the rows in memory, to the bit: labels, rows and layout."""
    for rank in range(world_size):
        run = run_of(dataset, rank, world_size, batch=batch)
        kept, streamed = TrainingFeed(run), StreamingFeed(run, epochs=3)
        for epoch, first_step in ((1, 0), (2, 0), (3, 0), (2, 0), (2, 1), (3, 0), (2, 3), (2, 99)):
            batches = zip(kept.epoch(epoch, first_step), streamed.epoch(epoch, first_step), strict=True)
            for one, other in batches:
                assert torch.equal(one.images, other.images)
                assert torch.equal(one.labels, other.labels)
                assert one.global_rows == other.global_rows
                assert one.images.stride() == other.images.stride()


@pytest.mark.parametrize("world_size", range(2, 9))
def test_a_streamed_epoch_goes_on_at_any_step(dataset, small_windows, world_size):
    """From every step on, also where a rank has no row in the steps that are left, batches are those of memory."""
    for rank in range(world_size):
        for size in (ROWS - 1, 8):
            run = run_of(dataset, rank, world_size, batch=size)
            kept, streamed = TrainingFeed(run), StreamingFeed(run)
            for first_step in range(-(-ROWS // size) + 1):
                batches = list(zip(kept.epoch(1, first_step), streamed.epoch(1, first_step), strict=True))
                assert all(torch.equal(one.images, other.images) for one, other in batches)
                assert all(one.images.stride() == other.images.stride() for one, other in batches)
                assert all(torch.equal(one.labels, other.labels) for one, other in batches)


def test_nothing_is_read_twice_and_nothing_before_the_step(dataset, small_windows, monkeypatch):
    """A streamed epoch reads each row once; an epoch that goes on reads only the windows that are left."""
    read = []
    monkeypatch.setattr(
        block_module, "spans", lambda split, start, stop: read.extend(range(start, stop)) or spans(split, start, stop)
    )
    list(StreamingFeed(run_of(dataset, 0, 1)).epoch(1))
    assert sorted(read) == list(range(ROWS))
    whole = list(read)
    read.clear()
    list(StreamingFeed(run_of(dataset, 0, 1)).epoch(1, 2))
    assert 0 < len(read) <= ROWS - 16 + 5
    assert read == whole[-len(read) :]


def test_two_windows_are_held(dataset, small_windows, monkeypatch):
    """While a window is trained on one is read, and no more until the first is used up."""
    begun = []
    original = BlockReader.__call__
    monkeypatch.setattr(BlockReader, "__call__", lambda self, *given: begun.append(1) or original(self, *given))
    batches = StreamingFeed(run_of(dataset, 0, 1, batch=2)).epoch(1)
    next(batches)
    time.sleep(0.1)
    assert len(begun) == 2
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_after_an_epoch_the_next_ones_first_window_is_there(dataset, small_windows, monkeypatch):
    """No epoch waits for its first rows; behind the last epoch nothing is read, and its thread ends."""
    read = []
    monkeypatch.setattr(
        block_module, "spans", lambda split, start, stop: read.extend(range(start, stop)) or spans(split, start, stop)
    )
    streamed = StreamingFeed(run_of(dataset, 0, 1), epochs=2)
    list(streamed.epoch(1))
    time.sleep(0.1)
    assert ROWS < len(read) <= ROWS + 5
    list(streamed.epoch(2))
    time.sleep(0.1)
    assert len(read) == 2 * ROWS
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_an_epoch_that_is_left_ends_its_thread(dataset, small_windows):
    """What it has read into may be read into again."""
    batches = StreamingFeed(run_of(dataset, 0, 1, batch=2), epochs=9).epoch(1)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_what_reading_raises_arrives(dataset, small_windows, monkeypatch):
    """An error of the thread is raised where the rows are waited for, as it is, and the thread ends."""
    monkeypatch.setattr(BlockReader, "__call__", lambda *_: (_ for _ in ()).throw(IntegrityError("gone")))
    with pytest.raises(IntegrityError, match="gone"):
        list(StreamingFeed(run_of(dataset, 0, 1)).epoch(1))
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_evaluation_reads_a_row_group_at_a_time_elsewhere(dataset):
    """Where rows are read elsewhere, each row group of a rank's part is asked for once, and one at a time."""
    asked = []

    def spread(function, items):
        asked.extend(items)
        return map(function, items)

    given = {"batch_size": 3, "spread": spread}
    here = EvaluationFeed(dataset.path, dataset.manifest, "train", Place(1, 2), batch_size=3)
    for keep in (True, False):
        asked.clear()
        feed = EvaluationFeed(dataset.path, dataset.manifest, "train", Place(1, 2), keep=keep, **given)
        assert fingerprints(feed.batches()) == fingerprints(here.batches())
        blocks = [block for item in asked for block in item]
        assert len(blocks) > 1
        assert [stop for _, stop in blocks[:-1]] == [start for start, _ in blocks[1:]]
    assert all(len(item) == 1 for item in asked)


def test_labels_stay_with_their_images(dataset):
    """Shuffling moves an image and its label together."""
    rows = rows_of(dataset.path, dataset.manifest, "train")
    label_of = {image.tobytes(): int(label) for image, label in zip(rows.images, rows.labels, strict=True)}
    assert all(label_of[image] == label for image, label in fingerprints(training_feed(dataset, 0, 1).epoch(3)))
    assert len(np.unique(rows.labels)) > 1


def test_the_budget_changes_no_weight(dataset, small_windows, tmp_path):
    """A run that streams its rows, validation included, leaves the bits of one that keeps them."""
    ended = []
    for name, budget in (("kept", 10**9), ("streamed", 4_000)):
        job = job_of(dataset, tmp_path / name, num_epochs=3, num_workers=1, cache_bytes_per_worker=budget)
        assert feed_of(job.config, job.manifest).kind == {"kept": "in memory"}.get(name, name)
        worker_of(job).run()
        ended.append(left_by(job.run_folder))
    assert ended[0].same_as(ended[1])


def test_a_ranks_rows_are_read_once(dataset, monkeypatch):
    """Over all epochs the ranks together read each row group they keep once, but for those cut between two ranks."""
    read = []
    monkeypatch.setattr(block_module, "read_spans", lambda *given: read.extend(given[1]) or read_spans(*given))
    for rank in (0, 1):
        feed_of_rank = training_feed(dataset, rank, 2)
        for epoch in (1, 2, 3):
            list(feed_of_rank.epoch(epoch))
    assert sum(span.stop - span.start for span in read) == ROWS
