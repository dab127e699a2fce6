"""Which rows a rank reads, and in which order: a function of (manifest, batch size, seed, epoch, rank, world size).

Rows lie in the shards in random order already (``data.split.place_of``), so a rank may keep one run of rows for
the whole job and shuffle within it. The runs are cut so that every step but the last takes exactly the global
batch over all ranks, and the last takes what is left, spread as evenly as it goes.

Within an epoch a rank goes through windows: blocks of rows that are read together, drawn at random, as many as fit into
``WINDOW_BYTES``; rows are shuffled within a window. Whoever keeps all rows in memory and whoever holds two windows see
the same order. A rank whose rows fit one window shuffles all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

WINDOW_BYTES = 16_000_000
"""Of pixels. It is no setting: the order, and with it the weights, would depend on it."""

Block = tuple[int, int]
"""Rows ``start`` to ``stop`` (exclusive) of a rank's own rows, counted from its first."""


@dataclass(frozen=True)
class Window:
    """Rows that are in memory together.

    Attributes:
        blocks: In the order in which they are put one after another.
        order: Of the rows, as they lie then, the order in which they are taken.
    """

    blocks: tuple[Block, ...]
    order: np.ndarray


def num_steps(num_rows: int, global_batch_size: int) -> int:
    """Optimizer steps in an epoch; the last may be smaller."""
    return -(-num_rows // global_batch_size)


def is_stuck(epoch: int, best_epoch: int, patience: int | None) -> bool:
    """Whether ``patience`` epochs in a row, up to ``epoch``, were no better than ``best_epoch``: then training ends."""
    return patience is not None and epoch - best_epoch >= patience


def share(total: int, rank: int, world_size: int) -> int:
    """A rank's part of ``total`` things dealt out evenly; lower ranks take one more where it does not divide."""
    return total // world_size + (rank < total % world_size)


def rank_range(num_rows: int, global_batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    """The rows of a rank, ``start`` to ``stop`` (exclusive), in the order of the shards.

    The ranges of all ranks cover every row once.
    """
    full, rest = divmod(num_rows, global_batch_size)

    def rows(of_rank: int) -> int:
        return full * share(global_batch_size, of_rank, world_size) + share(rest, of_rank, world_size)

    start = sum(rows(lower) for lower in range(rank))
    return start, start + rows(rank)


def blocks(shard_rows: Sequence[int], rows_per_group: int, start: int, stop: int) -> list[Block]:
    """The row groups of a split, cut to the rows ``start`` to ``stop`` (exclusive), counted from ``start``.

    Args:
        shard_rows: Rows of each shard of the split.
        rows_per_group: Rows of each row group but a shard's last.
        start: First row of the run in the split.
        stop: Behind its last.
    """
    found, first = [], 0
    for rows in shard_rows:
        cuts = [first + cut for cut in (*range(0, rows, rows_per_group), rows)]
        for low, high in pairwise(max(start, min(stop, cut)) for cut in cuts):
            if low < high:
                found.append((low - start, high - start))
        first += rows
    return found


def in_a_row(parts: Sequence[Block], most_rows: int) -> Iterator[tuple[Block, ...]]:
    """Blocks as they lie, some together: with ``most_rows`` rows at most, or one block."""
    taken: list[Block] = []
    for part in parts:
        if taken and part[1] - taken[0][0] > most_rows:
            yield tuple(taken)
            taken = []
        taken.append(part)
    if taken:
        yield tuple(taken)


def windows(parts: Sequence[Block], window_rows: int, *, seed: int, epoch: int, rank: int) -> Iterator[Window]:
    """A rank's epoch: windows in order, drawn from PCG64 seeded by (seed, epoch, rank).

    Args:
        parts: The rank's blocks.
        window_rows: Rows of a window, at most; a larger block is a window of its own.
        seed: The run's.
        epoch: 1 on.
        rank: The rank.
    """
    draw = np.random.Generator(np.random.PCG64([seed, epoch, rank]))
    sizes = [stop - start for start, stop in parts]
    if sum(sizes) <= window_rows:
        yield Window(tuple(parts), draw.permutation(sum(sizes)))
        return
    taken: list[int] = []
    for block in draw.permutation(len(parts)).tolist():
        if taken and sum(sizes[each] for each in taken) + sizes[block] > window_rows:
            yield _window(parts, taken, draw)
            taken = []
        taken.append(block)
    yield _window(parts, taken, draw)


def _window(parts: Sequence[Block], taken: Sequence[int], draw: np.random.Generator) -> Window:
    chosen = tuple(parts[block] for block in taken)
    return Window(chosen, draw.permutation(sum(stop - start for start, stop in chosen)))


def epoch_order(
    count: int,
    *,
    seed: int,
    epoch: int,
    rank: int,
    parts: Sequence[Block] | None = None,
    window_rows: int | None = None,
) -> np.ndarray:
    """A permutation of a rank's ``count`` rows for one epoch; see ``windows``. Without blocks: all in one window."""
    given = [(0, count)] if parts is None else parts
    rows = max(1, count) if window_rows is None else window_rows
    found = [_rows(window) for window in windows(given, rows, seed=seed, epoch=epoch, rank=rank)]
    return np.concatenate(found)


def _rows(window: Window) -> np.ndarray:
    """The rows of a window as they are taken, counted from the rank's first."""
    lying = [np.arange(start, stop) for start, stop in window.blocks]
    return np.concatenate(lying)[window.order] if lying else window.order


def step_slices(num_rows: int, global_batch_size: int, rank: int, world_size: int) -> Iterator[tuple[slice, int]]:
    """The steps of an epoch for a rank.

    Yields:
        Which part of the rank's order the step takes (it may be empty), and the step's rows over all ranks.
    """
    start = 0
    for step in range(num_steps(num_rows, global_batch_size)):
        global_rows = min(global_batch_size, num_rows - step * global_batch_size)
        stop = start + share(global_rows, rank, world_size)
        yield slice(start, stop), global_rows
        start = stop
