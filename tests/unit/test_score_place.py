"""Where a table of scores may lie, and what is refused before the work: nothing is written, and nothing removed."""

import dataclasses
import datetime as dt
import errno
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.dataset import dataset

from cnnjob import storage
from cnnjob.errors import DatasetError, StorageError, UserError
from cnnjob.scoring.table import Table
from pipelines import score_place
from tests.configs import load, mistakes, written
from tests.nights import Work, folder_of_pictures

DAY = dt.date(2024, 2, 27)


@pytest.fixture
def works(bundle_folder, tmp_path):
    """A folder of pictures for each of two days."""
    for day in ("2024-02-27", "2024-02-28"):
        folder_of_pictures(tmp_path / "in" / day, 12)
    return Work(str(bundle_folder), "folder", str(tmp_path / "in" / "{date}"), str(tmp_path / "scores"))


def refused(works: Work, folder: Path, match: str) -> None:
    """Scoring is refused with these words, and every file is where it was."""
    before = storage.list_files(str(folder))
    with pytest.raises(UserError, match=match):
        works.score(DAY)
    assert storage.list_files(str(folder)) == before


def test_a_table_at_a_mount_point_is_refused_before_the_work(works, tmp_path, monkeypatch):
    """Where the table's folder is another disk than what lies beside it, that is told with what to do."""
    (tmp_path / "scores").mkdir()
    given = Path.stat
    other = mock.Mock(st_dev=-1, st_mode=(tmp_path / "scores").stat().st_mode)
    monkeypatch.setattr(
        Path, "stat", lambda path, **options: other if path.name == "scores" else given(path, **options)
    )
    with pytest.raises(UserError, match=r"a disk is mounted at .*Choose a folder below it"):
        score_place.check_root(works.config)


@pytest.mark.parametrize("output", ["in/2024-02-27/scores", "in/2024-02-27", "in"])
def test_a_table_in_its_input_is_refused(works, tmp_path, output):
    """A table that lies in its input, or holds it, would score its own files the next time: nothing is written."""
    before = storage.list_files(str(tmp_path))
    with pytest.raises(UserError, match="lie one in the other"):
        dataclasses.replace(works, root=str(tmp_path / output)).score(dt.date(2024, 2, 27))
    assert storage.list_files(str(tmp_path)) == before


def test_a_file_is_no_table(works, tmp_path):
    """An output that is a file is refused."""
    (tmp_path / "scores").touch()
    refused(works, tmp_path, "is a file; it should be a folder")


@pytest.mark.parametrize("name", ["manifest.json", "train/00000.parquet", "date=2024-02-27/part.parquet"])
def test_a_folder_with_files_of_others_is_no_table(works, tmp_path, name):
    """An output where something lies that no job of scoring has written is refused, be it another date's."""
    (tmp_path / "scores" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "scores" / name).touch()
    refused(works, tmp_path, "is no table of scores")


def test_a_date_with_files_of_others_is_not_replaced(works, tmp_path):
    """In a table of ours, a date's folder that somebody else has written is refused; other dates are scored."""
    works.score(DAY + dt.timedelta(days=1))
    other = tmp_path / "scores" / "date=2024-02-27" / "other.parquet"
    other.parent.mkdir()
    other.touch()
    refused(works, tmp_path, "has 'other.parquet', and no job has published")


def test_a_date_that_is_a_link_is_refused(works, tmp_path):
    """A date's folder that is a link could not be exchanged: it is refused before the work."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "date=2024-02-27").symlink_to(tmp_path / "elsewhere")
    refused(works, tmp_path, "is a link")


@pytest.mark.parametrize("below", ["scores/shoes", "scores/a/b/c", "scores.meta/shoes"])
def test_a_table_in_another_one_is_refused(works, tmp_path, below):
    """A table at any depth below another one, or below its log, would be read as a part of it: nothing is written."""
    works.score(DAY)
    inner = dataclasses.replace(works, root=str(tmp_path / below))
    refused(inner, tmp_path, f"would lie in the table {tmp_path}/scores, whose readers")


def test_a_table_round_another_one_is_refused(works, tmp_path):
    """A place that another table lies in is none for a table, be it one already: its readers would read both."""
    inner = dataclasses.replace(works, root=str(tmp_path / "scores" / "shoes"))
    inner.score(DAY)
    refused(works, tmp_path, "is no table of scores")
    for place in ("shoes", "shoes.meta"):
        (tmp_path / "scores" / place).rename(tmp_path / place)
    works.score(DAY)
    for place in ("shoes", "shoes.meta"):
        (tmp_path / place).rename(tmp_path / "scores" / place)
    with pytest.raises(UserError, match=f"{tmp_path}/scores/shoes would lie in the table {tmp_path}/scores"):
        works.score(DAY + dt.timedelta(days=1))


def test_tables_beside_each_other_are_taken(works, tmp_path):
    """Below a folder that has a log-like folder beside it, which is none, and beside another table."""
    works.score(DAY)
    (tmp_path / "group.meta" / "date=2024-02-27").mkdir(parents=True)
    assert dataclasses.replace(works, root=str(tmp_path / "group" / "shoes")).score(DAY).published
    assert dataclasses.replace(works, root=str(tmp_path / "group" / "boots")).score(DAY).published


@pytest.mark.slow
def test_a_table_in_another_one_on_a_store_is_refused_by_few_requests(works, s3_folder, proxy):
    """The same on S3, at some requests for each folder of the address and none for what lies in them."""
    root = f"{s3_folder}/a/scores"
    dataclasses.replace(works, root=root).score(DAY)
    for below, is_inside in (("scores/b/shoes", True), ("shoes", False)):
        table, before = Table(f"{s3_folder}/a/{below}", DAY), len(proxy.requests)
        with pytest.raises(UserError, match="would lie in the table") if is_inside else nullcontext():
            score_place.check_table(table)
        assert len(proxy.requests) - before <= 20
    with pytest.raises(UserError, match="is no table of scores"):
        score_place.check_table(Table(f"{s3_folder}/a", DAY))


def test_a_place_where_nothing_can_be_made_is_refused(works, tmp_path):
    """A place such as /proc, where the kernel makes no folders, is the user's mistake, and told as that."""
    refused(dataclasses.replace(works, root="/proc/scores"), tmp_path, "no folder can be made in /proc. Choose another")


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EROFS, StorageError, "mounted for reading alone.*mount it for writing"),
        (errno.EACCES, UserError, "no right to write in .*Give the right to it"),
        (errno.ENOSPC, StorageError, "No space left"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(works, tmp_path, monkeypatch, number, kind, told):
    """A disk that takes nothing is the world's failure, a right that lacks the user's: each with what to do."""
    before = storage.list_files(str(tmp_path))
    monkeypatch.setattr(score_place.tempfile, "mkdtemp", mock.Mock(side_effect=OSError(number, os.strerror(number))))
    with pytest.raises(kind, match=told):
        works.score(DAY)
    assert storage.list_files(str(tmp_path)) == before


def test_nothing_to_do_needs_no_right_to_write(works, monkeypatch):
    """A date that is scored already is told so also where nothing can be written any more."""
    works.score(DAY)
    monkeypatch.setattr(score_place.tempfile, "mkdtemp", mock.Mock(side_effect=PermissionError))
    assert not works.score(DAY).published


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("scores/{date}", "one for all dates"),
        (f"{'x' * 251}", "has 256 bytes"),
        (f"{'x' * 256}/scores", "has 256 bytes"),
        (f"{'ä' * 126}", "has 257 bytes"),
    ],
)
def test_a_name_that_is_no_tables_is_refused(tmp_path, output, told):
    """A date in the output's address, and a name that the disk does not take, or not the log's, are refused."""
    text = f"input: {{kind: folder, uri: in}}\nmodel: models:/m/1\noutput: '{output}'\n"
    assert told in mistakes("score", written(tmp_path, text))["output"]


def test_a_path_that_a_disk_does_not_take_is_refused(works, tmp_path):
    """A path of fit names that is longer than the kernel takes is told as the user's mistake."""
    refused(dataclasses.replace(works, root="/" + "/".join(["x" * 200] * 30)), tmp_path, "File name too long")


def test_the_log_of_a_table_is_no_table(tmp_path):
    """A config whose output is another table's log is refused."""
    text = "input: {kind: folder, uri: in}\nmodel: models:/m/1\noutput: scores.meta/\n"
    assert "keeps its log" in mistakes("score", written(tmp_path, text))["output"]


def test_dates_of_a_table_have_the_same_columns(works, tmp_path):
    """A date in the other form of probabilities than the table's last one is refused; alone, it may change its form."""
    works.score(DAY + dt.timedelta(days=1))
    columns = dataclasses.replace(works, options={"probabilities": "columns"})
    refused(columns, tmp_path, "probabilities: columns is not what .* has of 2024-02-28")
    assert columns.score(DAY + dt.timedelta(days=1)).published


def keyed(works: Work, tmp_path: Path, day: dt.date, **keys: pa.Array) -> Work:
    """A table of two of a day's pictures with key columns."""
    uris = sorted(map(str, (tmp_path / "in" / str(day)).rglob("*.png")))[:2]
    pq.write_table(pa.table({"uri": uris, **keys}), tmp_path / f"{day}.parquet")
    given = {"columns": {"keys": list(keys)}}
    return dataclasses.replace(works, kind="manifest", uri=str(tmp_path / "{date}.parquet"), given=given)


NEXT = DAY + dt.timedelta(days=1)
TEXT = pa.array(["x", "y"])
NUMBERS = pa.array([1, 2])


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"shop": TEXT}, {"shop": NUMBERS}, "'shop' is int64, and .* has it as string of 2024-02-28: .*Cast it to str"),
        (
            {"shop": NUMBERS},
            {"shop": TEXT},
            "'shop' is string, and .* has it as int64 of 2024-02-28: .*Cast it to int6",
        ),
        ({"shop": NUMBERS}, {"shop": NUMBERS.cast(pa.int32())}, "is int32, and"),
        (
            {"at": NUMBERS.cast(pa.timestamp("us"))},
            {"at": NUMBERS.cast(pa.timestamp("ms"))},
            r"is timestamp\[ms\], and",
        ),
        ({"shop": TEXT}, {"shop": pa.nulls(2)}, r"'shop' has no type \(Arrow's null\).*Cast it, such as to string"),
        ({"shop": NUMBERS}, {"shop": pa.nulls(2)}, "such as to int64"),
        ({"tags": pa.array([["x"], []])}, {"tags": pa.array([[], []])}, "'tags' has no type"),
        ({"shop": TEXT}, {"shop": TEXT, "size": NUMBERS}, "key columns shop, size, and .* has shop of 2024-02-28"),
        ({"shop": TEXT, "size": NUMBERS}, {"size": NUMBERS}, "key columns size, and .* has shop, size of 2024-02-28"),
        ({"shop": TEXT}, {}, "key columns none, and .* has shop of 2024-02-28"),
        ({}, {"shop": TEXT}, "key columns shop, and .* has none of 2024-02-28"),
    ],
)
def test_key_columns_of_other_types_or_names_are_refused(works, tmp_path, first, second, told):
    """A date whose key columns the table's newest other date has not, or with another type, is refused, and how."""
    keyed(works, tmp_path, NEXT, **first).score(NEXT)
    work = keyed(works, tmp_path, DAY, **second)
    refused(work, tmp_path, told)


def test_a_key_column_without_a_type_is_refused(works, tmp_path):
    """In the first date of a table too: those that have values could not be read after it."""
    refused(keyed(works, tmp_path, DAY, shop=pa.nulls(2)), tmp_path, "'shop' has no type.*Cast it, such as to string")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"shop": TEXT, "size": NUMBERS}, {"size": NUMBERS, "shop": TEXT}),
        ({"shop": TEXT}, {"shop": TEXT.cast(pa.large_string())}),
        ({"size": NUMBERS}, {"size": NUMBERS.dictionary_encode()}),
        ({"tags": pa.array([[1], []])}, {"tags": pa.array([[2], []], pa.list_(pa.field("element", pa.int64())))}),
        ({"shop": TEXT.cast(pa.string_view())}, {"shop": TEXT}),
        ({"tags": pa.array([[b"x"], []])}, {"tags": pa.array([[b"y"], []], pa.large_list(pa.large_binary()))}),
        ({"box": pa.array([{"a": "x"}] * 2)}, {"box": pa.array([{"a": "y"}] * 2, pa.struct({"a": pa.large_string()}))}),
    ],
)
def test_key_columns_that_readers_take_for_the_same_are_scored(works, tmp_path, first, second):
    """Another order, and forms that Parquet does not have, are no other columns: every reader reads both dates."""
    keyed(works, tmp_path, NEXT, **first).score(NEXT)
    keyed(works, tmp_path, DAY, **second).score(DAY)
    root = tmp_path / "scores"
    names = sorted(first)
    expected = sorted(
        map(str, [*pa.table(first).select(names).to_pylist(), *pa.table(second).select(names).to_pylist()])
    )
    assert sorted(map(str, dataset(root, partitioning="hive").to_table(columns=names).to_pylist())) == expected
    query = f"SELECT {', '.join(names)} FROM read_parquet('{root}/**', hive_partitioning = true)"
    assert sorted(map(str, duckdb.sql(query).fetch_arrow_table().to_pylist())) == expected
    assert sorted(map(str, pl.read_parquet(root).select(names).to_dicts())) == expected


def test_dates_from_before_key_columns_were_recorded_are_not_compared(works, tmp_path):
    """A date of a table whose other date does not say which types its key columns have is scored."""
    keyed(works, tmp_path, NEXT, shop=TEXT).score(NEXT)
    log = Table(works.root, NEXT).log(1)
    document = storage.read_json(log)
    assert document.pop("keys") == {"shop": "string"}
    storage.write_json(log, document)
    assert keyed(works, tmp_path, DAY, shop=NUMBERS).score(DAY).published


def test_a_whole_bucket_is_no_table(tmp_path):
    """Beside a bucket lies no log: an output on S3 is a folder in one."""
    for output in ("s3://lake", "s3://lake/", "s3://lake?region=eu-1"):
        text = f"input: {{kind: folder, uri: in}}\nmodel: models:/m/1\noutput: {output}\n"
        assert "is a whole bucket" in mistakes("score", written(tmp_path, text))["output"]
    text = "input: {kind: folder, uri: in}\nmodel: models:/m/1\noutput: s3://lake/scores?region=eu-1\n"
    assert load("score", written(tmp_path, text)).output == "s3://lake/scores?region=eu-1"


def test_a_split_without_rows_is_refused(digits, bundle_folder, tmp_path):
    """A split of a prepared data set that has no row is refused as an empty folder is."""
    empty = shutil.copytree(digits.path, tmp_path / "set")
    none = digits.manifest.splits["test"].model_copy(update={"rows": 0, "shards": ()})
    changed = digits.manifest.model_copy(update={"splits": {**digits.manifest.splits, "test": none}})
    (empty / "manifest.json").write_text(changed.model_dump_json())
    with pytest.raises(DatasetError, match="no rows in its split test"):
        Work(str(bundle_folder), "dataset", str(empty), str(tmp_path / "scores")).score(DAY)


def test_a_version_that_comes_while_one_looks_is_no_strangers(works):
    """What another job publishes between the look at the log and that at the folder refuses nothing."""
    works.score(DAY)
    score_place.check_unclaimed(Table(works.root, DAY))
