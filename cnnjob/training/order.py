"""Which rows a rank reads, and in which order: a function of (rows, batch size, seed, epoch, rank, world size).

Rows lie in the shards in random order already (``data.split.place_of``), so a rank may keep one run of rows for
the whole job and shuffle within it. The runs are cut so that every step but the last takes exactly the global
batch over all ranks, and the last takes what is left, spread as evenly as it goes.
"""

from collections.abc import Iterator

import numpy as np


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


def epoch_order(count: int, *, seed: int, epoch: int, rank: int) -> np.ndarray:
    """A permutation of a rank's ``count`` rows for one epoch: PCG64 seeded by (seed, epoch, rank)."""
    return np.random.Generator(np.random.PCG64([seed, epoch, rank])).permutation(count)


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
