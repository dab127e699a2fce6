"""From staged rows to shards: which rows go where, and the files themselves.

Preparing is two passes. The first decodes units and stages their rows, sorted by place (``data.split``); the
second writes each shard from the slices that fall into its range of places. The plan needs the places alone,
8 bytes a row, so the shards are the same whatever the units, their order and the number of workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.config.prepare import ShardsConfig
from cnnjob.data.manifest import Shard
from cnnjob.schema import ID, IMAGE, LABEL

PLACE = "place"
_STAGED_BATCH_ROWS = 1024
"""Rows in a record batch of a staged file: what is read at least to get at one row."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be written: the rows of a split with ``first <= place <= last``."""

    split: str
    number: int
    first: int
    last: int

    @property
    def path(self) -> str:
        """Relative to the data set's folder."""
        return f"{self.split}/{self.number:05d}.parquet"


@dataclass(frozen=True)
class WrittenShard:
    """A shard that lies in the staging folder.

    Attributes:
        split: Its split.
        shard: What the manifest says of it.
        class_counts: Rows of each class.
        row_digest: Sum of the rows' digests, see ``storage.sum_of_digests``.
        duplicate_ids: Ids that occur more than once, at most ten.
    """

    split: str
    shard: Shard
    class_counts: tuple[int, ...]
    row_digest: int
    duplicate_ids: tuple[str, ...]


def plan_shards(split: str, places: np.ndarray, rows_per_shard: int) -> list[ShardPlan]:
    """Cut a split into shards of nearly equal size.

    Args:
        split: Name of the split.
        places: uint64, the places of all its rows, in any order.
        rows_per_shard: Rows in a shard, at most (rows of equal place stay together).

    Returns:
        Plans that cover every row once, in order of place; none for no rows.
    """
    ordered = np.sort(places)
    count = len(ordered)
    if count == 0:
        return []
    num_shards = -(-count // rows_per_shard)
    starts = sorted({int(np.searchsorted(ordered, ordered[k * count // num_shards])) for k in range(num_shards)})
    ends = [*starts[1:], count]
    return [
        ShardPlan(split, number, int(ordered[start]), int(ordered[end - 1]))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def rows_per_shard(row_bytes: int, config: ShardsConfig) -> int:
    """How many rows of ``row_bytes`` a shard of the configured size holds; at least one."""
    return max(1, config.target_bytes // row_bytes)


def stage_rows(uri: str, table: pa.Table) -> np.ndarray:
    """Write one unit's rows of a split, sorted by place and id. Returns the places, uint64, sorted."""
    ordered = table.sort_by([(PLACE, "ascending"), (ID, "ascending")])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, ordered.schema) as writer:
        writer.write_table(ordered, max_chunksize=_STAGED_BATCH_ROWS)
    storage.write_bytes(uri, sink.getvalue())
    places: np.ndarray = ordered.column(PLACE).to_numpy()
    return places


def write_shard(
    plan: ShardPlan, staged: Sequence[str], folder: str, schema: pa.Schema, config: ShardsConfig, num_classes: int
) -> WrittenShard:
    """Write one shard from the staged files of its split.

    Args:
        plan: Which rows.
        staged: URIs of all staged files of the split.
        folder: The data set's folder, still staged.
        schema: ``schema.dataset_schema``.
        config: Row groups and compression.
        num_classes: Length of ``class_counts``.
    """
    pieces = [_slice(uri, plan.first, plan.last) for uri in staged]
    table = pa.concat_tables(pieces).sort_by([(PLACE, "ascending"), (ID, "ascending")])
    table = table.select(schema.names).cast(schema)
    sink = pa.BufferOutputStream()
    codec = config.compression.replace("none", "NONE")
    pq.write_table(
        table,
        sink,
        row_group_size=config.rows_per_group,
        compression=codec,
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=[ID],
    )
    content = sink.getvalue()
    uri = storage.join(folder, plan.path)
    storage.write_bytes(uri, content)
    counts = np.bincount(table.column(LABEL).to_numpy(), minlength=num_classes)
    shard = Shard(path=plan.path, rows=len(table), bytes=content.size, sha256=storage.sha256(content))
    ids = table.column(ID).to_pylist()
    repeated = sorted({first for first, second in pairwise(ids) if first == second})
    return WrittenShard(plan.split, shard, tuple(int(c) for c in counts), _row_digest(table, ids), tuple(repeated[:10]))


def _row_digest(table: pa.Table, ids: Sequence[str]) -> int:
    labels = table.column(LABEL).to_pylist()
    images = (memoryview(value.as_buffer()) for value in table.column(IMAGE))
    parts = (
        b"\0".join([name.encode("utf-8", "surrogateescape"), str(label).encode(), bytes(image)])
        for name, label, image in zip(ids, labels, images, strict=True)
    )
    return storage.sum_of_digests(parts)


def _slice(uri: str, first: int, last: int) -> pa.Table:
    """The rows of a staged file with ``first <= place <= last``; only the batches that hold some are read.

    The bounds are uint64 like the places: NumPy would compare a plain int as float64, which has 53 bits.
    """
    filesystem, path = storage.resolve(uri)
    with filesystem.open_input_file(path) as file, pa.ipc.open_file(file) as reader:
        found = []
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            places = batch.column(PLACE).to_numpy()
            start, stop = (
                np.searchsorted(places, np.uint64(first), "left"),
                np.searchsorted(places, np.uint64(last), "right"),
            )
            if stop > start:
                found.append(batch.slice(start, stop - start))
        return pa.Table.from_batches(found, reader.schema)
