"""Blocks of a rank's rows -> arrays, here or on another CPU: what travels is a list of blocks there and bytes back."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cnnjob.data.manifest import Manifest
from cnnjob.data.rows import images_of, read_span, spans
from cnnjob.schema import IMAGE, LABEL
from cnnjob.training.order import Block

Rows = tuple[torch.Tensor, torch.Tensor]
"""uint8 N x (H x W x C), and int64 N."""

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Like ``map``: a function over items, results in their order."""


@dataclass(frozen=True)
class BlockReader:
    """Reads blocks of rows of the training split; small, and sent to other processes.

    Attributes:
        dataset: The data set.
        manifest: Its manifest.
        first: Number in the split of the row that blocks are counted from.
    """

    dataset: str
    manifest: Manifest
    first: int

    def __call__(self, blocks: tuple[Block, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Images, H x W x C bytes each, and labels, as they lie: in the order of the blocks.

        Raises:
            IntegrityError: A file is gone or is not what the manifest says.
        """
        channels, height, width = self.manifest.image.shape
        count = sum(stop - start for start, stop in blocks)
        images = np.empty((count, height, width, channels), dtype=np.uint8)
        labels = np.empty(count, dtype=np.int64)
        at = 0
        for start, stop in blocks:
            for span in spans(self.manifest.splits["train"], self.first + start, self.first + stop):
                for table in read_span(self.dataset, span, (IMAGE, LABEL)):
                    part = slice(at, at + len(table))
                    images[part] = images_of(table, self.manifest.image.shape).transpose(0, 2, 3, 1)
                    labels[part] = table.column(LABEL).to_numpy()
                    at += len(table)
        return images.reshape(count, height * width * channels), labels


def as_rows(found: tuple[np.ndarray, np.ndarray]) -> Rows:
    """Arrays as tensors. What came from another process is read-only, and is only read."""
    images, labels = found
    return torch.from_numpy(images), torch.from_numpy(labels)
