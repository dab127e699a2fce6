"""Rows to batches: a rank reads its row groups once, keeps them as uint8, and shuffles by index.

Packed shards are read in the worker with pyarrow: the fastest way measured, and it works when workers hold every
CPU (DESIGN.md, "Feeding"). Normalization is the model's, on its device: uint8 is a quarter of the bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from cnnjob.data.manifest import Manifest
from cnnjob.data.rows import read_rows
from cnnjob.errors import ResourceError
from cnnjob.training.order import epoch_order, rank_range, share, step_slices


@dataclass(frozen=True)
class Batch:
    """What one rank sees in one step.

    Attributes:
        images: uint8 N x C x H x W, channels_last; N may be 0.
        labels: int64 N.
        global_rows: Rows of the step over all ranks.
    """

    images: torch.Tensor
    labels: torch.Tensor
    global_rows: int


@dataclass(frozen=True)
class Place:
    """Where a worker stands: its rank among ``world_size``."""

    rank: int
    world_size: int


class TrainingFeed:
    """The training rows of a rank, in memory."""

    def __init__(
        self, dataset: str, manifest: Manifest, place: Place, *, global_batch_size: int, seed: int, cache_bytes: int
    ) -> None:
        split = manifest.splits["train"]
        start, stop = rank_range(split.rows, global_batch_size, place.rank, place.world_size)
        check_cache(manifest, stop - start, cache_bytes)
        self._images, self._labels = _tensors(dataset, manifest, "train", start, stop)
        self._num_rows = split.rows
        self._global_batch_size = global_batch_size
        self._place = place
        self._seed = seed

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step ``first_step`` (0 on); as many on every rank."""
        order = epoch_order(len(self._labels), seed=self._seed, epoch=epoch, rank=self._place.rank)
        indices = torch.from_numpy(order)
        slices = step_slices(self._num_rows, self._global_batch_size, self._place.rank, self._place.world_size)
        for part, global_rows in islice(slices, first_step, None):
            chosen = indices[part]
            yield Batch(self._images[chosen], self._labels[chosen], global_rows)


class EvaluationFeed:
    """A rank's part of a split that is evaluated: in order, every row of the split on exactly one rank.

    Attributes:
        first_row: Number of its first row in the split.
    """

    def __init__(self, dataset: str, manifest: Manifest, split: str, place: Place, *, batch_size: int) -> None:
        rows = manifest.splits[split].rows
        self.first_row = sum(share(rows, lower, place.world_size) for lower in range(place.rank))
        stop = self.first_row + share(rows, place.rank, place.world_size)
        self._images, self._labels = _tensors(dataset, manifest, split, self.first_row, stop)
        self._batch_size = batch_size

    def batches(self) -> Iterator[Batch]:
        """All rows of the part, in order."""
        for start in range(0, len(self._labels), self._batch_size):
            part = slice(start, start + self._batch_size)
            labels = self._labels[part]
            yield Batch(self._images[part], labels, len(labels))


def check_cache(manifest: Manifest, rows: int, cache_bytes: int) -> None:
    """Compare a worker's rows with its memory budget.

    Raises:
        ResourceError: They do not fit; with the arithmetic.
    """
    row_bytes = int(np.prod(manifest.image.shape))
    if rows * row_bytes > cache_bytes:
        raise ResourceError(
            f"a worker's {rows:,} rows of {row_bytes:,} bytes take {rows * row_bytes:,} bytes, and "
            f"cache_bytes_per_worker is {cache_bytes:,}; raise it, or use more workers."
        )


def _tensors(dataset: str, manifest: Manifest, split: str, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = read_rows(dataset, manifest.splits[split], start, stop, manifest.image.shape)
    images = torch.from_numpy(rows.images).contiguous(memory_format=torch.channels_last)
    return images, torch.from_numpy(rows.labels.astype(np.int64))
