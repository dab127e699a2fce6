import datetime as dt
import os
import threading
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from cnnjob import storage
from cnnjob.errors import DatasetError, FormatVersionError, IntegrityError
from cnnjob.schema import ID
from cnnjob.scoring import commit
from cnnjob.scoring.commit import Table, current, publish, recover, verify
from cnnjob.scoring.plan import Plan
from cnnjob.scoring.work import finished
from tests.unit.night import DATE, MORNING, part_of


def test_whole_work_is_verified(night):
    """What was scored as planned passes."""
    plan = night.plan()
    night.verify(plan, night.score(plan))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_changed_part_is_noticed(night, share):
    """A byte that changed anywhere in a part is an IntegrityError, and that unit alone is not finished any more."""
    plan = night.plan()
    receipts = night.score(plan)
    part = part_of(night, plan, 1)
    content = bytearray(part.read_bytes())
    content[round(share * (len(content) - 1))] ^= 1
    part.write_bytes(content)
    with pytest.raises(IntegrityError, match="unit 1"):
        night.verify(plan, receipts)
    left = [unit.number for unit in plan.units if not finished(unit, night.table.staging(plan))]
    assert left == [1]


def test_a_part_cut_short_is_noticed(night):
    """A part without its end is an IntegrityError."""
    plan = night.plan()
    receipts = night.score(plan)
    part = part_of(night, plan, 0)
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(IntegrityError, match="unit 0"):
        night.verify(plan, receipts)


def test_a_missing_part_is_noticed(night):
    """A part that is gone is an IntegrityError."""
    plan = night.plan()
    receipts = night.score(plan)
    part_of(night, plan, 2).unlink()
    with pytest.raises(IntegrityError, match="2"):
        night.verify(plan, receipts)


def test_a_missing_receipt_is_noticed(night):
    """A unit without a receipt is an IntegrityError that names the unit."""
    plan = night.plan()
    receipts = [receipt for receipt in night.score(plan) if receipt.number != 2]
    with pytest.raises(IntegrityError, match=r"\[2\]"):
        night.verify(plan, receipts)


def test_receipts_are_not_believed(night):
    """A part that lacks rows is noticed although its receipt agrees with it."""
    plan = night.plan()
    receipts = {receipt.number: receipt for receipt in night.score(plan)}
    part = part_of(night, plan, 0)
    pq.write_table(pq.read_table(part).slice(1), part)
    content = part.read_bytes()
    receipts[0] = replace(receipts[0], rows=receipts[0].rows - 1, sha256=storage.sha256(content), bytes=len(content))
    with pytest.raises(IntegrityError, match="unit 0"):
        night.verify(plan, list(receipts.values()))


def test_other_ids_are_noticed(night):
    """Rows under ids that are not those of the input are an IntegrityError."""
    plan = night.plan()
    receipts = night.score(plan)
    with pytest.raises(IntegrityError, match="ids"):
        verify(night.table, plan, receipts, night.expected_ids + 1)


def test_only_parts_lie_under_the_root(night):
    """Under the root lie the date's parts and nothing else, before and after a second publication."""
    for hour in range(2):
        manifest = night.publish(scored_at=MORNING + dt.timedelta(hours=hour))
        assert storage.list_files(str(night.root)) == [f"date=2024-02-29/{part.name}" for part in manifest.parts]


def test_unpublished_work_does_not_show(night):
    """Scored and not published, nothing lies under the root, and no file beside it ends in .parquet."""
    night.score(night.plan())
    assert storage.list_files(str(night.root)) == []
    assert not list(night.root.parent.rglob("*.parquet"))
    with pytest.raises(DatasetError, match="cnnjob score"):
        night.published()


def test_manifest_describes_the_table(night):
    """The date's manifest has the rows, the counts by class, and each part with its digest."""
    manifest = night.publish()
    table = night.published()
    assert current(night.table) == manifest
    assert manifest.rows == len(table) == len(night.rows.ids)
    names = table.column("prediction").to_pylist()
    assert manifest.counts == [names.count(name) for name in manifest.class_names]
    for part in manifest.parts:
        assert storage.sha256((Path(night.table.partition) / part.name).read_bytes()) == part.sha256
    assert manifest.model["digest"] == night.bundle.digest
    assert manifest.replaced is None


def test_counts_have_a_place_for_every_class(night):
    """The counts and the pixels of a date without rows are zeros, one for each class and channel."""
    nothing = Plan(digest="0" * 64, listing_digest="1" * 64, units=(), rows=0)
    manifest = publish(night.table, nothing, [], night.model, {}, MORNING)
    assert manifest.counts == [0] * 10
    assert [len(channel) for channel in manifest.pixels] == [256] * 3


def test_publishing_again_replaces(night):
    """A second publication takes the place of the first as a whole, and names it."""
    first = night.publish(target_rows=30)
    second = night.publish(target_rows=100, scored_at=MORNING + dt.timedelta(hours=1))
    assert second.replaced == first.version
    assert len(first.parts) > len(second.parts)
    assert not {part.name for part in first.parts} & {part.name for part in second.parts}
    assert set(night.published().column("scored_at").to_pylist()) == {MORNING + dt.timedelta(hours=1)}
    assert night.published().column(ID).to_pylist() == night.rows.ids


def test_other_dates_stay(night):
    """Publishing a date leaves the other dates as they are."""
    first = night.publish()
    night.table = Table(str(night.root), DATE + dt.timedelta(days=1))
    night.publish()
    assert current(Table(str(night.root), DATE)) == first
    assert night.published().column(ID).to_pylist() == night.rows.ids


class DeathError(Exception):
    """The process died here."""


def die(*_: object, **__: object) -> None:
    raise DeathError


def test_death_before_the_exchange_keeps_the_old_version(night, monkeypatch):
    """Killed before the exchange, the old version is read and recovered, and publishing again succeeds."""
    first = night.publish()
    later = MORNING + dt.timedelta(hours=1)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "publish_folder", die)
        with pytest.raises(DeathError):
            night.publish(scored_at=later)
    assert set(night.published().column("scored_at").to_pylist()) == {MORNING}
    assert recover(night.table) == current(night.table) == first
    assert night.publish(scored_at=later).replaced == first.version
    assert set(night.published().column("scored_at").to_pylist()) == {later}


def test_death_after_the_exchange_has_the_new_version(night, monkeypatch):
    """Killed between the exchange and the manifest's rename, the new version is read, and recovery finishes it."""
    first = night.publish()
    later = MORNING + dt.timedelta(hours=1)
    real = os.replace

    def replace_but_not_the_manifest(source, target):
        if Path(target).name == commit.MANIFEST:
            raise DeathError
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_but_not_the_manifest)
        with pytest.raises(DeathError):
            night.publish(scored_at=later)
    assert current(night.table) == first
    assert set(night.published().column("scored_at").to_pylist()) == {later}
    assert night.published().column(ID).to_pylist() == night.rows.ids
    recovered = recover(night.table)
    assert recovered.replaced == first.version
    assert current(night.table) == recovered
    assert recover(night.table) == recovered


def test_death_in_the_first_publication(night, monkeypatch):
    """Killed in the first publication before its exchange, nothing is published, and the next run publishes."""
    with monkeypatch.context() as patch:
        patch.setattr(storage, "publish_folder", die)
        with pytest.raises(DeathError):
            night.publish()
    assert recover(night.table) is None
    assert storage.list_files(str(night.root)) == []
    assert night.publish().rows == len(night.rows.ids)


@pytest.mark.parametrize("step", ["before", "after"])
def test_deaths_leave_nothing_for_good(night, monkeypatch, step):
    """After the run that follows a death, the same files lie beside the table as without the death."""
    night.publish()
    later = MORNING + dt.timedelta(hours=1)
    real = storage.publish_folder

    def publish_then_die(staged, target):
        storage.sync_tree(staged)
        if step == "after":
            assert storage.exchange(staged, target)
        raise DeathError

    with monkeypatch.context() as patch:
        patch.setattr(storage, "publish_folder", publish_then_die)
        with pytest.raises(DeathError):
            night.publish(scored_at=later)
    assert storage.publish_folder is real
    night.publish(scored_at=later + dt.timedelta(hours=1))
    beside = storage.list_files(night.table.meta)
    assert not [name for name in beside if name.startswith(("publish-", "staging", "manifest.next"))]


def test_readers_see_one_version(night):
    """While versions replace each other, every read has all rows, of one version."""
    night.publish()
    done, reading = threading.Event(), threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            table = night.published()
            if table.column(ID).to_pylist() != night.rows.ids or len(set(table.column("scored_at").to_pylist())) != 1:
                wrong.append(table)
            reading.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(60)
    for minute in range(1, 5):
        night.publish(target_rows=40 + minute, scored_at=MORNING + dt.timedelta(minutes=minute))
    done.set()
    reader.join()
    assert wrong == []


def test_other_format_version_is_refused(night):
    """A date published in another format version is refused by that."""
    night.publish()
    path = Path(night.table.meta) / commit.MANIFEST
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(FormatVersionError, match="99"):
        current(night.table)


def test_any_reader_reads_the_root(night):
    """pandas, DuckDB and Polars, pointed at the root of a table of two dates, read all rows and the date."""
    night.publish()
    night.table = Table(str(night.root), DATE + dt.timedelta(days=1))
    night.publish()
    expected = sorted(night.rows.ids * 2)
    pandas = pd.read_parquet(night.root)
    polars = pl.read_parquet(night.root)
    query = f"SELECT id, date FROM read_parquet('{night.root}/**', hive_partitioning = true)"
    rows = duckdb.sql(query).fetchall()
    assert sorted(pandas["id"]) == expected
    assert sorted(polars["id"]) == expected
    assert sorted(row[0] for row in rows) == expected
    assert pandas["date"].nunique() == polars["date"].n_unique() == len({row[1] for row in rows}) == 2


def test_files_explain_themselves(night):
    """A part's schema carries the class names in the order of the probabilities."""
    manifest = night.publish()
    metadata = pq.read_schema(Path(night.table.partition) / manifest.parts[0].name).metadata
    assert metadata[b"cnnjob.class_names"] == b'["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'
