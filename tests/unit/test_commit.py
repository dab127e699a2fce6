import datetime as dt
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from cnnjob import local_disk, storage
from cnnjob.digests import sha256
from cnnjob.errors import DatasetError, FormatVersionError, IntegrityError, JobError, LostPartsError, StorageError
from cnnjob.schema import ID
from cnnjob.scoring import commit
from cnnjob.scoring.commit import publish
from cnnjob.scoring.inputs import DatasetInput
from cnnjob.scoring.plan import Plan
from cnnjob.scoring.table import Table, current, numbers
from cnnjob.scoring.work import finished
from tests.helpers import dies_at
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
    left = [unit.number for unit in plan.units if not finished(unit, night.staging(plan))]
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
    receipts[0] = replace(receipts[0], rows=receipts[0].rows - 1, sha256=sha256(content), bytes=len(content))
    with pytest.raises(IntegrityError, match="unit 0"):
        night.verify(plan, list(receipts.values()))


def test_rows_that_only_a_receipt_has_are_noticed(night):
    """A receipt of other rows than its part has is noticed: the manifest's rows are added up from receipts."""
    plan = night.plan()
    receipts = night.score(plan)
    receipts[0] = replace(receipts[0], rows=receipts[0].rows + 1)
    with pytest.raises(IntegrityError, match=f"unit {receipts[0].number}"):
        night.verify(plan, receipts)


def test_other_ids_are_noticed(night):
    """Rows under ids that are not those of the input are an IntegrityError that names the unit, which is undone."""
    plan = night.plan()
    receipts = {receipt.number: receipt for receipt in night.score(plan)}
    part = part_of(night, plan, 0)
    table = pq.read_table(part)
    ids = ["another", *table.column(ID).to_pylist()[1:]]
    pq.write_table(table.set_column(0, table.schema.field(0), [ids]), part)
    content = part.read_bytes()
    receipts[0] = replace(receipts[0], sha256=sha256(content), bytes=len(content))
    with pytest.raises(IntegrityError, match=r"unit 0.*other ids"):
        night.verify(plan, list(receipts.values()))
    assert finished(plan.units[0], night.staging(plan)) is None


def test_an_input_that_was_prepared_anew_is_noticed(night, tmp_path):
    """Where the data set was exchanged while it was scored, nothing is published: rows may be of both."""
    copy = Path(shutil.copytree(night.digits.path, tmp_path / "copy"))
    night.given = DatasetInput(str(copy), night.digits.manifest)
    plan = night.plan()
    receipts = night.score(plan)
    night.verify(plan, receipts)
    document = json.loads((copy / "manifest.json").read_text())
    document["splits"]["test"]["shards"][0]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="prepared anew while it was scored"):
        night.verify(plan, receipts)


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
        assert sha256((Path(night.table.partition) / part.name).read_bytes()) == part.sha256
    assert manifest.model["digest"] == night.bundle.digest
    assert manifest.replaced is None


def test_counts_have_a_place_for_every_class(night):
    """The counts and the pixels of a date without rows are zeros, one for each class and channel."""
    nothing = Plan(digest="0" * 64, listing_digest="1" * 64, units=(), rows=0)
    manifest = publish(night.table, nothing, night.ledger([]), night.model, {}, MORNING, base=None)
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
    path = Path(night.table.log(1))
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 99'))
    with pytest.raises(FormatVersionError, match="99"):
        current(night.table)


def test_who_comes_second_is_told_who_won(night):
    """Of two publications of the same base, the second fails, says which version won, and leaves nothing."""
    first, second = night.plan(64), night.plan(50)
    scored = [(plan, night.ledger(night.score(plan))) for plan in (first, second)]
    won = publish(night.table, *scored[0], night.model, {}, MORNING, base=None)
    before = set(storage.list_files(night.table.meta))
    with pytest.raises(JobError, match=rf"version {won.version}, 175 rows.*published nothing"):
        publish(night.table, *scored[1], night.model, {}, MORNING, base=None)
    assert current(night.table) == won
    assert set(storage.list_files(night.table.meta)) == before


def test_versions_beyond_the_history_are_forgotten(night):
    """Of five versions two keep their manifests, quarantine and receipts; the numbers of the others stay taken."""
    for minute in range(5):
        night.history = 2
        manifest = night.publish(target_rows=50 + minute, scored_at=MORNING + dt.timedelta(minutes=minute))
    for kind in ("quarantine", "receipts"):
        found = sorted(int(name[:12]) for name in storage.list_files(storage.join(night.table.meta, kind)))
        assert found == [4, 5], kind
    assert [bool(storage.size(night.table.log(number))) for number in numbers(night.table)] == [False] * 3 + [True] * 2
    assert set(storage.list_files(night.table.partition)) == manifest.file_names


def test_a_job_that_was_overtaken_by_more_than_the_history_has_lost(night):
    """A job that began before versions that are forgotten by now is told who won: their numbers are not free."""
    night.history = 1
    slow = night.plan(90)
    receipts = night.score(slow)
    for minute in range(3):
        won = night.publish(target_rows=50 + minute, scored_at=MORNING + dt.timedelta(minutes=minute))
    with pytest.raises(JobError, match=rf"version {won.version}"):
        publish(night.table, slow, night.ledger(receipts), night.model, {}, MORNING, base=None, history=1)
    assert current(night.table) == won


def test_a_commit_whose_store_fails_is_not_told_as_lost(night, monkeypatch):
    """Where the manifest was written and the store failed to say so, that failure is told, and the next run ends it."""
    plan = night.plan()
    receipts = night.score(plan)

    def write_and_fail(uri: str, content: bytes) -> bool:
        storage.write_bytes(uri, content)
        raise StorageError("the store failed")

    monkeypatch.setattr(commit.exclusive, "create", write_and_fail)
    with pytest.raises(StorageError, match="the store failed"):
        publish(night.table, plan, night.ledger(receipts), night.model, {}, MORNING, base=None)
    assert night.published().column(ID).to_pylist() == night.rows.ids
    assert commit.recover(night.table).plan_digest == plan.digest
    assert set(storage.list_files(night.table.partition)) == current(night.table).file_names


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


def test_what_others_put_beside_the_parts_does_no_harm(night):
    """A date with files of other tools is in place as it is, and can be rolled forward and replaced; it keeps them."""
    night.publish()
    for name in (".DS_Store", "_SUCCESS", ".part-00000.crc"):
        (Path(night.table.partition) / name).touch()
    (Path(night.table.partition) / "notes/of").mkdir(parents=True)
    (Path(night.table.partition) / "notes/of/somebody").touch()
    before = night.published()
    (Path(night.table.meta) / "manifest.json").unlink()
    assert commit.recover(night.table) == current(night.table)
    assert night.published() == before
    night.publish(target_rows=32, scored_at=MORNING + dt.timedelta(hours=1))
    others = {".DS_Store", "_SUCCESS", ".part-00000.crc", "notes/of/somebody"}
    assert set(storage.list_files(night.table.partition)) == current(night.table).file_names | others


def test_parts_of_another_version_are_replaced_where_the_staging_is_gone(night):
    """A part that does not belong to the version is removed, though nothing is left of where its parts were staged."""
    manifest = night.publish()
    parts = sorted(Path(night.table.partition).iterdir())
    shutil.copy(parts[0], parts[0].with_name(f"{parts[0].name[:-16]}0badc0de.parquet"))
    commit.recover(night.table)
    assert set(storage.list_files(night.table.partition)) == manifest.file_names


@pytest.mark.parametrize("lost", ["one part", "all of them"])
def test_parts_that_somebody_removed_are_told(night, lost):
    """A version without its parts is told as such, each time, and another one can be published over it."""
    manifest = night.publish()
    before = night.published()
    parts = sorted(Path(night.table.partition).iterdir())
    for part in parts[:1] if lost == "one part" else parts:
        part.unlink()
    for _ in range(2):
        with pytest.raises(LostPartsError, match=f"{manifest.version}, are gone"):
            commit.recover(night.table)
    again = MORNING + dt.timedelta(hours=1)
    plan = night.plan()
    receipts = night.score(plan, scored_at=again)
    publish(night.table, plan, night.ledger(receipts), night.model, {}, again, base=manifest)
    assert night.published().drop(["scored_at"]) == before.drop(["scored_at"])


def test_without_an_exchange_readers_of_the_root_see_one_version(night, monkeypatch):
    """Where the kernel cannot exchange folders, a job that dies in between leaves no second version in the table."""
    night.publish()
    monkeypatch.setattr(local_disk, "exchange", lambda *_: False)
    monkeypatch.setattr(local_disk, "reached", dies_at("moved aside"))
    with pytest.raises(KeyboardInterrupt):
        night.publish(target_rows=32, scored_at=MORNING + dt.timedelta(hours=1))
    assert list(night.root.iterdir()) == []
    monkeypatch.undo()
    manifest = commit.recover(night.table)
    assert manifest.number == 2
    assert storage.list_files(str(night.root)) == sorted(f"date={DATE}/{name}" for name in manifest.file_names)
    assert not [path for path in Path(night.table.meta).iterdir() if "old-" in path.name]


def test_a_table_behind_a_link_is_where_the_link_leads(night, tmp_path):
    """Parts and log lie on one disk, wherever the link to the table is."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "scores").mkdir()
    night.root.symlink_to(tmp_path / "disk" / "scores")
    night.table = Table(str(night.root), DATE)
    night.publish()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["scores", "scores.meta"]
    assert len(night.published()) == len(night.rows.ids)
    assert not night.root.with_name("scores.meta").exists()
