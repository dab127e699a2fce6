"""Reading a date's scores as its manifest says, also while the date is being replaced."""

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from cnnjob import storage
from cnnjob.errors import DatasetError
from cnnjob.schema import scores_schema
from cnnjob.scoring.table import Part, ScoresManifest, Table, current
from cnnjob.scoring.work import part_uri


@retry(
    retry=retry_if_exception_type(FileNotFoundError), stop=stop_after_attempt(50), wait=wait_fixed(0.02), reraise=True
)
def read_scores(uri: str, date: dt.date) -> pa.Table:
    """The scores of a date: all parts of one version, in the order of the plan.

    A replacement that happens while this reads makes it start again; it never returns a mixture.

    Raises:
        DatasetError: Nothing is published for the date.
        StorageError: The store failed.
    """
    table = Table(uri, date)
    manifest = current(table)
    if manifest is None:
        raise DatasetError(f"{uri} has no scores for {date.isoformat()}; run cnnjob score --date {date.isoformat()}")
    if not manifest.parts:
        # Every row was refused; what types its key columns would have, nothing tells.
        return scores_schema(manifest.class_names, manifest.config["probabilities"]).empty_table()
    return pa.concat_tables(pq.read_table(pa.BufferReader(_read(table, manifest, part))) for part in manifest.parts)


def _read(table: Table, manifest: ScoresManifest, part: Part) -> bytes:
    """A part from where it is published, or, in the instant after its commit, from where it was staged."""
    try:
        return storage.read_bytes(storage.join(table.partition, part.name))
    except FileNotFoundError:
        return storage.read_bytes(part_uri(table.staging_of(manifest), part.unit))
