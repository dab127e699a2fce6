"""Rows as feeds give them, at any size of shards, row groups and batches: each once, the same from every feed."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise, product
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cnnjob.data.manifest import Image, Manifest
from cnnjob.data.shards import shard_of
from cnnjob.schema import IMAGE, LABEL
from cnnjob.training import feed
from cnnjob.training.blocks import Taken
from cnnjob.training.feed import Batch, EvaluationFeed, Place, Run, TrainingFeed
from cnnjob.training.order import num_steps
from cnnjob.training.stream import StreamingFeed
from tests.helpers import manifest_of

SHAPE = (3, 2, 2)
ROW_BYTES = 12

shards = st.lists(st.integers(1, 20), max_size=4)
groups = st.integers(1, 8)
worlds = st.integers(1, 5)
batches = st.integers(1, 24)
windows = st.integers(1, 12)


@contextmanager
def dataset(
    split: str, shard_rows: Sequence[int], rows_per_group: int, window_rows: int
) -> Iterator[tuple[str, Manifest]]:
    """Shards of so many rows: row k has the label k, and pixels that no other row has. Windows are small inside."""
    manifest = manifest_of(shard_rows, split).model_copy(
        update={
            "image": Image(channels=3, height=2, width=2, color="rgb", resize="exact", filter="bilinear"),
            "config": {"shards": {"rows_per_group": rows_per_group}},
        }
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(feed, "WINDOW_BYTES", window_rows * ROW_BYTES),
    ):
        ends, shards = accumulate(shard_rows, initial=0), []
        for shard, (start, stop) in zip(manifest.splits[split].shards, pairwise(ends), strict=True):
            images = pa.array([pixels(row).tobytes() for row in range(start, stop)], pa.binary(ROW_BYTES))
            table = pa.table({IMAGE: images, LABEL: pa.array(range(start, stop), pa.int32())})
            path = Path(folder, shard.path)
            path.parent.mkdir(exist_ok=True)
            pq.write_table(table, path, row_group_size=rows_per_group, write_page_checksum=True)
            shards.append(shard_of(shard.path, shard.rows, pa.py_buffer(path.read_bytes())))
        written = manifest.splits[split].model_copy(update={"shards": tuple(shards)})
        yield folder, manifest.model_copy(update={"splits": {**manifest.splits, split: written}})


def pixels(row: int) -> np.ndarray:
    """A row's image, C x H x W."""
    return np.random.default_rng(row).integers(0, 256, SHAPE, dtype=np.uint8)


def assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.images, other.images)
    assert one.images.stride() == other.images.stride()
    assert one.global_rows == other.global_rows


def assert_rows_have_their_pixels(batch: Batch) -> None:
    for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
        assert np.array_equal(image.numpy(), pixels(label))


@given(shards, groups, windows, worlds, batches)
@example([12, 12], 4, 8, 2, 4)  # batches end where row groups and shards do
@example([12, 12], 4, 8, 2, 24)  # a batch is all rows of a rank, over every border
@example([5, 7], 3, 3, 5, 1)
@example([1], 8, 8, 5, 3)  # ranks without a row
@example([], 4, 4, 2, 3)
def test_every_row_is_evaluated_once_and_in_order(shard_rows, rows_per_group, window_rows, world_size, batch):
    """Kept or read anew, at first and again: the ranks, one after another, see the rows of the split from 0 on.

    Each batch but a rank's last has the rows that were asked for, and a rank knows the number of its first row.
    """
    with dataset("test", shard_rows, rows_per_group, window_rows) as (folder, manifest):
        seen: list[int] = []
        for rank in range(world_size):
            place = Place(rank, world_size)
            kept, anew = (
                EvaluationFeed(folder, manifest, "test", place, batch_size=batch, keep=keep) for keep in (True, False)
            )
            first = list(kept.batches())
            for found in (kept, anew, anew):
                for one, other in zip(first, found.batches(), strict=True):
                    assert_same(one, other)
            assert kept.first_row == anew.first_row == len(seen)
            sizes = [len(each.labels) for each in first]
            assert all(size == batch for size in sizes[:-1])
            assert all(0 < size <= batch for size in sizes[-1:])
            assert sizes == [each.global_rows for each in first]
            for each in first:
                assert_rows_have_their_pixels(each)
                seen += each.labels.tolist()
    assert seen == list(range(sum(shard_rows)))


@given(shards, groups, windows, worlds, batches, st.integers(0, 50))
@example([12, 12], 4, 4, 2, 4, 1)
@example([20, 20], 1, 3, 3, 7, 5)  # the last step alone
@example([3], 8, 1, 5, 2, 1)  # ranks without a row
def test_every_row_is_trained_on_once_whatever_feeds_it(
    shard_rows, rows_per_group, window_rows, world_size, batch, first_step
):
    """In memory or streamed the batches of an epoch are the same, from any step on; over all ranks each row is in one.

    In each step the ranks have as many rows together as each of them is told.
    """
    steps = num_steps(sum(shard_rows), batch)
    by_rank: list[list[Batch]] = []
    with dataset("train", shard_rows, rows_per_group, window_rows) as (folder, manifest):
        for rank in range(world_size):
            run = Run(folder, manifest, Place(rank, world_size), batch, 3)
            feeds = (TrainingFeed(run), StreamingFeed(run, epochs=3))
            by_rank.append(list(feeds[0].epoch(2)))
            for each, begun in product(feeds, (0, first_step % (steps + 1))):
                for one, other in zip(by_rank[-1][begun:], each.epoch(2, begun), strict=True):
                    assert_same(one, other)
    seen: list[int] = []
    for step in zip(*by_rank, strict=True):
        assert {each.global_rows for each in step} == {sum(len(each.labels) for each in step)}
        for each in step:
            assert_rows_have_their_pixels(each)
            seen += each.labels.tolist()
    assert sorted(seen) == list(range(sum(shard_rows)))
    assert {len(found) for found in by_rank} == {steps}


@given(st.lists(st.integers(0, 9), max_size=6), st.data())
def test_what_is_taken_is_what_there_is(sizes, data):
    """Windows of any sizes, each in any order, taken in pieces of any sizes, are their rows one after another."""
    orders = [data.draw(st.permutations(range(size))) for size in sizes]
    left, counts = sum(sizes), []
    while left:
        counts.append(data.draw(st.integers(0, left)))
        left -= counts[-1]
    starts = list(accumulate(sizes, initial=0))
    expected = [start + row for start, order in zip(starts, orders, strict=False) for row in order]

    def windows() -> Iterator[tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]]:
        for start, order in zip(starts, orders, strict=False):
            rows = torch.arange(start, start + len(order))
            yield (rows.to(torch.uint8).reshape(-1, 1), rows), torch.tensor(order, dtype=torch.int64)

    taken = Taken(windows(), 1)
    pieces = [taken.take(count) for count in (*counts, 0)]
    assert [len(labels) for _, labels in pieces] == [*counts, 0]
    assert torch.cat([labels for _, labels in pieces]).tolist() == expected
    assert torch.cat([images for images, _ in pieces]).flatten().tolist() == expected
    with pytest.raises(StopIteration):
        taken.take(1)
