"""Reading a date's scores as its manifest says, also while the date is being replaced."""

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from cnnjob import storage
from cnnjob.digests import sha256
from cnnjob.errors import DatasetError, IntegrityError, LostPartsError, UserError
from cnnjob.schema import scores_schema
from cnnjob.scoring.table import Part, ScoresManifest, Table, current
from cnnjob.scoring.work import staged_part

_ATTEMPTS, _PAUSE_S = 50, 0.02


def read_scores(uri: str, date: dt.date) -> pa.Table:
    """The scores of a date: all parts of one version, in the order of the plan.

    A replacement that happens while this reads makes it start again; it never returns a mixture, nor a part whose bytes
    are others than were published.

    Args:
        uri: Root of the table.
        date: A ``datetime.date``. No text, and no ``datetime``, whose day is another one in another time zone.

    Raises:
        UserError: The date is none.
        DatasetError: Nothing is published for the date.
        LostPartsError: Somebody removed published parts.
        IntegrityError: Somebody wrote over a published part, or the manifest is damaged.
        StorageError: The store failed.
    """
    if not isinstance(date, dt.date) or isinstance(date, dt.datetime):
        raise UserError(f"the date {date!r} should be a datetime.date, such as datetime.date(2026, 1, 31)")
    table = Table(uri, date)
    again = Retrying(
        retry=retry_if_exception_type(FileNotFoundError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_fixed(_PAUSE_S),
        reraise=True,
    )
    try:
        return again(_read_version, table)
    except FileNotFoundError as error:
        raise LostPartsError(f"{table.partition}: published parts are gone. {_again(table)}") from error


def _read_version(table: Table) -> pa.Table:
    manifest = current(table)
    if manifest is None:
        raise DatasetError(f"{table.root} has no scores for {table.date}; run cnnjob score --date {table.date}")
    if not manifest.parts:
        # Every row was refused; what types its key columns would have, nothing tells.
        return scores_schema(manifest.class_names, manifest.layout).empty_table()
    return pa.concat_tables(pq.read_table(pa.BufferReader(_read(table, manifest, part))) for part in manifest.parts)


def _read(table: Table, manifest: ScoresManifest, part: Part) -> bytes:
    """A part from where it is published, or, in the instant after its commit, from where it was staged."""
    published = storage.join(table.partition, part.name)
    try:
        content = storage.read_bytes(published)
    except FileNotFoundError:
        return staged_part(table.staging_of(manifest), part.unit, part.sha256)
    if sha256(content) != part.sha256:
        raise IntegrityError(
            f"{published} is not what was published: somebody wrote over it, or the disk has damaged it. Remove it; "
            f"{_again(table)}"
        )
    return content


def _again(table: Table) -> str:
    return f"cnnjob score --date {table.date} scores the date again, as a new version."
