"""Whole jobs in processes of their own that want the same date: on disk and on S3, exactly one is published."""

import dataclasses
import threading
from collections.abc import Sequence

import pytest

from cnnjob import exclusive, storage
from cnnjob.scoring import commit
from cnnjob.scoring.table import Table, current, numbers
from tests import nights
from tests.instants import kill
from tests.nights import DATE, Work, begin_apart, content_of


def race(works: Sequence[Work]) -> list[int]:
    """Exit codes of jobs that begin together."""
    processes = [begin_apart(work) for work in works]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture
def works(digits, bundle, bundle_folder):
    """Four jobs for one date, each with another version of the model."""

    def four(root: str) -> list[Work]:
        one = Work(str(bundle_folder), "dataset", digits.path, root)
        return [dataclasses.replace(one, version=str(number)) for number in range(4)]

    return four


def check_race(codes: list[int], root: str, rows: int) -> None:
    """Those that were first for their base won; what is published is one whole version, and no number is doubled."""
    table = Table(root, DATE)
    found = content_of(root)
    assert set(codes) <= {0, 1}
    assert codes.count(0) == len(numbers(table)) >= 1
    assert set(found.column("model_version").to_pylist()) == {current(table).model["version"]}
    assert len(found) == rows
    assert set(storage.list_files(table.partition)) == current(table).file_names
    # Two that clean up at once may leave something; the next run does not.
    commit.recover(table)
    assert storage.list_files(table.stagings) == []


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.chaos)])
def test_four_jobs_race_on_a_disk(works, digits, tmp_path, times):
    """Of four jobs for one date, as many are published as there are versions in the log, each whole."""
    rows = digits.manifest.splits["test"].rows
    for number in range(times):
        root = str(tmp_path / str(number) / "scores")
        check_race(race(works(root)), root, rows)


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.chaos)])
def test_four_jobs_race_on_s3(works, digits, s3_folder, times):
    """The same on a real S3 server."""
    rows = digits.manifest.splits["test"].rows
    for number in range(times):
        root = f"{s3_folder}/{number}/scores"
        check_race(race(works(root)), root, rows)


@pytest.mark.slow
def test_a_file_has_one_creator_on_s3(s3_folder):
    """Of 15 races of four writers for one object, each has one winner, and the object is the winner's."""
    for number in range(15):
        uri = f"{s3_folder}/{number:03d}.json"
        won: list[bytes] = []
        contents = [f"writer {writer}".encode() for writer in range(4)]
        barrier = threading.Barrier(4)

        def write(content: bytes, uri: str = uri, barrier: threading.Barrier = barrier, won: list = won) -> None:
            barrier.wait()
            if exclusive.create(uri, content):
                won.append(content)

        threads = [threading.Thread(target=write, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [storage.read_bytes(uri)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "folder"])
def test_a_night_on_s3_that_is_killed(works, digits, tmp_path, s3_folder, kind):
    """On an object store the old version is read until the new one is committed; the next run ends as undisturbed."""
    pictures = nights.folder_of_pictures(tmp_path / "pictures", 30)
    rows = {"dataset": digits.manifest.splits["test"].rows, "folder": 27}[kind]
    uri = {"dataset": digits.path, "folder": str(pictures)}[kind]
    root = f"{s3_folder}/scores"
    old, new = (dataclasses.replace(work, kind=kind, uri=uri) for work in works(root)[:2])
    assert nights.score_apart(old) == 0
    phases = [("finished", {"unit": 0}), ("commit", {}), ("committed", {}), ("copy", {}), ("rolled forward", {})]
    for phase, where in phases:
        assert nights.killed(nights.score_apart(new, [kill(phase, tmp_path, **where)])), phase
        found = content_of(root)
        assert len(found) == rows
        versions = {"0"} if phase in ("finished", "commit") else {"1"}
        assert set(found.column("model_version").to_pylist()) == versions, phase
    assert nights.score_apart(new) == 0
    assert set(storage.list_files(new.table.partition)) == current(new.table).file_names
    assert numbers(new.table) == [1, 2]
    assert not nights.score_here(new).published
