"""Other people's readers, pointed at the root of the table: during and after a replacement they see one version."""

import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

from tests.unit.night import MORNING

ROWS = 175
REPLACEMENTS = 12


def with_pandas(root: Path) -> list[str]:
    return list(map(str, pd.read_parquet(root)["scored_at"]))


def with_duckdb(root: Path) -> list[str]:
    # A connection of its own: the module's one cannot be shared between threads.
    with duckdb.connect() as connection:
        query = f"SELECT CAST(scored_at AS VARCHAR) FROM read_parquet('{root}/**', hive_partitioning = true)"
        return [row[0] for row in connection.sql(query).fetchall()]


def with_polars(root: Path) -> list[str]:
    return list(map(str, pl.read_parquet(root)["scored_at"]))


@pytest.mark.parametrize("read", [with_pandas, with_duckdb, with_polars], ids=["pandas", "duckdb", "polars"])
def test_readers_during_and_after_a_replacement(night, read: Callable[[Path], list[str]]):
    """A reader that lists and then opens gets all rows of one version, or an error that a file is gone: no mixture."""
    night.publish(target_rows=50)
    over = threading.Event()
    wrong: list[object] = []
    reads = 0

    def poll() -> None:
        nonlocal reads
        while not over.is_set():
            try:
                found = read(night.root)
            except (OSError, duckdb.Error, pl.exceptions.PolarsError):
                continue
            reads += 1
            if len(found) != ROWS or len(set(found)) != 1:
                wrong.append((len(found), set(found)))

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(1, REPLACEMENTS):
        night.publish(target_rows=50 + number, scored_at=MORNING.replace(minute=number))
    over.set()
    reader.join()
    assert wrong == []
    assert reads
    assert len(read(night.root)) == ROWS
