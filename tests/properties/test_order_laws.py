"""Every row once: the order of rows over ranks, steps and epochs, over grids and at random."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjob.training.order import blocks, epoch_order, in_a_row, num_steps, rank_range, share, step_slices, windows

rows = st.integers(0, 3000)
worlds = st.integers(1, 17)
batches = st.integers(1, 300)


def lengths(num_rows: int, batch: int, world_size: int) -> list[list[int]]:
    """Rows of each step (outer) on each rank (inner)."""
    by_rank = [
        [part.stop - part.start for part, _ in step_slices(num_rows, batch, rank, world_size)]
        for rank in range(world_size)
    ]
    return [list(step) for step in zip(*by_rank, strict=True)]


@given(rows, batches, worlds)
def test_ranges_cover_every_row_once(num_rows, batch, world_size):
    """The ranks' ranges follow one another from the first row to the last."""
    ranges = [rank_range(num_rows, batch, rank, world_size) for rank in range(world_size)]
    assert (ranges[0][0], ranges[-1][1]) == (0, num_rows)
    assert all(before[1] == after[0] and after[0] <= after[1] for before, after in pairwise(ranges))


@given(rows, batches, worlds)
def test_slices_cover_a_ranks_rows_once(num_rows, batch, world_size):
    """A rank's slices follow one another and take exactly the rows of its range."""
    for rank in range(world_size):
        start, stop = rank_range(num_rows, batch, rank, world_size)
        parts = [part for part, _ in step_slices(num_rows, batch, rank, world_size)]
        taken = [row for part in parts for row in range(part.start, part.stop)]
        assert taken == list(range(stop - start))


@given(rows, batches, worlds)
def test_ranks_have_equally_many_steps(num_rows, batch, world_size):
    """Every rank takes as many steps as the epoch has: a collective that one rank misses would hang."""
    counts = {len(list(step_slices(num_rows, batch, rank, world_size))) for rank in range(world_size)}
    assert counts == {num_steps(num_rows, batch)}


@given(rows, batches, worlds)
def test_steps_are_full_but_the_last(num_rows, batch, world_size):
    """Each step has exactly the global batch over all ranks, and the last has what is left."""
    totals = [sum(step) for step in lengths(num_rows, batch, world_size)]
    told = [global_rows for _, global_rows in step_slices(num_rows, batch, 0, world_size)]
    assert totals == told
    assert totals[:-1] == [batch] * (len(totals) - 1)
    assert sum(totals) == num_rows
    assert all(0 < total <= batch for total in totals)


@given(rows, batches, worlds)
def test_ranks_have_nearly_equally_many_rows(num_rows, batch, world_size):
    """In each step the ranks' rows differ by at most one."""
    assert all(max(step) - min(step) <= 1 for step in lengths(num_rows, batch, world_size))


@given(st.integers(0, 10_000), worlds)
def test_shares_add_up(total, world_size):
    """The ranks' shares add up to the whole."""
    assert sum(share(total, rank, world_size) for rank in range(world_size)) == total


@pytest.mark.parametrize(("num_rows", "world_size", "batch"), product([1, 7, 64, 101], [1, 2, 3, 5], [1, 8, 13, 200]))
def test_every_row_once_in_every_epoch(num_rows, world_size, batch):
    """In each of three epochs every row of the split is taken once, over all ranks and steps."""
    for epoch in (1, 2, 3):
        taken = []
        for rank in range(world_size):
            start, stop = rank_range(num_rows, batch, rank, world_size)
            order = start + epoch_order(stop - start, seed=5, epoch=epoch, rank=rank)
            for part, _ in step_slices(num_rows, batch, rank, world_size):
                taken += order[part].tolist()
        assert sorted(taken) == list(range(num_rows))


@given(st.integers(0, 500), st.integers(0, 2**63 - 1), st.integers(1, 10**5), st.integers(0, 4096))
def test_order_is_a_permutation(count, seed, epoch, rank):
    """An epoch's order has each of a rank's rows once, and is the same when it is asked for again."""
    order = epoch_order(count, seed=seed, epoch=epoch, rank=rank)
    assert np.array_equal(np.sort(order), np.arange(count))
    assert np.array_equal(order, epoch_order(count, seed=seed, epoch=epoch, rank=rank))


@given(st.integers(30, 200), st.integers(0, 2**63 - 1), st.integers(1, 1000))
def test_epochs_and_ranks_differ(count, seed, epoch):
    """The next epoch, the next rank and the next seed have other orders."""
    order = epoch_order(count, seed=seed, epoch=epoch, rank=0)
    others = [{"seed": seed, "epoch": epoch + 1, "rank": 0}, {"seed": seed, "epoch": epoch, "rank": 1}]
    others.append({"seed": (seed + 1) % 2**63, "epoch": epoch, "rank": 0})
    assert not any(np.array_equal(order, epoch_order(count, **other)) for other in others)


@given(st.lists(st.integers(0, 300), max_size=6), st.integers(1, 80), batches, worlds, st.integers(1, 400))
def test_windows_cover_every_row_once(shard_rows, rows_per_group, batch, world_size, window_rows):
    """At any size of shards, row groups and windows a rank takes each of its rows once in an epoch."""
    for rank in range(world_size):
        start, stop = rank_range(sum(shard_rows), batch, rank, world_size)
        parts = blocks(shard_rows, rows_per_group, start, stop)
        assert [row for low, high in parts for row in range(low, high)] == list(range(stop - start))
        order = epoch_order(stop - start, seed=3, epoch=2, rank=rank, parts=parts, window_rows=window_rows)
        assert np.array_equal(np.sort(order), np.arange(stop - start))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(1, 80), st.integers(1, 400))
def test_windows_are_as_large_as_allowed(shard_rows, rows_per_group, window_rows):
    """A window has no more rows than asked for, unless it is one block; where all rows fit there is one window."""
    parts = blocks(shard_rows, rows_per_group, 0, sum(shard_rows))
    found = list(windows(parts, window_rows, seed=1, epoch=1, rank=0))
    assert all(len(window.order) <= window_rows or len(window.blocks) == 1 for window in found)
    assert all(len(window.order) == sum(stop - start for start, stop in window.blocks) for window in found)
    if sum(shard_rows) <= window_rows:
        assert len(found) == 1
        assert np.array_equal(found[0].order, epoch_order(sum(shard_rows), seed=1, epoch=1, rank=0))


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 9), st.integers(1, 30))
def test_blocks_in_a_row_are_all_blocks(shard_rows, rows_per_group, most_rows):
    """Blocks that are read together are all blocks in order, as many as allowed, or one."""
    parts = blocks(shard_rows, rows_per_group, 0, sum(shard_rows))
    found = list(in_a_row(parts, most_rows))
    assert [part for run in found for part in run] == parts
    sizes = [run[-1][1] - run[0][0] for run in found]
    assert all(size <= most_rows or len(run) == 1 for size, run in zip(sizes, found, strict=True))
    following = [run[0][1] - run[0][0] for run in found[1:]]
    assert all(size + after > most_rows for size, after in zip(sizes, following, strict=False))
