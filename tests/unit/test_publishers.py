"""Two jobs for one date: of every order of their steps, and of races on disk and on S3, exactly one is published."""

import dataclasses
import datetime as dt
import shutil
import threading
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pytest

from cnnjob import exclusive, storage
from cnnjob.errors import JobError
from cnnjob.scoring import commit
from cnnjob.scoring.reading import read_scores
from cnnjob.scoring.table import Table, current, numbers
from tests import nights
from tests.nights import Work, begin_apart, content_of
from tests.unit.night import DATE, MORNING, Night

STEPS = ("quarantine", "commit", "committed", "rolled forward", "clean up", "stagings removed")
WAIT_S = 30


class Turns:
    """Lets two threads reach the steps of their work in one given order; who is done gives its turns away."""

    def __init__(self, order: Sequence[str]) -> None:
        self._order = list(order)
        self._done: set[str] = set()
        self._changed = threading.Condition()

    def reached(self, phase: str, **_: object) -> None:
        """Wait for this thread's turn."""
        name = threading.current_thread().name
        if phase not in STEPS or name not in ("A", "B"):
            return
        with self._changed:
            assert self._changed.wait_for(lambda: self._next() in (name, None), WAIT_S), f"{name} at {phase}"
            if self._order:
                self._order.pop(0)
            self._changed.notify_all()

    def end(self) -> None:
        """This thread has no more steps."""
        with self._changed:
            self._done.add(threading.current_thread().name)
            self._changed.notify_all()

    def _next(self) -> str | None:
        while self._order and self._order[0] in self._done:
            self._order.pop(0)
        return self._order[0] if self._order else None


def orders(every: int) -> Iterator[tuple[str, ...]]:
    """Every ``every``-th order of the steps of A and B."""
    total = 2 * len(STEPS)
    for number, places in enumerate(combinations(range(total), len(STEPS))):
        if number % every == 0:
            yield tuple("A" if at in places else "B" for at in range(total))


@pytest.fixture(scope="module")
def scored(digits, bundle, tmp_path_factory):
    """Two plans for one date, scored and not published, over a version that both replace."""
    night = Night(digits, bundle, tmp_path_factory.mktemp("scored") / "scores")
    base = night.publish(target_rows=100)
    plans = {"A": night.plan(64), "B": night.plan(90)}
    works = {}
    for name, plan in plans.items():
        works[name] = (plan, night.score(plan, scored_at=MORNING + dt.timedelta(hours=1 + len(works))))
    return night, base, works


def publish_in(order: tuple[str, ...], scored, root: Path, monkeypatch) -> dict[str, object]:
    """What each of the two publications came to."""
    night, base, works = scored
    shutil.copytree(night.root.parent, root.parent, copy_function=lambda a, b: Path(b).hardlink_to(a))
    table, turns, came_to = Table(str(root), DATE), Turns(order), {}

    def run() -> None:
        name = threading.current_thread().name
        plan, receipts = works[name]
        try:
            came_to[name] = commit.publish(table, plan, receipts, night.model, {}, MORNING, base=base)
        except Exception as error:  # noqa: BLE001 - looked at below
            came_to[name] = error
        turns.end()

    with monkeypatch.context() as patch:
        for module in (commit, exclusive):
            patch.setattr(module, "reached", turns.reached)
        threads = [threading.Thread(target=run, name=name) for name in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return came_to


def check_one_won(came_to: dict[str, object], root: Path, rows: int, version: str) -> None:
    lost = [error for error in came_to.values() if isinstance(error, JobError)]
    (won,) = [manifest for manifest in came_to.values() if not isinstance(manifest, Exception)]
    assert len(lost) == 1, came_to
    assert won.version in str(lost[0])
    table = Table(str(root), DATE)
    assert current(table) == won
    assert won.replaced == version
    assert set(storage.list_files(table.partition)) == won.file_names
    assert len(read_scores(str(root), DATE)) == rows
    assert storage.list_files(table.stagings) == []
    for kind in commit.BESIDE:
        names = storage.list_files(storage.join(table.meta, kind))
        assert sorted(int(name[:12]) for name in names) == [1, 2], kind


@pytest.mark.parametrize("every", [60, pytest.param(1, marks=pytest.mark.chaos)])
def test_two_publishers_in_every_order(scored, tmp_path, monkeypatch, every):
    """In whichever order the steps of two publications come, one is published whole and the other is told which."""
    night, base, _ = scored
    for number, order in enumerate(orders(every)):
        root = tmp_path / str(number) / "scores"
        came_to = publish_in(order, scored, root, monkeypatch)
        check_one_won(came_to, root, len(night.rows.ids), base.version)
        shutil.rmtree(root.parent)


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
    """Of 60 races of four writers for one object, each has one winner, and the object is the winner's."""
    for number in range(60):
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
        assert nights.killed(nights.score_apart(new, [nights.kill(phase, tmp_path, **where)])), phase
        found = content_of(root)
        assert len(found) == rows
        versions = {"0"} if phase in ("finished", "commit") else {"1"}
        assert set(found.column("model_version").to_pylist()) == versions, phase
    assert nights.score_apart(new) == 0
    assert set(storage.list_files(new.table.partition)) == current(new.table).file_names
    assert numbers(new.table) == [1, 2]
    assert not nights.score_here(new).published
