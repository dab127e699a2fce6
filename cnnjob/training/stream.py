"""Rows that do not fit in memory: a thread reads the next window while the one before it is trained on.

After the last window of an epoch comes the first of the next one, so that no epoch waits for it. Two windows are held,
that which is trained on and that which is read (``feed.streaming_bytes``). pyarrow reads and
decompresses without Python's lock, on the core that trains: that is what streaming costs. Image files are decoded
elsewhere (``spread``), and arrive in the order of the windows.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import torch

from cnnjob.ahead import ahead
from cnnjob.training.blocks import BlockReader, Rows, Spread, Taken, as_rows
from cnnjob.training.feed import Batch, Run, as_images, window_rows
from cnnjob.training.order import Block, windows

Reading = Callable[[tuple[Block, ...]], tuple[np.ndarray, np.ndarray]]


class StreamingFeed:
    """The training rows of a rank, read anew in each epoch; each once, and none before the first step asked for.

    Args:
        run: The rank's rows.
        spread: What reads windows elsewhere; None: they are read here.
        epochs: The last epoch that is trained, 1 on: into no later one is read ahead. What reads elsewhere begins anew
            in each epoch, since validation needs it between them.
    """

    def __init__(self, run: Run, spread: Spread | None = None, epochs: int = 0) -> None:
        self._run = run
        self._shape = run.manifest.image.shape
        self._read = run.reader if spread else _InTurn(run)
        self._spread = spread or map
        self._epochs = 0 if spread else epochs
        self._found: Generator[tuple[Rows, torch.Tensor]] | None = None
        self._begun = 0

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step ``first_step`` (0 on); as many on every rank."""
        steps = list(self._run.steps(first_step))
        if not steps:
            return
        if self._found is None or first_step or epoch != self._begun:
            self._close()
            self._found = ahead(self._windows(epoch, skip=steps[0][0].start))
        rows = Taken(self._found, math.prod(self._shape))
        self._begun = 0
        try:
            for part, global_rows in steps:
                images, labels = rows.take(part.stop - part.start)
                yield Batch(as_images(images, torch.Size(self._shape)), labels, global_rows)
            # Its last window was taken, so the first of the next is being read.
            self._begun = epoch + 1
        finally:
            if not self._begun:
                self._close()

    def _close(self) -> None:
        """End the thread that reads; what it reads into is free after."""
        if self._found is not None:
            self._found.close()
        self._found = None

    def _windows(self, epoch: int, skip: int) -> Iterator[tuple[Rows, torch.Tensor]]:
        """The windows of an epoch, without the first ``skip`` rows, and of all that follow it."""
        epochs = range(epoch, max(epoch, self._epochs) + 1)
        # Of plain values: a thread that held the feed could be the last to let go of it, and would wait for itself.
        return _windows(self._run, self._spread, self._read, epochs, skip)


def _windows(
    run: Run, spread: Spread, read: Reading, epochs: Sequence[int], skip: int
) -> Iterator[tuple[Rows, torch.Tensor]]:
    """The rows of each window of some epochs and the order in which they are taken, without the first ``skip`` rows."""
    for epoch in epochs:
        left = list(windows(run.blocks, window_rows(run.manifest), seed=run.seed, epoch=epoch, rank=run.place.rank))
        while left and skip >= len(left[0].order) > 0:
            skip -= len(left.pop(0).order)
        for window, found in zip(left, spread(read, [each.blocks for each in left]), strict=True):
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
