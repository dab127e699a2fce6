"""Blocks of a rank's rows -> arrays, here or on another CPU: what travels is a list of blocks there and bytes back."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from cnnjob.data.manifest import Manifest
from cnnjob.data.rows import images_of, read_spans, spans
from cnnjob.schema import IMAGE, LABEL
from cnnjob.training.order import Block

Rows = tuple[torch.Tensor, torch.Tensor]
"""uint8 N x (H x W x C), and int64 N."""

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Like ``map``: a function over items, results in their order."""


@dataclass(frozen=True)
class BlockReader:
    """Reads blocks of rows of a split; small, and sent to other processes.

    Attributes:
        dataset: The data set.
        manifest: Its manifest.
        split: The split.
        first: Number in the split of the row that blocks are counted from.
    """

    dataset: str
    manifest: Manifest
    split: str
    first: int

    def __call__(self, blocks: tuple[Block, ...], out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images, H x W x C bytes each, and labels, as they lie: in the order of the blocks.

        Args:
            blocks: Which rows.
            out: uint8 N x (H x W x C), N as many as there are rows or more: the images are put there. None: anew.

        Raises:
            IntegrityError: A file is gone or is not what the manifest says.
        """
        channels, height, width = self.manifest.image.shape
        count = sum(stop - start for start, stop in blocks)
        rows = np.empty((count, height * width * channels), dtype=np.uint8) if out is None else out[:count]
        images = rows.reshape(count, height, width, channels)
        labels = np.empty(count, dtype=np.int64)
        split = self.manifest.splits[self.split]
        wanted = [span for start, stop in blocks for span in spans(split, self.first + start, self.first + stop)]
        # Where the rows of each span begin, and then where its next rows go.
        places = [0, *accumulate(span.stop - span.start for span in wanted)]
        for number, table in read_spans(self.dataset, wanted, (IMAGE, LABEL)):
            part = slice(places[number], places[number] + len(table))
            images[part] = images_of(table, self.manifest.image.shape).transpose(0, 2, 3, 1)
            labels[part] = table.column(LABEL).to_numpy()
            places[number] += len(table)
        return rows, labels


class Taken:
    """Rows taken one after another, in pieces of any size.

    Args:
        windows: Rows, and the order in which they are taken. A window is let go of before the next is asked for.
        row_bytes: Bytes of an image.
    """

    def __init__(self, windows: Iterator[tuple[Rows, torch.Tensor]], row_bytes: int) -> None:
        self._windows = windows
        self._none = torch.empty((0, row_bytes), dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        self._rows: Rows | None = None
        self._left = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> Rows:
        """The next ``count`` rows, over the borders of windows."""
        if count == 0:
            # Also where no window is left: the last step of an epoch may have rows on other ranks alone.
            return self._none
        pieces = []
        while count:
            pieces.append(self._piece(count))
            count -= len(pieces[-1][1])
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat([images for images, _ in pieces]), torch.cat([labels for _, labels in pieces])

    def _piece(self, count: int) -> Rows:
        """Up to ``count`` rows of one window."""
        if self._rows is None or not len(self._left):
            # Let go first: another one is being read already.
            self._rows = None
            self._rows, self._left = next(self._windows)
        chosen, self._left = self._left[:count], self._left[count:]
        return self._rows[0][chosen], self._rows[1][chosen]


def as_rows(found: tuple[np.ndarray, np.ndarray]) -> Rows:
    """Arrays as tensors. What came from another process is read-only, and is only read."""
    images, labels = found
    return torch.from_numpy(images), torch.from_numpy(labels)
