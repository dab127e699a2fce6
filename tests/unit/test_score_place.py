"""Where a table of scores may lie, and what is refused before the work: nothing is written, and nothing removed."""

import dataclasses
import datetime as dt
import shutil
from pathlib import Path
from unittest import mock

import pytest

from cnnjob import storage
from cnnjob.errors import DatasetError, UserError
from pipelines import score_place
from tests.configs import mistakes, written
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


def test_a_split_without_rows_is_refused(digits, bundle_folder, tmp_path):
    """A split of a prepared data set that has no row is refused as an empty folder is."""
    empty = shutil.copytree(digits.path, tmp_path / "set")
    none = digits.manifest.splits["test"].model_copy(update={"rows": 0, "shards": ()})
    changed = digits.manifest.model_copy(update={"splits": {**digits.manifest.splits, "test": none}})
    (empty / "manifest.json").write_text(changed.model_dump_json())
    with pytest.raises(DatasetError, match="no rows in its split test"):
        Work(str(bundle_folder), "dataset", str(empty), str(tmp_path / "scores")).score(DAY)
