"""Which date is scored: midnight, time zones, summer time both ways, leap days, a clock that is set back."""

import dataclasses
import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjob import storage
from cnnjob.errors import DatasetError, IntegrityError, OvertakenError, RefusedRowsError, StorageError, UserError
from cnnjob.schema import DETAIL, ID, REASON, URI, refused_table
from cnnjob.scoring.dates import day_of, days, parse
from cnnjob.scoring.table import Table, current
from pipelines import score, score_checks
from pipelines.score import ScoreResult
from tests.nights import Quiet, Work, folder_of_pictures

BERLIN, CHATHAM, LORD_HOWE = "Europe/Berlin", "Pacific/Chatham", "Australia/Lord_Howe"


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("now", "timezone", "today"),
    [
        ("2024-02-28T23:59:59.999999", "UTC", "2024-02-28"),
        ("2024-02-29T00:00:00", "UTC", "2024-02-29"),
        ("2024-02-28T22:59:59", BERLIN, "2024-02-28"),
        ("2024-02-28T23:00:00", BERLIN, "2024-02-29"),
        ("2025-03-30T00:59:59", BERLIN, "2025-03-30"),  # the hour from 02:00 is left out
        ("2025-03-29T22:59:59", BERLIN, "2025-03-29"),
        ("2025-03-30T21:59:59", BERLIN, "2025-03-30"),  # the day has 23 hours
        ("2025-03-30T22:00:00", BERLIN, "2025-03-31"),
        ("2025-10-26T00:30:00", BERLIN, "2025-10-26"),  # 02:30 comes twice
        ("2025-10-26T01:30:00", BERLIN, "2025-10-26"),
        ("2025-10-26T22:59:59", BERLIN, "2025-10-26"),  # the day has 25 hours
        ("2025-10-26T23:00:00", BERLIN, "2025-10-27"),
        ("2026-01-01T10:14:59", CHATHAM, "2026-01-01"),  # 13:45 ahead in summer
        ("2026-01-01T10:15:00", CHATHAM, "2026-01-02"),
        ("2026-04-04T12:59:59", LORD_HOWE, "2026-04-04"),  # summer time of half an hour
        ("2026-04-04T13:00:00", LORD_HOWE, "2026-04-05"),
    ],
)
def test_today_is_the_day_of_the_time_zone(now, timezone, today):
    """Today and yesterday are of the calendar in the time zone, to the microsecond, also where clocks change."""
    day = dt.date.fromisoformat(today)
    assert day_of("today", utc(now), timezone) == day
    assert day_of("yesterday", utc(now), timezone) == day - dt.timedelta(days=1)


@given(st.dates(dt.date(1990, 1, 1), dt.date(2037, 1, 1)), st.sampled_from([BERLIN, CHATHAM, LORD_HOWE]))
def test_every_day_follows_the_one_before(date, timezone):
    """A night that begins at local midnight scores the day that has ended, in any zone and season."""
    midnight = dt.datetime.combine(date, dt.time(), ZoneInfo(timezone))
    assert day_of("yesterday", midnight, timezone) == date - dt.timedelta(days=1)
    assert day_of("today", midnight, timezone) == date


def test_a_date_is_a_date():
    """A given date stays, whatever the clock says; what is none, or is missing, is a mistake that says what to give."""
    day = dt.date(2024, 2, 29)
    assert day_of(day, utc("2030-01-01"), BERLIN) == day_of("2024-02-29", utc("2030-01-01"), BERLIN) == day
    for wrong in ("2025-02-29", "2024-2-29", "20240229", "2024-W09-4", "tomorrow", ""):
        with pytest.raises(UserError, match="YYYY-MM-DD"):
            parse(wrong, "--date")
    with pytest.raises(UserError, match="--date YYYY-MM-DD"):
        day_of(None, utc("2030-01-01"), BERLIN)


def test_a_range_has_every_day_once():
    """A range goes over leap days and the ends of years, in order; backwards it is a mistake."""
    assert [day.isoformat() for day in days(dt.date(2024, 2, 28), dt.date(2024, 3, 1))] == [
        "2024-02-28",
        "2024-02-29",
        "2024-03-01",
    ]
    assert len(list(days(dt.date(2023, 12, 1), dt.date(2025, 1, 1)))) == 398
    with pytest.raises(UserError, match="before --from"):
        list(days(dt.date(2024, 3, 1), dt.date(2024, 2, 28)))


@pytest.fixture
def works(bundle_folder, tmp_path):
    """A folder of pictures for each of some days, of which the third has none yet."""
    for day in ("2024-02-27", "2024-02-28", "2024-03-01"):
        folder_of_pictures(tmp_path / "in" / day, 12)
    return Work(str(bundle_folder), "folder", str(tmp_path / "in" / "{date}"), str(tmp_path / "scores"))


@pytest.fixture
def scored(monkeypatch, works):
    """Days that a range scores, without a registry and without Ray."""
    asked: list[dt.date] = []
    monkeypatch.setattr(score, "resolve", lambda *_: object())
    monkeypatch.setattr(score, "connect", lambda *_: object())

    def one(config, date, _resolved, _console) -> ScoreResult:
        asked.append(date)
        return works.score(date)

    monkeypatch.setattr(score, "score_date", one)
    return asked


def test_a_range_scores_what_is_missing_in_order(works, scored, tmp_path):
    """A range scores the days without scores, oldest first; one without input is told, and scored once it has some."""
    works.score(dt.date(2024, 2, 28))
    first = score.run_range(works.config, "2024-02-27", "2024-03-01", Quiet())
    assert scored == [dt.date(2024, 2, 27), dt.date(2024, 2, 29), dt.date(2024, 3, 1)]
    assert [each.date for each in first.dates] == ["2024-02-27", "2024-03-01"]
    assert list(first.failed) == ["2024-02-29"]
    assert "2024-02-29 does not exist" in first.failed["2024-02-29"]
    folder_of_pictures(tmp_path / "in" / "2024-02-29", 12)
    result = score.run_range(works.config, "2024-02-27", "2024-03-01", Quiet())
    assert [each.date for each in result.dates] == ["2024-02-29"]
    assert score.run_range(works.config, "2024-02-27", "2024-03-01", Quiet()).dates == []


def _foreign(table: Table) -> None:
    Path(table.partition).mkdir(parents=True)
    (Path(table.partition) / "other.parquet").touch()


def _link(table: Table) -> None:
    Path(table.root, "elsewhere").mkdir()
    Path(table.partition).symlink_to(Path(table.root, "elsewhere"))


def _file(table: Table) -> None:
    Path(table.meta).touch()


def _manifest(content: str) -> Callable[[Table], None]:
    def write(table: Table) -> None:
        Path(table.log(1)).parent.mkdir(parents=True)
        Path(table.log(1)).write_text(content)

    return write


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        pytest.param(_foreign, "has 'other.parquet', and no job has published", id="foreign file"),
        pytest.param(_link, "is a link", id="link"),
        pytest.param(_file, "a file lies where a folder has to be|Not a directory", id="file"),
        pytest.param(_manifest("{"), "is damaged", id="damaged log"),
        pytest.param(_manifest('{"format_version": 1}'), "has format version 1", id="other version"),
    ],
)
def test_what_is_wrong_with_one_date_passes_it_over(works, scored, harm, told):
    """A date whose own folder or log is not as it has to be is told at the end; the dates after it are scored."""
    works.score(dt.date(2024, 3, 1))
    harm(Table(works.root, dt.date(2024, 2, 27)))
    result = score.run_range(works.config, "2024-02-27", "2024-02-28", Quiet())
    assert [each.date for each in result.dates] == ["2024-02-28"]
    assert re.search(told, result.failed.pop("2024-02-27"))
    assert not result.failed


@pytest.mark.parametrize("error", [IntegrityError("written to"), RefusedRowsError("30 of 30"), OvertakenError("won")])
def test_what_becomes_of_one_date_in_the_work_passes_it_over(works, scored, monkeypatch, error):
    """Rows that are refused, an input that changes meanwhile, or another job at the date are no failure of the next."""
    work = mock.Mock(side_effect=[error, KeyboardInterrupt])
    monkeypatch.setattr(score, "_work", work)
    with pytest.raises(KeyboardInterrupt):
        score.run_range(works.config, "2024-02-27", "2024-02-28", Quiet())
    assert work.call_count == 2


def test_a_table_that_is_none_ends_a_range(works, scored, tmp_path):
    """A root with files of others is the same for every date: the first one is the last."""
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "notes.txt").touch()
    with pytest.raises(UserError, match="is no table of scores"):
        score.run_range(works.config, "2024-02-27", "2024-02-28", Quiet())
    assert len(scored) == 1


@pytest.mark.parametrize("error", [StorageError("the store is away"), DatasetError("there is no input")])
def test_what_the_next_date_would_meet_too_ends_a_range(works, monkeypatch, scored, error):
    """A store that fails ends a range at once, and so does an input that is the same for every date."""
    once = dataclasses.replace(works, uri=works.uri.replace("{date}", "2024-02-27"))
    fails = mock.Mock(side_effect=error)
    monkeypatch.setattr(score, "score_date", fails)
    with pytest.raises(type(error)):
        score.run_range(once.config, "2024-02-27", "2024-03-01", Quiet())
    assert fails.call_count == 1


@pytest.mark.slow
def test_a_date_without_a_folder_on_a_store_is_passed_over(works, scored, s3_folder, tmp_path, monkeypatch):
    """On S3, too, a date without input is told at the end, and those after it are scored."""
    for path in (tmp_path / "in" / "2024-02-28").rglob("*.png"):
        storage.write_bytes(f"{s3_folder}/in/2024-02-28/{path.name}", path.read_bytes())
    there = dataclasses.replace(works, uri=f"{s3_folder}/in/{{date}}")
    monkeypatch.setattr(score, "score_date", lambda _, date, *__: there.score(date))
    result = score.run_range(there.config, "2024-02-27", "2024-02-28", Quiet())
    assert [each.date for each in result.dates] == ["2024-02-28"]
    assert "does not exist" in result.failed["2024-02-27"]


def test_late_input_is_left_to_the_date_itself(works, scored, tmp_path):
    """Pictures that come after a day was scored do not make it missing; scoring that date takes them."""
    day = dt.date(2024, 2, 27)
    assert works.score(day).rows == 11
    folder_of_pictures(tmp_path / "in" / "2024-02-27" / "late", 5)
    assert score.run_range(works.config, "2024-02-27", "2024-02-28", Quiet()).dates[0].date == "2024-02-28"
    assert works.score(day).rows == 16


def test_a_clock_that_is_set_back_does_no_harm(works):
    """A version made when the clock says earlier than for the one before it replaces it all the same."""
    day = dt.date(2024, 2, 27)
    works.score(day)
    back = dataclasses.replace(works, version="2", clock=works.clock - dt.timedelta(days=400))
    assert back.score(day).published
    manifest = current(Table(works.root, day))
    assert (manifest.number, manifest.model["version"]) == (2, "2")
    assert not back.score(day).published


def test_the_clock_is_read_once(works, monkeypatch):
    """Midnight may pass while a job runs: its date is that of the instant it began."""
    instants = iter([utc("2024-02-28T23:59:59")])
    monkeypatch.setattr(score, "now", lambda: next(instants))
    monkeypatch.setattr(score, "resolve", lambda *_: object())
    monkeypatch.setattr(score, "connect", lambda *_: object())
    config = works.config.model_copy(update={"date": "today"})
    monkeypatch.setattr(score, "score_date", lambda _config, date, *_: date)
    assert score.run(config, Quiet()) == dt.date(2024, 2, 28)


@pytest.mark.parametrize(("mode", "published"), [("skip", False), ("replace", True), ("error", None)])
def test_modes_of_a_date_that_has_scores(works, mode, published):
    """A date with scores of another model is left, replaced, or an error that says which version is there."""
    day = dt.date(2024, 2, 27)
    works.score(day)
    first = current(Table(works.root, day))
    again = dataclasses.replace(works, version="2", options={"mode": mode})
    if published is None:
        with pytest.raises(score.JobError, match=rf"version {first.version} of model version 1, and mode is error"):
            again.score(day)
    else:
        assert again.score(day).published is published
    assert current(Table(works.root, day)).number == (2 if published else 1)


def test_a_disk_without_room_is_told_before_the_work(works, monkeypatch):
    """Where the table would not fit, the job says how much it takes and what there is, and has written nothing."""
    monkeypatch.setattr(score_checks.shutil, "disk_usage", lambda _: score_checks.shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(StorageError, match=r"12 rows take about .* MB free"):
        works.score(dt.date(2024, 2, 27))
    assert current(Table(works.root, dt.date(2024, 2, 27))) is None


def test_only_what_is_left_needs_room(works, monkeypatch):
    """A job that goes on asks for the room of the rows that are still to be scored."""
    day = dt.date(2024, 2, 27)
    monkeypatch.setattr(score, "check_refused", lambda *_: (_ for _ in ()).throw(StorageError("the disk is full.")))
    with pytest.raises(StorageError, match="the disk is full"):
        works.score(day)
    monkeypatch.undo()
    monkeypatch.setattr(score_checks.shutil, "disk_usage", lambda _: score_checks.shutil._ntuple_diskusage(100, 90, 10))
    assert works.score(day).rows == 11


def test_a_range_finishes_what_a_dead_run_committed(works, scored, monkeypatch):
    """A date whose job died between the commit and the parts is finished by a range that asks for it."""
    day = dt.date(2024, 2, 27)
    monkeypatch.setattr(score.commit, "reached", lambda name, **_: _die(name == "committed"))
    with pytest.raises(KeyboardInterrupt):
        works.score(day)
    monkeypatch.setattr(score.commit, "reached", lambda *_, **__: None)
    table = Table(works.root, day)
    assert not storage.list_files(table.partition)
    score.run_range(works.config, "2024-02-27", "2024-02-27", Quiet())
    assert set(storage.list_files(table.partition)) == current(table).file_names


def _die(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


def test_a_date_whose_parts_are_lost_is_scored_again(works, scored):
    """A date that somebody removed is missing to a range, and its new version has what the old one had."""
    day = dt.date(2024, 2, 27)
    works.score(day)
    table = Table(works.root, day)
    storage.remove(table.partition)
    assert [each.rows for each in score.run_range(works.config, "2024-02-27", "2024-02-27", Quiet()).dates] == [11]
    assert current(table).number == 2
    assert set(storage.list_files(table.partition)) == current(table).file_names


@pytest.mark.parametrize(("mode", "number"), [("replace", 2), ("skip", 1), ("error", 1)])
def test_files_that_can_be_read_now_are_scored(works, monkeypatch, mode, number):
    """A date is scored again where a file that was gone is back, though nothing in the listing tells."""
    day = dt.date(2024, 2, 27)
    works.score(day)
    monkeypatch.setattr(score, "is_mended", lambda *_: True)
    dataclasses.replace(works, options={"mode": mode}).score(day)
    assert current(Table(works.root, day)).number == number


@pytest.mark.parametrize(
    ("reason", "detail", "mended"),
    [
        ("gone", "{here} is not there", True),
        ("gone", "{none} is not there", False),
        ("unreadable", "{here}: permission denied", True),
        ("unreadable", "png: broken", False),
        ("truncated", "png: cut", False),
    ],
)
def test_only_what_was_out_of_reach_is_looked_at_again(works, tmp_path, reason, detail, mended):
    """A file that could not be opened counts where it can be now; one whose bytes were refused does not."""
    day = dt.date(2024, 2, 27)
    works.score(day)
    table, here, none = Table(works.root, day), tmp_path / "here.png", tmp_path / "none.png"
    here.touch()
    manifest = dataclasses.replace(current(table), refused={reason: 1})
    uri = str(none if "{none}" in detail else here)
    row = {ID: "a", URI: uri, REASON: reason, DETAIL: detail.format(here=here, none=none)}
    pq.write_table(refused_table([row]), table.beside("quarantine", manifest.number, manifest.version))
    assert score_checks.is_mended(table, manifest, 10) is mended
