"""What is to be scored: a split of a prepared data set, or a listing of raw images. Each plans, reads and accounts.

A listing lies in memory where the job is planned (its rows, some 300 bytes each, are the memory bound of finding
duplicate ids) and, a record batch a unit, in the staging folder, where units read it. What the input says of its ids,
not what units say, is what the table is verified against.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.config.prepare import ColumnsConfig, ImageConfig, PrepareConfig, SourceConfig
from cnnjob.config.score import ScoreConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.manifest import Manifest, read_manifest
from cnnjob.data.rows import images_of, read_span
from cnnjob.data.sources.base import Content, Listing, Reader, cut_units, table_digest
from cnnjob.data.sources.base import Unit as Run
from cnnjob.data.sources.files import listed_sizes
from cnnjob.data.sources.folder import FolderSource
from cnnjob.data.sources.table import TableSource
from cnnjob.data.staging import canonical_of, read_listing, write_listing
from cnnjob.errors import IntegrityError
from cnnjob.schema import DETAIL, GIVEN, ID, IMAGE, LABEL, REASON, SPLITS, URI
from cnnjob.scoring.plan import Plan, ScoringModel, Unit, assemble, context_of, plan_dataset, rows_of_encoded

DUPLICATE = "_duplicate"
_TWICE = Refusal("duplicate_id", "a row before it in the input has the same id")
BATCH_ROWS = 256
"""Raw images that are decoded before they are scored."""


@dataclass(frozen=True)
class Batch:
    """Some rows of a unit.

    Attributes:
        rows: Id and key columns of the rows that have pictures.
        images: uint8 N x C x H x W.
        refused: The rows that have none, as in ``schema.REFUSED``.
    """

    rows: pa.Table
    images: np.ndarray
    refused: Sequence[dict[str, str]] = ()


class UnitReader(Protocol):
    """Reads units; small, and sent to workers."""

    @property
    def decodes(self) -> bool:
        """Whether reading is mostly decoding, which is worth CPUs of its own where a GPU scores."""

    def read(self, unit: Unit) -> Iterator[Batch]:
        """All rows of a unit, each once, in order."""


class Input(Protocol):
    """The rows to score."""

    @property
    def keys(self) -> tuple[pa.Field, ...]:
        """Columns that are carried over."""

    @property
    def decodes(self) -> bool:
        """Whether reading its units is mostly decoding."""

    def plan(self, config: ScoreConfig, model: ScoringModel) -> Plan:
        """The units."""

    def stage(self, staging: str) -> UnitReader:
        """Put into the staging folder what units need, and return what reads them."""

    def ids(self, unit: Unit) -> Iterator[pa.ChunkedArray]:
        """The ids of a unit's rows, from the input itself."""

    def check_unchanged(self) -> None:
        """What was read is what was listed, as far as units could not tell.

        Raises:
            IntegrityError: It is another input by now.
        """


@dataclass(frozen=True)
class DatasetInput:
    """Splits of a prepared data set; all its key columns are carried over."""

    uri: str
    manifest: Manifest

    @property
    def keys(self) -> tuple[pa.Field, ...]:
        """Its columns beside id, image and label."""
        shards = [shard for split in SPLITS for shard in self.manifest.splits[split].shards]
        if not shards:
            return ()
        where = storage.join(self.uri, shards[0].path)
        filesystem, path = storage.resolve(where)
        with storage.told(where), filesystem.open_input_file(path) as file:
            schema = pq.read_schema(file)
        return tuple(field for field in schema if field.name not in (ID, IMAGE, LABEL))

    @property
    def decodes(self) -> bool:
        """Where its shards hold original bytes."""
        return self.manifest.image.storage == "encoded"

    def plan(self, config: ScoreConfig, model: ScoringModel) -> Plan:
        """Units of rows of shards."""
        return plan_dataset(config, self.manifest, model)

    def stage(self, staging: str) -> UnitReader:
        """Nothing: the shards are what units read."""
        del staging
        keys = tuple(field.name for field in self.keys)
        return DatasetReader(self.uri, self.manifest.image.shape, keys, self.decodes)

    def ids(self, unit: Unit) -> Iterator[pa.ChunkedArray]:
        """From the shards."""
        for span in unit.spans:
            for table in read_span(self.uri, span, (ID,)):
                yield table.column(ID)

    def check_unchanged(self) -> None:
        """A data set that is prepared anew has other rows at the same places."""
        if read_manifest(self.uri).splits != self.manifest.splits:
            raise IntegrityError(
                f"{self.uri} was prepared anew while it was scored, so some rows may be of the old one. Nothing was "
                f"published; run the same command again."
            )


@dataclass(frozen=True)
class DatasetReader:
    """Rows of shards."""

    uri: str
    shape: tuple[int, int, int]
    keys: tuple[str, ...]
    decodes: bool

    def read(self, unit: Unit) -> Iterator[Batch]:
        """A row group at a time."""
        for span in unit.spans:
            for table in read_span(self.uri, span, (ID, IMAGE, *self.keys)):
                yield Batch(table.select([ID, *self.keys]), images_of(table, self.shape))


class ListedInput:
    """Raw images: a folder, or a manifest."""

    def __init__(self, config: ScoreConfig, uri: str, image: ImageConfig) -> None:
        self._form = _prepare_config(config, uri, image)
        source = FolderSource(self._form) if config.input.kind == "folder" else TableSource(self._form, labelled=False)
        listing = source.listing("")
        self._listing = Listing(_marked(listing), (), listing.reader, listing.keys, listing.passed_over)
        self._runs = _runs(config, image, listing)
        # Of bytes inside Parquet files the rows say where they lie, not what they are: the files' identity does.
        self._digest = source.digest()

    @property
    def keys(self) -> tuple[pa.Field, ...]:
        """Those that the config names, as the table has them."""
        return self._listing.keys

    @property
    def decodes(self) -> bool:
        """Always."""
        return True

    def plan(self, config: ScoreConfig, model: ScoringModel) -> Plan:
        """Units of listed rows."""
        rows = self._listing.rows
        column = config.input.columns.image
        inside = [column, self._digest] if column else ""
        entries = [[table_digest(_slice(rows, run)), inside] for run in self._runs]
        limits = self._form.limits.model_dump(mode="json", exclude={"max_refused_share"})
        form = self._form.image.model_dump(mode="json")
        context = context_of(config, model, self._form.source.uri, form, limits, [str(key) for key in self.keys])
        return assemble(context, entries, [run.stop - run.start for run in self._runs], self._digest)

    def stage(self, staging: str) -> UnitReader:
        """The listing, a record batch a unit."""
        uri = storage.join(staging, "listing.arrow")
        write_listing(uri, self._listing.rows, self._runs)
        return ListedReader(uri, self._listing.reader, self._form, tuple(field.name for field in self.keys))

    def ids(self, unit: Unit) -> Iterator[pa.ChunkedArray]:
        """From the listing."""
        yield _slice(self._listing.rows, self._runs[unit.number]).column(ID)

    def check_unchanged(self) -> None:
        """Nothing: each file is compared with the listing when it is read."""


@dataclass(frozen=True)
class ListedReader:
    """Rows of a listing."""

    listing: str
    reader: Reader
    form: PrepareConfig
    keys: tuple[str, ...]
    decodes: bool = True

    def read(self, unit: Unit) -> Iterator[Batch]:
        """``BATCH_ROWS`` images at a time, decoded within the limits."""
        rows = read_listing(self.listing, unit.number)
        twice = np.asarray(rows.column(DUPLICATE))
        # One pass of the reader for the unit: what lies in a row group is read from its start on.
        contents = self.reader.read(rows.take(pa.array(np.flatnonzero(~twice), pa.int64())))
        for start in range(0, len(rows), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            yield self._batch(rows.slice(start, BATCH_ROWS).combine_chunks(), twice[part], contents)
        # Asked once more, a reader looks whether its file is still the one that was listed.
        next(contents, None)

    def _batch(self, rows: pa.Table, twice: np.ndarray, contents: Iterator[Content]) -> Batch:
        refused: dict[int, Refusal] = {}
        found: list[np.ndarray] = []
        kept: list[int] = []
        for at, is_twice in enumerate(twice.tolist()):
            pixels = _TWICE if is_twice else canonical_of(next(contents), self.form)
            if isinstance(pixels, Refusal):
                refused[at] = pixels
            else:
                kept.append(at)
                found.append(pixels)
        image = self.form.image
        empty = np.empty((0, image.channels, image.height, image.width), np.uint8)
        with_picture = rows.take(pa.array(kept, pa.int64())).select([ID, *self.keys])
        return Batch(with_picture, np.stack(found) if found else empty, self._told(rows, refused))

    def _told(self, rows: pa.Table, refused: dict[int, Refusal]) -> list[dict[str, str]]:
        order = sorted(refused)
        turned_away = rows.take(pa.array(order, pa.int64()))
        uris = self.reader.uris(turned_away)
        return [
            {ID: row_id, URI: uri, REASON: refused[at].reason, DETAIL: refused[at].detail}
            for at, row_id, uri in zip(order, turned_away.column(ID).to_pylist(), uris, strict=True)
        ]


def open_input(config: ScoreConfig, uri: str, image: ImageConfig) -> Input:
    """The input of a job.

    Args:
        config: The job's.
        uri: Of the input, for the date that is scored.
        image: The model's form, see ``bundle.image_form``.

    Raises:
        DatasetError: It is missing, damaged or empty.
    """
    if config.input.kind == "dataset":
        return DatasetInput(uri, read_manifest(uri))
    return ListedInput(config, uri, image)


def _prepare_config(config: ScoreConfig, uri: str, image: ImageConfig) -> PrepareConfig:
    """The input as a source of ``prepare`` knows it."""
    columns = ColumnsConfig(**config.input.columns.model_dump())
    source = SourceConfig(kind="folder" if config.input.kind == "folder" else "manifest", uri=uri, columns=columns)
    return PrepareConfig(output=config.output, source=source, image=image, limits=config.limits)


def _marked(listing: Listing) -> pa.Table:
    """The rows with a column that says which have the id of an earlier one, and without what only training needs."""
    rows, keys = listing.rows, {key.name for key in listing.keys}
    codes = np.asarray(pc.dictionary_encode(rows.column(ID).combine_chunks()).indices)
    twice = np.ones(len(codes), dtype=bool)
    twice[np.unique(codes, return_index=True)[1]] = False
    unused = [name for name in (LABEL, GIVEN) if name in rows.column_names and name not in keys]
    return rows.drop_columns(unused).append_column(DUPLICATE, pa.array(twice))


def _runs(config: ScoreConfig, image: ImageConfig, listing: Listing) -> list[Run]:
    units, rows = config.units, listing.rows
    at_most = rows_of_encoded(config, (image.channels, image.height, image.width))
    return cut_units(len(rows), at_most, listing.runs, listed_sizes(rows), units.target_bytes, listing.mean_bytes)


def _slice(rows: pa.Table, run: Run) -> pa.Table:
    return rows.slice(run.start, run.stop - run.start)
