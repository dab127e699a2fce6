"""What every source offers: a digest of its input, a listing of its rows, and a reader of their contents.

A listing is a table with a row for each image, whatever the source; everything after it (splits, units, shards) is
the same for all. The reader alone knows the format. It is small and is sent to the workers; the listing is not: it
lies in the staging folder, one record batch a unit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from cnnjob import storage
from cnnjob.data.decode import Refusal
from cnnjob.digests import sha256
from cnnjob.errors import DatasetError, IntegrityError
from cnnjob.schema import GIVEN, ID, LABEL, LISTING

MAX_PIECES = 8
"""A run of rows that can only be read from its start is cut into this many units at most: each of them reads up to
its own rows, so more pieces would read it more often than they save."""


SMALLEST_UNIT = 2_048
"""Rows below which units are not made smaller towards the end: what a unit costs beside its rows would show."""

Content = np.ndarray | bytes | Refusal
"""Of one row: uint8 pixels H x W or H x W x 3; or encoded bytes; or why there are none."""


@dataclass(frozen=True)
class Unit:
    """A run of rows that one task reads: rows ``start`` to ``stop`` (exclusive) of the listing."""

    number: int
    start: int
    stop: int


class Reader(Protocol):
    """Reads contents; small, and sent to workers."""

    def read(self, rows: pa.Table) -> Iterator[Content]:
        """The contents of listed rows, one for each, in their order.

        Raises:
            StorageError: The storage failed, after bounded retries. What is wrong with one image is a ``Refusal``.
        """

    def uris(self, rows: pa.Table) -> list[str]:
        """Where the contents of listed rows come from, for people; empty where nothing says."""


@dataclass(frozen=True)
class Listing:
    """All rows of a source.

    Attributes:
        rows: The columns of ``schema.LISTING``, then key columns, then the reader's own.
        class_names: In the order of the labels.
        reader: Reads the contents.
        keys: Fields of the key columns, which are carried along.
        passed_over: What lay there and is no row (desktop litter, links seen before), counted by kind.
        runs: Lengths of runs of rows that are read from their start on, such as row groups; none: any row is as near.
        mean_bytes: Of an encoded image, where sizes are not listed.
        identities: Of the files whose rows are known by their place alone, as they were before they were listed, see
            ``identity_of``: to be compared once more before anything is published.
    """

    rows: pa.Table
    class_names: tuple[str, ...]
    reader: Reader
    keys: tuple[pa.Field, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    runs: Sequence[int] = ()
    mean_bytes: float = 0
    identities: Sequence[list[object]] = ()


class Source(Protocol):
    """Where images come from."""

    def digest(self) -> str:
        """SHA-256 of what identifies the input: the same input gives the same digest, without reading an image."""

    def listing(self, scratch: str) -> Listing:
        """List all rows. ``scratch`` is a folder for what has to be unpacked first.

        Raises:
            DatasetError: The input is missing, truncated or contradicts itself.
        """


def cut_units(
    num_rows: int,
    rows_per_unit: int,
    runs: Sequence[int] = (),
    sizes: np.ndarray | None = None,
    bytes_per_unit: int = 1,
    row_bytes: float = 0,
) -> list[Unit]:
    """Cut a listing into units, in order, each row in one unit.

    Args:
        num_rows: Rows listed.
        rows_per_unit: Rows in a unit, at most; a piece of a long run may have more. The last ones of a listing without
            runs have fewer, see ``rows_of_next``.
        runs: See ``Listing``; short ones are put together, long ones cut into at most ``MAX_PIECES``, or into more
            where these would be larger than twice ``bytes_per_unit``.
        sizes: Bytes of each row, where they are known.
        bytes_per_unit: Bytes in a unit, at most, where sizes are known; a larger row is a unit of its own.
        row_bytes: Of a row in memory, on average; for runs.
    """
    if runs:
        starts = _starts_of_runs(runs, rows_per_unit, row_bytes / (2 * bytes_per_unit))
    elif sizes is not None:
        starts = _starts_by_size(sizes, rows_per_unit, bytes_per_unit)
    else:
        starts = list(_starts_of_rows(num_rows, rows_per_unit))
    stops = [*starts[1:], num_rows]
    return [Unit(number, start, stop) for number, (start, stop) in enumerate(zip(starts, stops, strict=False))]


def rows_of_next(rows_left: int, rows_per_unit: int) -> int:
    """Rows of the next unit: a quarter of those that are left, within ``SMALLEST_UNIT`` and ``rows_per_unit``.

    Large units cost least, and small ones at the end let all processes end together: guided self-scheduling
    (Polychronopoulos and Kuck, 1987). How many processes there are is not asked, since the units would differ.
    """
    return min(rows_left, rows_per_unit, max(SMALLEST_UNIT, rows_left // 4))


def _starts_of_rows(num_rows: int, rows_per_unit: int) -> Iterator[int]:
    at = 0
    while at < num_rows:
        yield at
        at += rows_of_next(num_rows - at, rows_per_unit)


def _starts_of_runs(runs: Sequence[int], rows_per_unit: int, pieces_per_row: float) -> list[int]:
    starts: list[int] = []
    at = 0
    for run in runs:
        pieces = min(max(1, run), max(min(MAX_PIECES, max(1, -(-run // rows_per_unit))), ceil(run * pieces_per_row)))
        joins = pieces == 1 and starts and at + run - starts[-1] <= rows_per_unit
        if run and not joins:
            starts += [at + run * piece // pieces for piece in range(pieces)]
        at += run
    return starts


def _starts_by_size(sizes: np.ndarray, rows_per_unit: int, bytes_per_unit: int) -> list[int]:
    ends = np.cumsum(sizes)
    starts = []
    at = 0
    while at < len(sizes):
        starts.append(at)
        before = int(ends[at - 1]) if at else 0
        fitting = int(np.searchsorted(ends, before + bytes_per_unit, "right"))
        at = max(at + 1, min(fitting, at + rows_of_next(len(sizes) - at, rows_per_unit)))
    return starts


def listing_table(
    ids: pa.Array, labels: pa.Array | None, given: pa.Array | None = None, own: Mapping[str, Any] | None = None
) -> pa.Table:
    """A listing's rows.

    Args:
        ids: string.
        labels: int32; null where the class is not known. None where nobody asks for classes and splits: there are no
            columns of them then, and a key may have their names.
        given: int8, index into ``schema.SPLITS``; null where the source does not say.
        own: Key columns, and the reader's.
    """
    own = own or {}
    given = pa.nulls(len(ids), pa.int8()) if given is None else given
    table = pa.table({ID: ids} if labels is None else {ID: ids, LABEL: labels, GIVEN: given})
    known = [LISTING.field(name) for name in table.column_names]
    for name, column in own.items():
        table = table.append_column(name, column)
    return table.cast(pa.schema([*known, *(table.schema.field(name) for name in own)]))


def check_labels(labels: np.ndarray, class_names: Sequence[str], where: str, row: Callable[[int], str]) -> None:
    """Refuse numbers that name no class.

    Args:
        labels: Of rows.
        class_names: In their order.
        where: For messages.
        row: How people call the row at a place in ``labels``.

    Raises:
        DatasetError: With the first of them and its row.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        raise DatasetError(
            f"{where}: {len(wrong)} of {len(labels)} labels are out of range: {row(int(wrong[0]))} has "
            f"{labels[wrong[0]]}, and there are {len(class_names)} classes, 0 to {len(class_names) - 1}. "
            f"Correct the labels, or give all names in source.class_names."
        )


def identity_of(uri: str) -> list[object]:
    """What tells one content of a file from another without reading it: its name, size and time of change."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri):
        info = filesystem.get_file_info(path)
    return [uri, info.size, info.mtime_ns]


def check_unchanged(identities: Iterable[list[object]]) -> None:
    """Compare files with what they were when they were listed, see ``identity_of``.

    Raises:
        IntegrityError: One was written to since, or is gone.
    """
    for identity in identities:
        uri = str(identity[0])
        if identity_of(uri) != identity:
            raise IntegrityError(
                f"{uri} was written to since it was listed, and its rows may be others now. Nothing was published; run "
                f"the same command again."
            )


def table_digest(table: pa.Table) -> str:
    """SHA-256 of a table's values and schema, whatever its chunks."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return sha256(sink.getvalue())
