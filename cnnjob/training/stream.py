"""Rows that do not fit in memory: a thread reads the next window of an epoch while the one before it is trained on.

Two windows are held, that which is trained on and that which is read, and a row group as Parquet gives it. pyarrow
reads and decompresses without Python's lock, on the core that trains: that is what streaming costs.
"""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import numpy as np
import torch

from cnnjob.data.rows import images_of, read_span, spans
from cnnjob.schema import IMAGE, LABEL
from cnnjob.training.feed import Batch, Run, as_images, window_rows
from cnnjob.training.order import Window, windows

Rows = tuple[torch.Tensor, torch.Tensor]


class StreamingFeed:
    """The training rows of a rank, read anew in each epoch; each once, and none before the first step asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shape = run.manifest.image.shape

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step ``first_step`` (0 on); as many on every rank."""
        steps = list(self._run.steps(first_step))
        if not steps:
            return
        ahead = _Ahead(self._windows(epoch), self._read, skip=steps[0][0].start)
        try:
            for part, global_rows in steps:
                images, labels = ahead.take(part.stop - part.start)
                yield Batch(as_images(images, torch.Size(self._shape)), labels, global_rows)
        finally:
            ahead.close()

    def _windows(self, epoch: int) -> Iterator[Window]:
        run = self._run
        return windows(run.blocks, window_rows(run.manifest), seed=run.seed, epoch=epoch, rank=run.place.rank)

    def _read(self, window: Window) -> Rows:
        """The window's rows, H x W x C bytes each, and their labels, as they lie: in the order of its blocks."""
        channels, height, width = self._shape
        count = len(window.order)
        images = np.empty((count, height, width, channels), dtype=np.uint8)
        labels = np.empty(count, dtype=np.int64)
        first, at = self._run.range[0], 0
        split = self._run.manifest.splits["train"]
        for start, stop in window.blocks:
            for span in spans(split, first + start, first + stop):
                for table in read_span(self._run.dataset, span, (IMAGE, LABEL)):
                    part = slice(at, at + len(table))
                    images[part] = images_of(table, self._shape).transpose(0, 2, 3, 1)
                    labels[part] = table.column(LABEL).to_numpy()
                    at += len(table)
        return torch.from_numpy(images).reshape(count, height * width * channels), torch.from_numpy(labels)


class _Ahead:
    """Windows, read one ahead by a thread of its own, and taken row by row."""

    def __init__(self, order: Iterator[Window], read: Callable[[Window], Rows], skip: int) -> None:
        self._order, self._read, self._skip = order, read, skip
        self._ready: SimpleQueue[tuple[Rows, torch.Tensor] | BaseException | None] = SimpleQueue()
        self._wanted = threading.Semaphore(1)
        self._closed = False
        self._rows: Rows | None = None
        self._left = torch.empty(0, dtype=torch.int64)
        self._thread = threading.Thread(target=self._work, name="read ahead", daemon=True)
        self._thread.start()

    def take(self, count: int) -> Rows:
        """The next ``count`` rows, over the borders of windows.

        Raises:
            Exception: What reading raised.
        """
        pieces: list[Rows] = []
        while count:
            if not len(self._left):
                self._next()
            chosen, self._left = self._left[:count], self._left[count:]
            assert self._rows is not None, "a window is there"
            pieces.append((self._rows[0][chosen], self._rows[1][chosen]))
            count -= len(chosen)
        if len(pieces) == 1:
            return pieces[0]
        if not pieces:
            return self._none()
        return torch.cat([images for images, _ in pieces]), torch.cat([labels for _, labels in pieces])

    def close(self) -> None:
        """End the thread; what it is reading it reads to the end."""
        self._closed = True
        self._rows = None
        self._wanted.release()
        self._thread.join()

    def _next(self) -> None:
        self._rows = None
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        assert found is not None, "an epoch has the rows of its steps"
        self._rows, self._left = found
        # Only now is there room for another one.
        self._wanted.release()

    def _none(self) -> Rows:
        """No rows: a rank may have none in the last step."""
        if self._rows is None:
            self._next()
        assert self._rows is not None, "a window is there"
        return self._rows[0][:0], self._rows[1][:0]

    def _work(self) -> None:
        try:
            skip = self._skip
            for window in self._order:
                if skip >= len(window.order) > 0:
                    skip -= len(window.order)
                    continue
                self._wanted.acquire()
                if self._closed:
                    return
                self._ready.put((self._read(window), torch.from_numpy(window.order[skip:])))
                skip = 0
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the rows are waited for
            self._ready.put(error)
