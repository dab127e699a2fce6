"""Rows of a prepared data set as arrays: which row groups hold a range, and reading just those."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.formats.encoded import decode
from cnnjob.data.manifest import Shard, Split
from cnnjob.errors import IntegrityError
from cnnjob.schema import ID, IMAGE, LABEL


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
        IntegrityError: The file is gone, is not what the manifest says, or a byte of what is read has changed:
            each page has a checksum, since a flipped byte in a picture decodes to another picture.
    """
    uri = storage.join(dataset, span.shard.path)
    filesystem, path = storage.resolve(uri)
    try:
        with filesystem.open_input_file(path) as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            if parquet.metadata.num_rows != span.shard.rows:
                raise IntegrityError(
                    f"{uri} has {parquet.metadata.num_rows} rows, its manifest says {span.shard.rows}; "
                    f"prepare the data set again"
                )
            first = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                low, high = max(span.start - first, 0), min(span.stop - first, rows)
                if low < high:
                    yield parquet.read_row_group(group, columns=list(columns), use_threads=False).slice(low, high - low)
                first += rows
    except (OSError, pa.ArrowInvalid) as error:
        raise IntegrityError(f"{uri} cannot be read: {str(error).rstrip('.')}. Prepare the data set again.") from error


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
        IntegrityError: A file is gone or is not what the manifest says.
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
