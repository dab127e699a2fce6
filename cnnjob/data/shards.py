"""The second pass of preparing: which rows go into which shard, and the files themselves.

The rows of a split are ordered by place, a hash of their id, and cut into shards of nearly equal size; so the shards
are the same whatever the units, their order and the number of workers, and rows lie shuffled.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.config.prepare import PrepareConfig, ShardsConfig
from cnnjob.data.footers import footer_of
from cnnjob.data.manifest import Shard
from cnnjob.data.rows import images_of
from cnnjob.data.staging import schema_of, take_staged
from cnnjob.data.statistics import PixelCounts
from cnnjob.digests import sha256, sum_of_digests
from cnnjob.schema import ID, IMAGE, LABEL

_PAGE_BYTES = 1 << 18
"""Of a page: what is unpacked fits a core's own cache. Arrow looks at a page's size after so many rows as it writes at
once, 1,024 by default, so pages had 3 MB."""

_COUNTED_BYTES = 8_000_000
"""Pixels that are counted at a time; counting takes eight times as much."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be written.

    Attributes:
        split: Its split.
        path: Relative to the data set's folder.
        units: int32, the unit of each of its rows, in their order.
        positions: int32, where in that unit's staged file.
    """

    split: str
    path: str
    units: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class WrittenShard:
    """A shard that lies in the data set's folder.

    Attributes:
        split: Its split.
        shard: What the manifest says of it.
        class_counts: Rows of each class.
        row_digest: Sum of the rows' digests, see ``sum_of_digests``.
        pixels: Counts over its rows; None outside of the training split.
    """

    split: str
    shard: Shard
    class_counts: tuple[int, ...]
    row_digest: int
    pixels: PixelCounts | None


def cut_shards(num_rows: int, rows_per_shard: int) -> list[tuple[int, int]]:
    """Cut a split into as few shards as the limit allows, of nearly equal size: starts and stops, in order."""
    count = -(-num_rows // rows_per_shard)
    bounds = [number * num_rows // count for number in range(count + 1)] if count else []
    return list(itertools.pairwise(bounds))


def rows_per_shard(row_bytes: float, config: ShardsConfig) -> int:
    """How many rows of ``row_bytes`` a shard of the configured size holds; at least one."""
    return max(1, int(config.target_bytes / row_bytes))


def write_shard(
    plan: ShardPlan, *, staged: str, folder: str, config: PrepareConfig, keys: Sequence[pa.Field], num_classes: int
) -> WrittenShard:
    """Write one shard from the staged files.

    Args:
        plan: Which rows.
        staged: Folder of the staged files.
        folder: The data set's folder.
        config: Row groups and compression.
        keys: Fields that are carried along.
        num_classes: Length of ``class_counts``.
    """
    schema = schema_of(config, keys)
    table = take_staged(staged, plan.units, plan.positions, schema)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=config.shards.rows_per_group,
        data_page_size=_PAGE_BYTES,
        write_batch_size=max(1, min(1024, _PAGE_BYTES * len(table) // max(1, table.nbytes))),
        compression=config.shards.compression.replace("none", "NONE"),
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=[ID],
    )
    content = sink.getvalue()
    storage.write_bytes(storage.join(folder, plan.path), content)
    counts = np.bincount(table.column(LABEL).to_numpy(), minlength=num_classes)
    shard = shard_of(plan.path, len(table), content)
    pixels = _count_pixels(table, config) if plan.split == "train" else None
    return WrittenShard(plan.split, shard, tuple(int(c) for c in counts), _row_digest(table, keys), pixels)


def shard_of(path: str, rows: int, content: pa.Buffer) -> Shard:
    """What the manifest says of a file of so many rows."""
    footer = footer_of(pa.BufferReader(content))
    return Shard(
        path=path,
        rows=rows,
        bytes=content.size,
        sha256=sha256(content),
        footer_sha256=sha256(footer),
    )


def _count_pixels(table: pa.Table, config: PrepareConfig) -> PixelCounts:
    image = config.image
    shape = (image.channels, image.height, image.width)
    step = max(1, _COUNTED_BYTES // prod(shape))
    counts = (PixelCounts.of(images_of(table.slice(at, step), shape)) for at in range(0, len(table), step))
    return sum(counts, PixelCounts.zero(image.channels))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A key's values for the digest; times as numbers, since Arrow has more of them than Python."""
    kind = column.type
    if (
        pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_time64(kind)
        or pa.types.is_date64(kind)
    ):
        return column.cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return column.cast(pa.int32()).to_pylist()  # type: ignore[no-any-return]
    return column.to_pylist()  # type: ignore[no-any-return]


def _row_digest(table: pa.Table, keys: Sequence[pa.Field]) -> int:
    """Sum of the digests of the rows: id, label, image and the keys' values."""
    ids, labels = table.column(ID).to_pylist(), table.column(LABEL).to_pylist()
    images = (memoryview(value.as_buffer()) for value in table.column(IMAGE))
    values = [_values(table.column(key.name)) for key in keys]
    carried = [repr(row).encode() for row in zip(*values, strict=True)]
    parts = (
        b"\0".join([name.encode(), str(label).encode(), bytes(image), *([carried[at]] if carried else [])])
        for at, (name, label, image) in enumerate(zip(ids, labels, images, strict=True))
    )
    return sum_of_digests(parts)
