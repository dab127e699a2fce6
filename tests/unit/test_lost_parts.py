"""Published parts that somebody removed or wrote over: never another's in their place, and the date is scored again."""

import dataclasses
import datetime as dt
from pathlib import Path
from unittest import mock

import pytest

from cnnjob import storage
from cnnjob.digests import sha256
from cnnjob.errors import IntegrityError, LostPartsError, UserError
from cnnjob.scoring import commit, rolling, work
from cnnjob.scoring.commit import publish, recover
from cnnjob.scoring.reading import read_scores
from cnnjob.scoring.table import ScoresManifest, current
from cnnjob.scoring.work import part_uri
from tests import nights
from tests.nights import DATE, Work
from tests.unit.night import MORNING, Night

LATER = MORNING + dt.timedelta(hours=1)


@pytest.fixture
def night_on_s3(digits, bundle, s3_folder) -> Night:
    return Night(digits, bundle, storage.join(s3_folder, "scores"))


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.slow)])
def night(request, digits, bundle, tmp_path) -> Night:
    """A date's scoring, into a table on a disk and on S3."""
    if request.param == "s3":
        return request.getfixturevalue("night_on_s3")
    return Night(digits, bundle, tmp_path / "scores")


def parts_of(night: Night) -> list[str]:
    """Where the parts are published."""
    return [storage.join(night.table.partition, part.name) for part in current(night.table).parts]


def stage_late(night: Night, manifest: ScoresManifest) -> None:
    """What a job of the same plan, which has lost and does not know it, stages under the winner's names."""
    other = dataclasses.replace(night)
    other.staging = lambda _: night.table.staging_of(manifest)
    other.score(night.plan(), scored_at=LATER)


def commit_and_die(night: Night) -> ScoresManifest:
    """A job that ends after its commit, before its parts are in place: what it committed."""

    def reached(name: str, **_: object) -> None:
        if name == "committed":
            raise KeyboardInterrupt

    with mock.patch.object(commit, "reached", reached), pytest.raises(KeyboardInterrupt):
        night.publish()
    return current(night.table)


def times(night: Night) -> set[dt.datetime]:
    return set(night.published().column("scored_at").to_pylist())


@pytest.mark.parametrize("damage", ["removed", "cut short", "written over"])
def test_a_part_that_is_not_what_was_published_is_told(night, damage):
    """A part that is gone or has another length is told each time, and the next version has all rows again."""
    manifest = night.publish()
    before, part = night.published(), parts_of(night)[1]
    content = storage.read_bytes(part)
    if damage == "removed":
        storage.remove(part)
    else:
        storage.write_bytes(part, content[:-20] if damage == "cut short" else b"nothing")
    for _ in range(2):
        with pytest.raises(LostPartsError, match=rf"{manifest.version}, are gone or were written over, such as part-"):
            recover(night.table)
    plan = night.plan()
    receipts = night.score(plan, scored_at=LATER)
    ledger = night.ledger(receipts)
    again = publish(night.table, plan, ledger, night.model, {"date": str(DATE)}, LATER, base=manifest)
    assert night.published().drop(["scored_at"]) == before.drop(["scored_at"])
    assert set(storage.list_files(night.table.partition)) == again.file_names


@pytest.mark.slow
def test_a_date_on_s3_whose_part_is_gone_is_scored_again(digits, bundle_folder, s3_folder):
    """The command publishes a new version where a part on S3 was removed, and has nothing to do after that."""
    work = Work(str(bundle_folder), "dataset", digits.path, f"{s3_folder}/scores")
    nights.score_here(work)
    storage.remove(storage.join(work.table.partition, min(current(work.table).file_names)))
    assert nights.score_here(work).published
    assert current(work.table).number == 2
    assert set(storage.list_files(work.table.partition)) == current(work.table).file_names
    assert not nights.score_here(work).published


def test_what_another_job_staged_late_is_not_taken_for_a_part(night):
    """Where a published part is gone, one that a job of the same plan staged late neither is read nor published."""
    manifest = night.publish()
    stage_late(night, manifest)
    storage.remove(parts_of(night)[0])
    with pytest.raises(LostPartsError, match=r"published parts are gone.*scores the date again"):
        night.published()
    with pytest.raises(LostPartsError):
        recover(night.table)


def test_a_published_part_is_preferred_to_a_staged_one(night):
    """A date that is rolled forward again keeps its own parts, whatever lies where they were staged."""
    manifest = night.publish()
    stage_late(night, manifest)
    storage.remove(storage.join(night.table.meta, "manifest.json"))
    other = parts_of(night)[0].replace(manifest.version[-8:], "0badc0de")
    storage.write_bytes(other, b"of another version")
    assert recover(night.table) == manifest
    assert times(night) == {MORNING}
    assert set(storage.list_files(night.table.partition)) == manifest.file_names


@pytest.mark.parametrize("staged", ["as it was", "late"])
def test_a_run_after_a_death_publishes_what_was_committed(night, staged):
    """Killed after the commit, the staged parts are published if they are those of the manifest, and no others."""
    manifest = commit_and_die(night)
    if staged == "late":
        stage_late(night, manifest)
        with pytest.raises(LostPartsError):
            recover(night.table)
        return
    assert times(night) == {MORNING}
    recover(night.table)
    assert set(storage.list_files(night.table.partition)) == manifest.file_names
    assert times(night) == {MORNING}


def test_who_publishes_does_not_read_its_parts_once_more(night, monkeypatch):
    """What has just been verified is linked or copied as it lies: publishing stays cheap for any number of units."""
    manifest = commit_and_die(night)
    hashed = mock.Mock(side_effect=sha256)
    for module in (rolling, work):
        monkeypatch.setattr(module, "sha256", hashed)
    rolling.roll_forward(night.table, manifest, is_verified=True)
    assert hashed.call_count == 0
    storage.remove(night.table.partition)
    recover(night.table)
    assert hashed.call_count == len(manifest.parts)


@pytest.mark.slow
def test_two_that_recover_one_version_do_not_tell_it_as_lost(night_on_s3, monkeypatch):
    """A part that another run has copied, after this one listed what is there, and whose staging is gone, is there."""
    manifest = night_on_s3.publish()
    monkeypatch.setattr(rolling, "_present", lambda _: {})
    assert recover(night_on_s3.table) == manifest
    assert len(night_on_s3.published()) == manifest.rows


def test_a_part_of_the_same_length_is_told_by_its_bytes(night):
    """A part that was written over at its length is not read: the error names it, and removing it mends the date."""
    manifest = night.publish()
    part = parts_of(night)[0]
    content = bytearray(storage.read_bytes(part))
    content[len(content) // 2] ^= 1
    storage.write_bytes(part, bytes(content))
    assert recover(night.table) == manifest
    with pytest.raises(IntegrityError, match=r"is not what was published.*Remove it; cnnjob score --date") as told:
        night.published()
    assert part in str(told.value)
    storage.remove(part)
    with pytest.raises(LostPartsError):
        recover(night.table)


def test_a_folder_in_the_place_of_a_part_is_a_lost_part(digits, bundle, tmp_path):
    """Whatever lies under a part's name and is no file of its length is no part of the version."""
    night = Night(digits, bundle, tmp_path / "scores")
    night.publish()
    part = Path(parts_of(night)[0])
    part.unlink()
    part.mkdir()
    with pytest.raises(LostPartsError):
        recover(night.table)


def test_a_receipt_that_says_another_length_is_not_believed(digits, bundle, tmp_path):
    """A receipt of another length than its part has is noticed: later, the length tells whether a part is whole."""
    night = Night(digits, bundle, tmp_path / "scores")
    plan = night.plan()
    receipts = night.score(plan)
    receipts[0] = dataclasses.replace(receipts[0], bytes=receipts[0].bytes + 1)
    with pytest.raises(IntegrityError, match=f"unit {receipts[0].number}"):
        night.verify(plan, receipts)
    assert not storage.exists(part_uri(night.staging(plan), receipts[0].unit))


@pytest.mark.parametrize("date", ["2024-02-29", dt.datetime(2024, 2, 29, 23, tzinfo=dt.UTC), None, 20240229])
def test_only_a_date_is_read(tmp_path, date):
    """Text, an instant and a number are told as what they are, with what a date looks like."""
    with pytest.raises(UserError, match=r"should be a datetime.date, such as datetime.date\(2026, 1, 31\)"):
        read_scores(str(tmp_path / "scores"), date)
