"""The first pass of preparing: a unit's rows, read, brought to the canonical form, and staged in one file.

A staged file has the rows in order of place (``data.split``) and, beside the pictures, all that the splits and shards
are decided by; so a unit whose file is there is done, whichever run wrote it. Nothing here needs Ray.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cnnjob import conditional, storage
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.decode import Refusal, canonical
from cnnjob.data.formats.encoded import decode
from cnnjob.data.sources.base import Content, Reader, Unit
from cnnjob.data.split import draw_of, place_of
from cnnjob.schema import DETAIL, GIVEN, ID, IMAGE, LABEL, REASON, URI, dataset_schema

ROW, PLACE, DRAW, PICTURE = "_row", "_place", "_draw", "_picture"
PICTURE_BYTES = 16
_BATCH_BYTES = 1 << 18
"""Images in a record batch of a staged file: what is read at least to get at one row. A shard has a few rows of every
unit; with whole units as batches each shard would read all that is staged."""
_INDEX = pa.schema(
    [
        pa.field(ROW, pa.int64()),
        pa.field(PLACE, pa.uint64()),
        pa.field(DRAW, pa.uint64()),
        pa.field(GIVEN, pa.int8()),
        pa.field(PICTURE, pa.binary(PICTURE_BYTES)),
    ]
)
_REFUSED, _BYTES, _BATCH_ROWS = b"refused", b"bytes", b"batch_rows"


@dataclass(frozen=True)
class StagedUnit:
    """What the splits and shards are decided by, for the rows of one unit in the order of its file.

    Attributes:
        number: Of the unit.
        rows: int64, in the listing.
        places: uint64.
        draws: uint64.
        given: int8, -1 where the source does not say.
        labels: int32.
        pictures: uint64 N x 2, digest of the canonical pixels.
        image_bytes: Of all its stored images.
        refused: Its refused rows, as in ``schema.REFUSED``.
    """

    number: int
    rows: np.ndarray
    places: np.ndarray
    draws: np.ndarray
    given: np.ndarray
    labels: np.ndarray
    pictures: np.ndarray
    image_bytes: int
    refused: list[dict[str, str]]

    def is_all_of(self, unit: Unit) -> bool:
        """Whether its rows, and those that it refused, are as many as the unit's, and within it."""
        inside = (self.rows >= unit.start) & (self.rows < unit.stop)
        return bool(inside.all()) and len(self.rows) + len(self.refused) == unit.stop - unit.start


def staged_uri(folder: str, number: int) -> str:
    """Where a unit's rows are staged."""
    return storage.join(folder, f"{number:06d}.arrow")


def write_listing(uri: str, rows: pa.Table, units: Sequence[Unit]) -> None:
    """Write a listing with one record batch for each unit, so that a task reads its own rows alone."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        for unit in units:
            (batch,) = rows.slice(unit.start, unit.stop - unit.start).combine_chunks().to_batches()
            writer.write_batch(batch)
    storage.write_bytes(uri, sink.getvalue())


def read_listing(uri: str, number: int) -> pa.Table:
    """The listed rows of a unit."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file, pa.ipc.open_file(file) as reader:
        return pa.Table.from_batches([reader.get_batch(number)])


def stage_unit(
    unit: Unit, *, listing: str, reader: Reader, config: PrepareConfig, keys: Sequence[pa.Field], folder: str
) -> StagedUnit:
    """Read and decode one unit and stage its rows; a unit that is staged already is only looked up.

    Args:
        unit: Which rows.
        listing: URI of the listing, see ``write_listing``.
        reader: Of the source.
        config: Canonical form, limits, seed.
        keys: Fields that are carried along.
        folder: Where staged files lie.

    Raises:
        StorageError: The storage failed, after bounded retries.
    """
    uri = staged_uri(folder, unit.number)
    is_new = not storage.exists(uri)
    if not is_new:
        # One that a failing disk has damaged is staged anew, and one of other rows under the same number.
        with suppress(pa.ArrowInvalid, KeyError):
            index = read_index(uri, unit.number)
            if index.is_all_of(unit):
                return index
    rows = read_listing(listing, unit.number)
    has_label = np.asarray(rows.column(LABEL).is_valid())
    unknown = Refusal("label_unknown", "it has no class, or an unknown one")
    refusals = {int(at): unknown for at in np.flatnonzero(~has_label)}
    kept: list[int] = []
    images: list[bytes] = []
    pictures: list[bytes] = []
    known = np.flatnonzero(has_label)
    for at, content in zip(known.tolist(), reader.read(rows.take(pa.array(known))), strict=True):
        found = canonical_of(content, config)
        if isinstance(found, Refusal):
            refusals[at] = found
            continue
        pixels = found.tobytes()
        kept.append(at)
        images.append(content if isinstance(content, bytes) and config.image.storage == "encoded" else pixels)
        pictures.append(hashlib.blake2b(pixels, digest_size=PICTURE_BYTES).digest())
    chosen = np.array(kept, dtype=np.int64)
    table = _staged_table(rows.take(pa.array(chosen)), chosen + unit.start, images, pictures, config, keys)
    refused = _refused(rows.take(pa.array(list(refusals), pa.int64())), refusals.values(), reader)
    _write_staged(uri, table, sum(len(image) for image in images), refused, is_new=is_new)
    return read_index(uri, unit.number)


def read_index(uri: str, number: int) -> StagedUnit:
    """What a staged file says of its rows, without their pictures."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file:
        with pa.ipc.open_file(file) as reader:
            schema = reader.schema
        wanted = [schema.get_field_index(name) for name in (*_INDEX.names, LABEL)]
        with pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted)) as reader:
            table = reader.read_all().combine_chunks()
    return StagedUnit(
        number=number,
        rows=table.column(ROW).to_numpy(),
        places=table.column(PLACE).to_numpy(),
        draws=table.column(DRAW).to_numpy(),
        given=table.column(GIVEN).to_numpy(),
        labels=table.column(LABEL).to_numpy(),
        pictures=_pictures(table.column(PICTURE)),
        image_bytes=int(schema.metadata[_BYTES]),
        refused=json.loads(schema.metadata[_REFUSED]),
    )


def take_staged(folder: str, units: np.ndarray, positions: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Rows of staged files.

    Args:
        folder: Where they lie.
        units: int32, whose file each row is in.
        positions: int32, where in it.
        schema: Of the result; a part of the staged columns.

    Returns:
        The rows, in the order of the arguments.
    """
    order = np.lexsort((positions, units))
    starts = np.flatnonzero(np.diff(units[order], prepend=-1))
    pieces = [
        _take(staged_uri(folder, int(units[run[0]])), positions[run], schema)
        for run in np.split(order, starts[1:])
        if len(run)
    ]
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(pieces).combine_chunks().take(pa.array(back)).cast(schema)


def _take(uri: str, positions: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Rows at ascending positions; only the batches that hold some are read."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file, pa.ipc.open_file(file) as reader:
        found = []
        batch_rows = int(reader.schema.metadata[_BATCH_ROWS])
        for number in np.unique(positions // batch_rows):
            inside = positions[positions // batch_rows == number] - number * batch_rows
            found.append(reader.get_batch(int(number)).select(schema.names).take(pa.array(inside)))
        return pa.Table.from_batches(found)


def canonical_of(content: Content, config: PrepareConfig) -> np.ndarray | Refusal:
    """uint8 C x H x W of what a source read, decoded within the limits where it is encoded; or why there is none."""
    if isinstance(content, Refusal):
        return content
    if isinstance(content, bytes):
        return decode(content, config.image, config.limits)
    return canonical(content, config.image)


def _refused(rows: pa.Table, refusals: Iterable[Refusal], reader: Reader) -> list[dict[str, str]]:
    return [
        {ID: row_id, URI: uri, REASON: refusal.reason, DETAIL: refusal.detail}
        for row_id, uri, refusal in zip(rows.column(ID).to_pylist(), reader.uris(rows), refusals, strict=True)
    ]


def _staged_table(
    rows: pa.Table,
    numbers: np.ndarray,
    images: list[bytes],
    pictures: list[bytes],
    config: PrepareConfig,
    keys: Sequence[pa.Field],
) -> pa.Table:
    ids = rows.column(ID).to_pylist()
    image = schema_of(config).field(IMAGE)
    columns = {
        ROW: pa.array(numbers, pa.int64()),
        PLACE: pa.array([place_of(row_id, config.split) for row_id in ids], pa.uint64()),
        DRAW: pa.array([draw_of(row_id, config.split) for row_id in ids], pa.uint64()),
        GIVEN: rows.column(GIVEN).fill_null(-1),
        PICTURE: pa.array(pictures, pa.binary(PICTURE_BYTES)),
        ID: rows.column(ID),
        IMAGE: pa.array(images, image.type),
        LABEL: rows.column(LABEL),
        **{key.name: rows.column(key.name) for key in keys},
    }
    return pa.table(columns).sort_by([(PLACE, "ascending"), (ID, "ascending")])


def _write_staged(uri: str, table: pa.Table, image_bytes: int, refused: list[dict[str, str]], *, is_new: bool) -> None:
    batch_rows = max(1, _BATCH_BYTES * len(table) // max(1, image_bytes))
    metadata = {_REFUSED: json.dumps(refused), _BYTES: str(image_bytes), _BATCH_ROWS: str(batch_rows)}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=batch_rows)
    content = sink.getvalue()
    if is_new and storage.is_s3(uri):
        # Nothing keeps the same job from running twice there, and one may find a picture that the other did not: the
        # first to write decides for both.
        conditional.replace(uri, content.to_pybytes(), None)
    else:
        storage.write_bytes(uri, content)


def _pictures(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    flat = np.frombuffer(array.buffers()[1] or b"", dtype=np.uint64)
    return flat.reshape(-1, 2)[array.offset : array.offset + len(array)]


def schema_of(config: PrepareConfig, keys: Sequence[pa.Field] = ()) -> pa.Schema:
    """The columns of the data set that a config makes."""
    image = config.image
    encoded = None
    if image.storage == "encoded":
        encoded = json.dumps({"image": image.model_dump(mode="json"), "limits": config.limits.model_dump(mode="json")})
    return dataset_schema((image.channels, image.height, image.width), image.color, encoded=encoded, keys=keys)
