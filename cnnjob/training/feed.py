"""Rows to batches: a rank's rows in memory as uint8 and shuffled by index, or streamed where they do not fit.

Shards are read in the worker with pyarrow: the fastest way measured, and it works when workers hold every CPU
(DESIGN.md, 4). Normalization is the model's, on its device: uint8 is a quarter of the bytes. Both feeds give
the same batches, so the memory budget changes no weight.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, Protocol

import torch

from cnnjob.config.prepare import ShardsConfig
from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest
from cnnjob.errors import ResourceError
from cnnjob.training.blocks import BlockReader, Rows, Spread, Taken, as_rows
from cnnjob.training.order import WINDOW_BYTES, Block, blocks, epoch_order, in_a_row, rank_range, share, step_slices


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


class Feed(Protocol):
    """The training rows of a rank."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step ``first_step`` (0 on); as many on every rank."""


@dataclass(frozen=True)
class Run:
    """A rank's rows of the training split, and how they are gone through.

    Attributes:
        dataset: The data set.
        manifest: Its manifest.
        place: The rank.
        global_batch_size: Rows of a step over all ranks.
        seed: The run's.
    """

    dataset: str
    manifest: Manifest
    place: Place
    global_batch_size: int
    seed: int

    @property
    def range(self) -> tuple[int, int]:
        """Its rows in the split, ``start`` to ``stop`` (exclusive)."""
        rows = self.manifest.splits["train"].rows
        return rank_range(rows, self.global_batch_size, self.place.rank, self.place.world_size)

    @property
    def reader(self) -> BlockReader:
        """What reads its blocks."""
        return BlockReader(self.dataset, self.manifest, "train", self.range[0])

    @property
    def blocks(self) -> list[Block]:
        """Its row groups."""
        return _blocks(self.manifest, "train", *self.range)

    def steps(self, first_step: int) -> Iterator[tuple[slice, int]]:
        """Which part of an epoch's order each step takes, and its rows over all ranks."""
        rows, place = self.manifest.splits["train"].rows, self.place
        return islice(step_slices(rows, self.global_batch_size, place.rank, place.world_size), first_step, None)


class TrainingFeed:
    """The training rows of a rank, in memory."""

    def __init__(self, run: Run, spread: Spread = map) -> None:
        self._run = run
        self._shape = torch.Size(run.manifest.image.shape)
        self._rows, self._labels = _all_rows(run.reader, run.blocks, spread)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step ``first_step`` (0 on); as many on every rank."""
        run = self._run
        order = epoch_order(
            len(self._labels),
            seed=run.seed,
            epoch=epoch,
            rank=run.place.rank,
            parts=run.blocks,
            window_rows=window_rows(run.manifest),
        )
        indices = torch.from_numpy(order)
        for part, global_rows in run.steps(first_step):
            chosen = indices[part]
            yield Batch(as_images(self._rows[chosen], self._shape), self._labels[chosen], global_rows)


class EvaluationFeed:
    """A rank's part of a split that is evaluated: in order, every row of the split on exactly one rank.

    Args:
        dataset: The data set.
        manifest: Its manifest.
        split: The split.
        place: The rank.
        batch_size: Rows of a batch; the last has what is left.
        keep: Whether the rows stay in memory. Else they are read anew each time, a row group after another.
        spread: What reads them elsewhere.

    Attributes:
        first_row: Number of its first row in the split.
    """

    def __init__(
        self,
        dataset: str,
        manifest: Manifest,
        split: str,
        place: Place,
        *,
        batch_size: int,
        keep: bool = True,
        spread: Spread = map,
    ) -> None:
        rows = manifest.splits[split].rows
        self.first_row = sum(share(rows, lower, place.world_size) for lower in range(place.rank))
        self._count = share(rows, place.rank, place.world_size)
        self._reader = BlockReader(dataset, manifest, split, self.first_row)
        self._blocks = _blocks(manifest, split, self.first_row, self.first_row + self._count)
        self._batch_size = batch_size
        self._spread = spread
        self._kept = _all_rows(self._reader, self._blocks, spread) if keep else None

    def batches(self) -> Iterator[Batch]:
        """All rows of the part, in order."""
        shape = self._reader.manifest.image.shape
        rows = Taken(((each, torch.arange(len(each[1]))) for each in self._pieces()), math.prod(shape))
        for start in range(0, self._count, self._batch_size):
            images, labels = rows.take(min(self._batch_size, self._count - start))
            yield Batch(as_images(images, torch.Size(shape)), labels, len(labels))

    def _pieces(self) -> Iterator[Rows]:
        if self._kept is not None:
            return iter([self._kept])
        return map(as_rows, self._spread(self._reader, [(block,) for block in self._blocks]))


@dataclass(frozen=True)
class FeedChoice:
    """How the workers of a run get their rows.

    Attributes:
        kind: ``in memory`` or ``streamed``.
        reason: For people, with the arithmetic.
        held: Bytes of rows that a worker holds.
    """

    kind: Literal["in memory", "streamed"]
    reason: str
    held: int


def feed_of(config: TrainConfig, manifest: Manifest) -> FeedChoice:
    """How the workers of a run get their rows: alike, by the worker that has the most.

    Raises:
        ResourceError: They get them in no way; with the arithmetic.
    """
    by = f"; {config.data_cpus} CPUs decode" if manifest.image.storage == "encoded" else ""
    start, stop = rank_range(manifest.splits["train"].rows, config.global_batch_size, 0, config.num_workers)
    validation = share(manifest.splits["val"].rows, 0, config.num_workers)
    choice = choose_feed(manifest, stop - start, validation, config.cache_bytes_per_worker)
    return replace(choice, reason=choice.reason + by)


def choose_feed(manifest: Manifest, rows: int, validation_rows: int, budget: int) -> FeedChoice:
    """In memory where a worker's rows fit its budget, else streamed.

    Args:
        manifest: The data set's.
        rows: Training rows of the worker that has the most.
        validation_rows: The same of the validation split.
        budget: Bytes that a worker may spend on rows.

    Raises:
        ResourceError: Not even two windows fit; with the arithmetic.
    """
    row_bytes = math.prod(manifest.image.shape)
    needed = (rows + validation_rows) * row_bytes
    told = f"{rows + validation_rows:,} rows x {row_bytes:,} bytes = {needed / 1e6:,.1f} MB a worker"
    if needed <= budget:
        return FeedChoice("in memory", f"{told}, within cache_bytes_per_worker, {budget / 1e6:,.1f} MB", needed)
    least = streaming_bytes(manifest)
    if least > budget:
        raise ResourceError(
            f"a worker's {told.removesuffix(' a worker')}, more than cache_bytes_per_worker, {budget:,} bytes; and "
            f"streaming them takes {least:,} bytes. Raise cache_bytes_per_worker to {min(needed, least):,}, or prepare "
            f"the data set with a smaller shards.rows_per_group."
        )
    reason = f"{told}, more than cache_bytes_per_worker, {budget / 1e6:,.1f} MB; {least / 1e6:,.1f} MB are held"
    return FeedChoice("streamed", reason, least)


ARROW_BYTES = 28_000_000
"""What Arrow's allocator keeps for itself at least, however small the row groups are: 10 to 25 MB were measured."""


def streaming_bytes(manifest: Manifest) -> int:
    """What streaming holds: the window that is trained on, the one being read, and what reading takes.

    That is three row groups (one as it lies in the file, one decompressed, and what Arrow's allocator keeps), or
    ``ARROW_BYTES`` where they are small: measured, see ``benchmarks.feeds``. Evaluation holds one more, beside the
    windows of training.
    """
    group, row_bytes = rows_per_group(manifest), math.prod(manifest.image.shape)
    windows = 2 * max(window_rows(manifest), group) * row_bytes
    return windows + group * row_bytes + max(ARROW_BYTES, 3 * group * row_bytes)


def window_rows(manifest: Manifest) -> int:
    """Rows of a window."""
    return max(1, WINDOW_BYTES // math.prod(manifest.image.shape))


def rows_per_group(manifest: Manifest) -> int:
    """Rows of a row group, as the data set was prepared."""
    return ShardsConfig(**manifest.config.get("shards", {})).rows_per_group


def as_images(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Rows of H x W x C bytes as images N x C x H x W, channels_last."""
    channels, height, width = shape
    return rows.view(len(rows), height, width, channels).permute(0, 3, 1, 2)


def _blocks(manifest: Manifest, split: str, start: int, stop: int) -> list[Block]:
    """The row groups of a split that hold rows ``start`` to ``stop`` (exclusive)."""
    shards = manifest.splits[split].shards
    return blocks([shard.rows for shard in shards], rows_per_group(manifest), start, stop)


def _all_rows(reader: BlockReader, lying: Sequence[Block], spread: Spread) -> Rows:
    """Rows in memory, as they lie; read a window at a time."""
    count = lying[-1][1] if lying else 0
    # Each row is one piece of memory, so a batch is gathered row by row and not pixel by pixel.
    rows = torch.empty((count, math.prod(reader.manifest.image.shape)), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    parts = list(in_a_row(lying, window_rows(reader.manifest)))
    for part, found in zip(parts, spread(reader, parts), strict=True):
        where = slice(part[0][0], part[-1][1])
        rows[where], labels[where] = as_rows(found)
    return rows, labels
