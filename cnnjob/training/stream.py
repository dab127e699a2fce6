"""Rows that do not fit in memory: a thread reads the next window of an epoch while the one before it is trained on.

Two windows are held, that which is trained on and that which is read (``feed.streaming_bytes``). pyarrow reads and
decompresses without Python's lock, on the core that trains: that is what streaming costs. Image files are decoded
elsewhere (``spread``), and arrive in the order of the windows.
"""

import math
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import torch

from cnnjob.ahead import ahead
from cnnjob.training.blocks import BlockReader, Rows, Spread, Taken, as_rows
from cnnjob.training.feed import Batch, Run, as_images, window_rows
from cnnjob.training.order import Block, windows


class StreamingFeed:
    """The training rows of a rank, read anew in each epoch; each once, and none before the first step asked for.

    Args:
        run: The rank's rows.
        spread: What reads windows elsewhere; None: they are read here.
    """

    def __init__(self, run: Run, spread: Spread | None = None) -> None:
        self._run = run
        self._shape = run.manifest.image.shape
        self._read = run.reader if spread else _InTurn(run)
        self._spread = spread or map

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step ``first_step`` (0 on); as many on every rank."""
        steps = list(self._run.steps(first_step))
        if not steps:
            return
        with closing(ahead(self._windows(epoch, skip=steps[0][0].start))) as found:
            rows = Taken(found, math.prod(self._shape))
            for part, global_rows in steps:
                images, labels = rows.take(part.stop - part.start)
                yield Batch(as_images(images, torch.Size(self._shape)), labels, global_rows)

    def _windows(self, epoch: int, skip: int) -> Iterator[tuple[Rows, torch.Tensor]]:
        """The rows of each window and the order in which they are taken, without the first ``skip`` rows."""
        run = self._run
        left = list(windows(run.blocks, window_rows(run.manifest), seed=run.seed, epoch=epoch, rank=run.place.rank))
        while left and skip >= len(left[0].order) > 0:
            skip -= len(left.pop(0).order)
        for window, found in zip(left, self._spread(self._read, [each.blocks for each in left]), strict=True):
            yield as_rows(found), torch.from_numpy(window.order[skip:])
            skip = 0


class _InTurn:
    """Reads windows into two buffers in turn: while one is trained on, the other is read into.

    A new buffer for each window would break up the heap: memory grew by another window in some runs, not in others.
    """

    def __init__(self, run: Run) -> None:
        self._read: BlockReader = run.reader
        rows = max([window_rows(run.manifest), *(stop - start for start, stop in run.blocks)])
        row_bytes = math.prod(run.manifest.image.shape)
        self._next, self._after = (np.empty((rows, row_bytes), dtype=np.uint8) for _ in range(2))

    def __call__(self, blocks: tuple[Block, ...]) -> tuple[np.ndarray, np.ndarray]:
        """See ``BlockReader``; what was read before the last time is no more."""
        self._next, self._after = self._after, self._next
        return self._read(blocks, self._after)
