"""Rows of a prepared data set as arrays: which row groups hold a range, and reading just those."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.footers import footer_of
from cnnjob.data.formats.encoded import decode
from cnnjob.data.manifest import Shard, Split
from cnnjob.digests import sha256
from cnnjob.errors import IntegrityError
from cnnjob.schema import ID, IMAGE, LABEL
from cnnjob.store_errors import told_unless_missing


@dataclass(frozen=True)
class Span:
    """Rows ``start`` to ``stop`` (exclusive) of one shard."""

    shard: Shard
    start: int
    stop: int


@dataclass(frozen=True)
class Rows:
    """Rows in memory.

    Attributes:
        ids: Their ids.
        images: uint8 N x C x H x W.
        labels: int32 N.
    """

    ids: list[str]
    images: np.ndarray
    labels: np.ndarray


def spans(split: Split, start: int, stop: int) -> list[Span]:
    """Where rows ``start`` to ``stop`` (exclusive) of a split lie, in order."""
    found = []
    first = 0
    for shard in split.shards:
        low, high = max(start - first, 0), min(stop - first, shard.rows)
        if low < high:
            found.append(Span(shard, low, high))
        first += shard.rows
    return found


def read_span(dataset: str, span: Span, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    """The row groups of a span, cut to it, one at a time.

    Raises:
        CnnjobError: See ``read_spans``.
    """
    return (table for _, table in read_spans(dataset, [span], columns))


def read_spans(dataset: str, wanted: Sequence[Span], columns: tuple[str, ...]) -> Iterator[tuple[int, pa.Table]]:
    """The row groups of spans, cut to them, one at a time: each with the number of its span.

    A file is opened once, since its footer says where each of its row groups lies: with small ones it is large. Spans
    come by file therefore, and those of a file in their order.

    Raises:
        IntegrityError: A file is gone, is not what the manifest says, or a byte of what is read has changed: footer and
            pages have digests, since a flipped byte in a picture decodes to another picture.
        UserError: Access was refused.
        StorageError: The disk, the network or the store failed.
    """
    by_file: dict[str, list[int]] = {}
    for number, span in enumerate(wanted):
        by_file.setdefault(span.shard.path, []).append(number)
    for path, numbers in by_file.items():
        with _opened(storage.join(dataset, path), wanted[numbers[0]].shard) as parquet:
            groups = range(parquet.num_row_groups)
            ends = list(accumulate(parquet.metadata.row_group(group).num_rows for group in groups))
            for number in numbers:
                for table in _cut(parquet, ends, wanted[number], list(columns)):
                    yield number, table


@contextmanager
def _opened(uri: str, shard: Shard) -> Iterator[pq.ParquetFile]:
    filesystem, path = storage.resolve(uri)
    with (
        # An OSError that the store has not raised: the file is gone, or Arrow means its bytes.
        _as_damage(uri, OSError),
        told_unless_missing(uri),
        filesystem.open_input_file(path) as file,
        _as_damage(uri, pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, ValueError),
    ):
        footer = footer_of(file)
        if file.size() != shard.bytes or sha256(footer) != shard.footer_sha256:
            raise IntegrityError(f"{uri} is not the file that its manifest names. Prepare the data set again.")
        metadata = pq.read_metadata(pa.BufferReader(footer))
        with pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True) as parquet:
            yield parquet


@contextmanager
def _as_damage(uri: str, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise IntegrityError(f"{uri} cannot be read: {str(error).rstrip('.')}. Prepare the data set again.") from error


def _cut(parquet: pq.ParquetFile, ends: list[int], span: Span, columns: list[str]) -> Iterator[pa.Table]:
    """The row groups of a span; ``ends`` has the row behind each group of the file."""
    start = span.start
    for group in range(bisect_right(ends, span.start), len(ends)):
        if start >= span.stop:
            return
        first = ends[group - 1] if group else 0
        stop = min(span.stop, ends[group])
        if start < stop:
            yield parquet.read_row_group(group, columns=columns, use_threads=False).slice(start - first, stop - start)
            start = stop


def images_of(table: pa.Table, shape: tuple[int, int, int]) -> np.ndarray:
    """The image column as uint8 N x C x H x W; a view of Arrow's memory where it is one chunk, read-only.

    Original bytes are decoded the way the column's metadata say; what was decoded once when the data set was prepared
    is decoded the same way again.

    Raises:
        IntegrityError: Original bytes cannot be decoded any more.
    """
    how = (table.schema.field(IMAGE).metadata or {}).get(b"encoded")
    if how is not None:
        return _decoded(table, json.loads(how), shape)
    size = shape[0] * shape[1] * shape[2]
    chunks = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8, count=len(chunk) * size, offset=chunk.offset * size)
        for chunk in table.column(IMAGE).chunks
        if len(chunk)
    ]
    flat = chunks[0] if len(chunks) == 1 else np.concatenate(chunks or [np.empty(0, np.uint8)])
    return flat.reshape(-1, *shape)


def _decoded(table: pa.Table, how: dict[str, Any], shape: tuple[int, int, int]) -> np.ndarray:
    image, limits = ImageConfig.model_validate(how["image"]), LimitsConfig.model_validate(how["limits"])
    images = np.empty((len(table), *shape), dtype=np.uint8)
    for at, value in enumerate(table.column(IMAGE)):
        found = decode(value.as_py(), image, limits)
        if isinstance(found, Refusal):
            raise IntegrityError(
                f"row {table.column(ID)[at]} was decoded when the data set was prepared and is {found.reason} now "
                f"({found.detail}); prepare the data set again"
            )
        images[at] = found
    return images


def read_rows(dataset: str, split: Split, start: int, stop: int, shape: tuple[int, int, int]) -> Rows:
    """Rows ``start`` to ``stop`` (exclusive) of a split in memory, in order.

    Raises:
        CnnjobError: See ``read_spans``.
    """
    count = max(0, stop - start)
    images = np.empty((count, *shape), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int32)
    ids: list[str] = []
    for span in spans(split, start, stop):
        for table in read_span(dataset, span, (ID, IMAGE, LABEL)):
            at = slice(len(ids), len(ids) + len(table))
            images[at] = images_of(table, shape)
            labels[at] = table.column(LABEL).to_numpy()
            ids += table.column(ID).to_pylist()
    if len(ids) != count:
        raise IntegrityError(f"{dataset} has {split.rows} rows in this split; rows {start} to {stop} are not there")
    return Rows(ids, images, labels)
