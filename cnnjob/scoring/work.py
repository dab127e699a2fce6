"""One unit: read, score, write its part, leave its receipt. All in one call, so images never travel.

A part that is not published does not end in ``.parquet``; its receipt, written after it, says it is finished and has
the rows that were refused.
"""

import datetime as dt
import errno
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.ahead import ahead
from cnnjob.data.statistics import PixelCounts
from cnnjob.digests import sha256
from cnnjob.errors import IntegrityError, StorageError
from cnnjob.phases import reached
from cnnjob.schema import (
    CONFIDENCE,
    ID,
    MODEL_NAME,
    MODEL_VERSION,
    PREDICTION,
    PROBABILITIES,
    SCORED_AT,
    scores_schema,
)
from cnnjob.scoring.inputs import UnitReader
from cnnjob.scoring.plan import ScoringModel, Unit
from cnnjob.versions import library_versions

_PROBABILITIES = (PROBABILITIES, "p_")

DRIFT_IMAGES = 4_096
DRIFT_STRIDE = 64
"""Drift counts the pixels of so many images of a job at least, up to twice as many: of a small job all, since few
pictures tell little, and never of fewer than every 64th. Beside a quick net every 16th takes 1.6 % of the time."""

GROUP_BYTES = 32 << 20
"""Of what is carried over and probabilities that are held before a row group is written: most units are one. Eight of
them took three times as long, since each begins with what the arithmetic has driven out of the caches. Of sampled
images as much is held before they are counted."""


class Arithmetic(Protocol):
    """What makes probabilities of images."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities of uint8 images N x C x H x W, as float32 N x classes."""


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished unit.

    Attributes:
        unit: Its name.
        number: Its place in the plan.
        rows: Rows scored.
        refused: The rows that were refused, as in ``schema.REFUSED``.
        sha256: Of its part.
        bytes: Of its part.
        counts: Rows by predicted class, in the order of the class names.
        pixels: Counts of pixel values over every ``Desk.drift_stride``-th row, channels x 256.
        seconds: Wall time.
        ended: When it was done, in seconds since the epoch.
        made_with: See ``made_with``.
    """

    unit: str
    number: int
    rows: int
    refused: list[dict[str, str]]
    sha256: str
    bytes: int
    counts: list[int]
    pixels: list[list[int]]
    seconds: float
    ended: float
    made_with: str = ""


@dataclass(frozen=True)
class Desk:
    """What every unit of a job shares.

    Attributes:
        reader: Reads units.
        staging: Folder of parts and receipts.
        model: The model.
        layout: Layout of the probabilities, see ``schema.scores_schema``.
        scored_at: When the plan was made; one value for a version.
        keys: Columns that are carried over.
        drift_stride: See ``drift_stride``.
    """

    reader: UnitReader
    staging: str
    model: ScoringModel
    layout: str
    scored_at: dt.datetime
    keys: tuple[pa.Field, ...] = ()
    drift_stride: int = 1


def drift_stride(rows: int) -> int:
    """Of how many rows one has its pixels counted, in a job of so many: the same for all its units, small ones too."""
    return max(1, min(DRIFT_STRIDE, rows // DRIFT_IMAGES))


def part_uri(staging: str, unit: str) -> str:
    """Where the unfinished table keeps a unit's part."""
    return storage.join(staging, f"{unit}.part")


def staged_part(staging: str, unit: str, digest: str) -> bytes:
    """The bytes of a unit's part.

    Raises:
        FileNotFoundError: There is none, or another one: jobs of the same plan stage under the same names.
    """
    uri = part_uri(staging, unit)
    content = storage.read_bytes(uri)
    if sha256(content) != digest:
        raise FileNotFoundError(errno.ENOENT, "these are not the bytes that were published", uri)
    return content


def receipt_uri(staging: str, unit: str) -> str:
    """Where a unit's receipt lies."""
    return storage.join(staging, f"{unit}.json")


def do_unit(unit: Unit, desk: Desk, engine: Arithmetic) -> Receipt:
    """Read, score and write one unit; the receipt is durable when this returns."""
    began = time.perf_counter()
    schema = scores_schema(desk.model.class_names, desk.layout, desk.keys)
    counts = np.zeros(len(desk.model.class_names), dtype=np.int64)
    sample = _Sample(PixelCounts.zero(desk.model.shape[0]))
    rows = 0
    refused: list[dict[str, str]] = []
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=_repeating(schema)) as writer:
        for group in _groups(desk, unit, engine, sample):
            refused += group.refused
            if not group.probabilities:
                continue
            probabilities = np.concatenate(group.probabilities)
            predicted = probabilities.argmax(axis=1)
            writer.write_table(_table(pa.concat_tables(group.carried), probabilities, predicted, desk, schema))
            counts += np.bincount(predicted, minlength=len(counts))
            rows += len(predicted)
    content = sink.getvalue()
    reached("part", unit=unit.number)
    storage.write_bytes(part_uri(desk.staging, unit.name), content)
    reached("receipt", unit=unit.number)
    receipt = Receipt(
        unit=unit.name,
        number=unit.number,
        rows=rows,
        refused=refused,
        sha256=sha256(content),
        bytes=content.size,
        counts=counts.tolist(),
        pixels=sample.count().counts.tolist(),
        seconds=time.perf_counter() - began,
        ended=time.time(),
        made_with=made_with(),
    )
    storage.write_json(receipt_uri(desk.staging, unit.name), vars(receipt))
    reached("finished", unit=unit.number)
    return receipt


@dataclass
class _Group:
    """Rows that become one row group.

    Attributes:
        carried: Their ids and key columns.
        probabilities: Theirs, float32 N x classes.
        refused: Rows between them that have no picture.
    """

    carried: list[pa.Table] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What it holds."""
        return sum(each.nbytes for each in (*self.carried, *self.probabilities))


@dataclass
class _Sample:
    """The images whose pixels are counted, apart from the row groups, which would be small where they are large.

    Attributes:
        pixels: Counts of those that are no longer held.
        held: Uint8 images N x C x H x W, to be counted together.
    """

    pixels: PixelCounts
    held: list[np.ndarray] = field(default_factory=list)

    def add(self, images: np.ndarray) -> None:
        """Take images in, which are held up to ``GROUP_BYTES``."""
        self.held.append(images)
        if sum(each.nbytes for each in self.held) >= GROUP_BYTES:
            self.count()

    def count(self) -> PixelCounts:
        """The counts of all that were taken in; none is held any longer."""
        if self.held:
            self.pixels += PixelCounts.of(np.concatenate(self.held))
            self.held = []
        return self.pixels


def _groups(desk: Desk, unit: Unit, engine: Arithmetic, sample: _Sample) -> Iterator[_Group]:
    """The rows of a unit with their probabilities, as few groups as ``GROUP_BYTES`` allows; fills the sample.

    Every ``Desk.drift_stride``-th image of each batch is in the sample.
    """
    group = _Group()
    # The next rows are read, and decoded, beside the arithmetic, which leaves Python's lock alone.
    for batch in ahead(desk.reader.read(unit)):
        group.refused += batch.refused
        if len(batch.rows):
            group.carried.append(batch.rows)
            group.probabilities.append(engine.probabilities(batch.images))
            # A copy, since a view would keep all of the batch's images.
            sample.add(batch.images[:: desk.drift_stride].copy())
        if group.bytes >= GROUP_BYTES:
            yield group
            group = _Group()
    yield group


def finished(unit: Unit, staging: str) -> Receipt | None:
    """The receipt of a unit that an earlier run finished with these libraries, if its part is there and whole."""
    try:
        receipt = Receipt(**storage.read_json(receipt_uri(staging, unit.name)))
        if receipt.made_with != made_with():
            return None
        whole = len(staged_part(staging, unit.name, receipt.sha256)) == receipt.bytes
    except (OSError, TypeError, IntegrityError, StorageError):
        return None
    return receipt if whole else None


def undo(staging: str, unit: str) -> None:
    """Make a unit unfinished, by its name."""
    storage.remove(receipt_uri(staging, unit))
    storage.remove(part_uri(staging, unit))


@cache
def made_with() -> str:
    """The libraries that decide a row's last bits: a version's parts all come from the same."""
    found = library_versions("cnnjob", "onnxruntime", "torch", "pillow", "imagecodecs")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def finished_units(units: Iterable[Unit], staging: str) -> Iterator[Receipt]:
    """The receipts of the units that an earlier run finished; one look tells which may be there."""
    there = set(storage.list_files(staging))
    for unit in units:
        if storage.name(receipt_uri(staging, unit.name)) in there and (receipt := finished(unit, staging)):
            yield receipt


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns whose values repeat. A dictionary of probabilities or ids takes time, and more room than they do."""
    return [name for name in schema.names if name not in (ID, CONFIDENCE) and not name.startswith(_PROBABILITIES)]


def _table(
    carried: pa.Table, probabilities: np.ndarray, predicted: np.ndarray, desk: Desk, schema: pa.Schema
) -> pa.Table:
    rows, classes = probabilities.shape
    names = pa.array(desk.model.class_names)
    columns = {
        **{name: carried.column(name) for name in carried.column_names},
        PREDICTION: names.take(pa.array(predicted)),
        CONFIDENCE: pa.array(probabilities.max(axis=1)),
        MODEL_NAME: pa.repeat(desk.model.name, rows),
        MODEL_VERSION: pa.repeat(desk.model.version, rows),
        SCORED_AT: pa.repeat(pa.scalar(desk.scored_at, pa.timestamp("us", tz="UTC")), rows),
    }
    if desk.layout == "list":
        values = pa.array(np.ascontiguousarray(probabilities).reshape(-1))
        columns[PROBABILITIES] = pa.FixedSizeListArray.from_arrays(values, classes)
    else:
        for number, name in enumerate(desk.model.class_names):
            columns[f"p_{name}"] = pa.array(np.ascontiguousarray(probabilities[:, number]))
    return pa.table([columns[name] for name in schema.names], schema=schema)
