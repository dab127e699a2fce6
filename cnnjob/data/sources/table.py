"""A manifest: a CSV or Parquet table with a row for each image, by URI or with the encoded bytes inside.

Parquet may be one file or a folder of them, at any depth. A relative URI starts at the folder that the file lies in, or
at the folder of files, whichever of them it is in. Bytes inside are never read when the table is listed: a unit's task
reads its own rows, a batch at a time. A column of structs with a field ``bytes`` is read too (Hugging Face's form).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.config.prepare import ColumnsConfig, PrepareConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.sources.base import Content, Listing, check_unchanged, identity_of, listing_table, table_digest
from cnnjob.data.sources.files import MTIME, PATH, SIZE, UNKNOWN, FileReader, root_of
from cnnjob.data.sources.labels import given_of, labels_of
from cnnjob.data.sources.parquet_file import FILE, GROUP, OFFSET
from cnnjob.data.sources.tabular import URI_COLUMN, read_columns, row_of, table_files
from cnnjob.digests import digest_of
from cnnjob.errors import DatasetError
from cnnjob.schema import ID

_LABEL, _SPLIT = "_label", "_split"
_BATCH_ROWS = 256
"""Rows of encoded images in memory at a time."""


@dataclass(frozen=True)
class BytesReader:
    """Reads the encoded images inside Parquet files.

    Attributes:
        files: URIs; the listing's column ``file`` points here.
        identities: What each was when it was listed, see ``identity_of``: rows are known by their place in it.
        column: The column of images.
        max_bytes: Of an image.
    """

    files: tuple[str, ...]
    identities: tuple[list[object], ...]
    column: str
    max_bytes: int

    def read(self, rows: pa.Table) -> Iterator[Content]:
        """The bytes of listed rows.

        Raises:
            IntegrityError: A file was written to since it was listed.
        """
        files, groups, offsets = (rows.column(name).to_numpy() for name in (FILE, GROUP, OFFSET))
        for run in _runs(files):
            number = int(files[run[0]])
            uri = self.files[number]
            check_unchanged([self.identities[number]])
            filesystem, path = storage.resolve(uri)
            # Opened once for all its groups: reading the footer takes longer than reading a small group.
            with storage.told(uri), filesystem.open_input_file(path) as stream, pq.ParquetFile(stream) as parquet:
                for part in _runs(groups[run]):
                    yield from self._group(parquet, int(groups[run][part[0]]), offsets[run][part])
            check_unchanged([self.identities[number]])

    def uris(self, rows: pa.Table) -> list[str]:
        """File, row group and offset of listed rows."""
        places = (rows.column(name).to_pylist() for name in (FILE, GROUP, OFFSET))
        return [f"{self.files[file]}#{group}/{offset}" for file, group, offset in zip(*places, strict=True)]

    def _group(self, parquet: pq.ParquetFile, group: int, offsets: np.ndarray) -> Iterator[Content]:
        """The images at ascending offsets of one row group."""
        start = 0
        for batch in parquet.iter_batches(_BATCH_ROWS, [group], [self.column], use_threads=False):
            low, high = np.searchsorted(offsets, [start, start + len(batch)])
            for offset in offsets[low:high]:
                yield self._content(batch.column(0)[int(offset) - start])
            start += len(batch)
            if high == len(offsets):
                return

    def _content(self, value: pa.Scalar) -> bytes | Refusal:
        if isinstance(value, pa.StructScalar) and value.is_valid:
            value = value["bytes"]
        if isinstance(value, pa.DictionaryScalar):
            value = value.value
        buffer = value.as_buffer() if value.is_valid else None
        if buffer is None:
            return Refusal("empty", "the table has no image in this row")
        if buffer.size > self.max_bytes:
            return Refusal("too_many_bytes", f"{buffer.size} bytes, more than limits.max_bytes {self.max_bytes}")
        return bytes(buffer)


def _runs(values: np.ndarray) -> list[np.ndarray]:
    """Positions of runs of equal values."""
    return [run for run in np.split(np.arange(len(values)), np.flatnonzero(np.diff(values)) + 1) if len(run)]


class TableSource:
    """Rows of a table; without labels where what is listed is to be scored."""

    def __init__(self, config: PrepareConfig, *, labelled: bool = True) -> None:
        self._uri = str(config.source.uri)
        self._config = config
        self._labelled = labelled
        self._columns = _with_defaults(config.source.columns)

    def digest(self) -> str:
        """Of the rows, and of the sizes and times of local images; images elsewhere stand for their URI."""
        return digest_of([self._identities if self._columns.image else [], table_digest(self._rows)])

    def listing(self, scratch: str) -> Listing:
        """Every row with its class."""
        del scratch
        rows, config = self._rows, self._config
        labels: Any = None
        class_names: tuple[str, ...] = ()
        if self._labelled:
            labels, class_names = labels_of(rows.column(_LABEL), config.source.class_names, self._uri, self._row)
        given = given_of(rows.column(_SPLIT), self._uri, self._row) if _SPLIT in rows.column_names else None
        keys = {name: rows.column(name) for name in config.source.columns.keys}
        own = {
            name: rows.column(name) for name in rows.column_names if name in (PATH, SIZE, MTIME, FILE, GROUP, OFFSET)
        }
        table = listing_table(rows.column(ID), labels, given, {**keys, **own})
        fields = tuple(table.schema.field(name) for name in keys)
        if self._columns.image:
            files, identities = tuple(self._files), tuple(self._identities)
            reader: Any = BytesReader(files, identities, self._columns.image, config.limits.max_bytes)
            mean = sum(storage.size(uri) or 0 for uri in self._files) / len(table)
            return Listing(
                table, class_names, reader, fields, runs=self._runs(), mean_bytes=mean, identities=identities
            )
        return Listing(table, class_names, FileReader(self._root, config.limits.max_bytes, anywhere=True), fields)

    @cached_property
    def _files(self) -> list[str]:
        return table_files(self._uri)

    def _row(self, at: int) -> str:
        return row_of(self._files, at)

    @property
    def _root(self) -> str:
        """Where relative URIs start: the folder that the table lies in, or the table where it is a folder of files."""
        is_file = self._files == [self._uri]
        return root_of(storage.parent(self._uri) if is_file else self._uri)

    @cached_property
    def _identities(self) -> list[list[object]]:
        return [identity_of(uri) for uri in self._files]

    @cached_property
    def _rows(self) -> pa.Table:
        """Id, label, split, keys, and where each image is: the table without its images."""
        columns = self._columns
        wanted = {_LABEL: columns.label} if self._labelled else {}
        if self._config.split.method == "given":
            wanted[_SPLIT] = str(columns.split)
        if columns.uri:
            wanted[URI_COLUMN] = columns.uri
        if columns.image:
            # Before the rows: a file that is exchanged in between is then another one when its images are read.
            _ = self._identities
        table = read_columns(self._files, wanted, columns.id, columns.keys, columns.image)
        if not len(table):
            raise DatasetError(f"{self._uri} has no rows; there is nothing to do.")
        if columns.uri:
            table = self._with_places(table)
        absent = np.asarray(table.column(ID).is_null()) if ID in table.column_names else np.ones(1, dtype=bool)
        if absent.any():
            raise DatasetError(
                f"{self._uri} has rows without an id, such as {self._row(int(np.argmax(absent)))}. Ids name rows in "
                f"every later table; name their column with columns.id."
            )
        return table

    def _with_places(self, table: pa.Table) -> pa.Table:
        uris = table.column(URI_COLUMN).combine_chunks()
        if ID not in table.column_names:
            table = table.append_column(ID, uris)
        sizes, times = _looked_at(uris, self._root)
        table = table.drop_columns(URI_COLUMN).append_column(PATH, uris.cast(pa.binary()))
        return table.append_column(SIZE, sizes).append_column(MTIME, times)

    def _runs(self) -> tuple[int, ...]:
        groups = np.stack([self._rows.column(name).to_numpy() for name in (FILE, GROUP)])
        breaks = np.flatnonzero((np.diff(groups) != 0).any(axis=0)) + 1
        return tuple(int(length) for length in np.diff([0, *breaks, groups.shape[1]]))


def _with_defaults(columns: ColumnsConfig) -> ColumnsConfig:
    """The columns as they are called where the config does not say."""
    uri = columns.uri if columns.uri or columns.image else "uri"
    return columns.model_copy(update={"uri": uri, "split": columns.split or "split"})


def _looked_at(uris: pa.Array, root: str) -> tuple[pa.Array, pa.Array]:
    """Size and time of change of local files; unknown for others, which would take a request each."""
    sizes, times = np.full(len(uris), UNKNOWN, np.int64), np.zeros(len(uris), np.int64)
    absent = np.asarray(pc.is_null(uris))
    folder = FileReader(root, 0)
    for row, uri in enumerate(uris):
        if not absent[row]:
            place = folder.uri_of(os.fsencode(uri.as_py()))
            if isinstance(place, bytes):
                try:
                    status = os.stat(place)  # noqa: PTH116 - bytes
                except (OSError, ValueError):
                    continue
                sizes[row], times[row] = status.st_size, status.st_mtime_ns
    return pa.array(sizes, mask=absent), pa.array(times, mask=absent)
