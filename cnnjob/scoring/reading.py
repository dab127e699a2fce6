"""Reading a date's scores as its manifest says, also while the date is being replaced."""

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from cnnjob import storage
from cnnjob.errors import DatasetError
from cnnjob.scoring.commit import Table, recoverable


@retry(
    retry=retry_if_exception_type(FileNotFoundError), stop=stop_after_attempt(50), wait=wait_fixed(0.02), reraise=True
)
def read_scores(uri: str, date: dt.date) -> pa.Table:
    """The scores of a date: all parts of one version, in the order of the plan.

    A replacement that happens while this reads makes it start again; it never returns a mixture.

    Raises:
        DatasetError: Nothing is published for the date.
    """
    manifests = recoverable(Table(uri, date))
    if not manifests:
        raise DatasetError(f"{uri} has no scores for {date.isoformat()}; run cnnjob score --date {date.isoformat()}")
    missing: FileNotFoundError | None = None
    for manifest in manifests:
        try:
            parts = [storage.read_bytes(storage.join(Table(uri, date).partition, part.name)) for part in manifest.parts]
            return pa.concat_tables(pq.read_table(pa.BufferReader(part)) for part in parts)
        except FileNotFoundError as error:
            missing = error
    assert missing is not None, "at least one manifest was tried"
    raise missing
