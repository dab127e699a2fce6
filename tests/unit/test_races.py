"""Several jobs publish the same date: exactly one does, whatever the order of their steps, on local disks and on S3."""

import random
from collections.abc import Sequence
from functools import partial

import pytest

from cnnjob import storage
from cnnjob.errors import DatasetError, JobError
from cnnjob.scoring.commit import recover
from cnnjob.scoring.reading import read_scores
from cnnjob.scoring.table import ScoresManifest, Table, current, numbers
from cnnjob.scoring.work import part_uri
from tests.races import Publisher, Scored, all_schedules, follow, jitter, race, stops
from tests.unit.night import DATE, Night

DECISIVE = ("commit", "committed", "rolled forward", "stagings removed")
PHASES = ("quarantine", "commit", "committed", "copy", "remove", "rolled forward", "clean up", "stagings removed")
ROWS = 175


@pytest.fixture(scope="module")
def scored(digits, bundle, tmp_path_factory) -> list[Scored]:
    """Four plans for one date, each done: units of another size are another plan."""
    found = []
    for number, target_rows in enumerate((ROWS, 100, 90, 88)):
        night = Night(digits, bundle, tmp_path_factory.mktemp("scored") / str(number))
        plan = night.plan(target_rows)
        receipts = night.score(plan)
        parts = {unit.name: storage.read_bytes(part_uri(night.staging(plan), unit.name)) for unit in plan.units}
        found.append(Scored(plan, receipts, night.model, parts))
    return found


def staged(root: str, works: list[Scored]) -> Table:
    """A date for which all that is to be published is there."""
    table = Table(root, DATE)
    for work in works:
        work.stage(table)
    return table


def check_whole(table: Table) -> None:
    """A reader gets all rows of what is published; on a local disk, who lists the folder gets one version too."""
    try:
        assert len(read_scores(table.root, DATE)) == ROWS
    except DatasetError:
        assert current(table) is None
    if storage.is_local(table.root):
        listed = {name.rpartition("-part")[0] or name[11:] for name in storage.list_files(table.partition)}
        assert len(listed) <= 1


def check_end(table: Table, won: ScoresManifest) -> None:
    """What won is published, and a further run leaves nothing beside it that belongs to another."""
    assert current(table) == won
    assert set(storage.list_files(table.partition)) == won.file_names
    recover(table)
    check_whole(table)
    assert set(storage.list_files(table.partition)) == won.file_names
    names = storage.list_files(table.meta)
    assert not [name for name in names if name.startswith("staging/")]
    beside = [name for name in names if name.startswith(("quarantine/", "receipts/"))]
    assert len(beside) == 2 * len(numbers(table))


def two_publish(
    root: str, scored: list[Scored], schedule: Sequence[int], phases: Sequence[str] = PHASES
) -> list[tuple[int, int]]:
    """Two jobs that began from the same state, in the order of a schedule."""
    table = staged(root, scored[:2])
    publishers = [Publisher(lambda work=work: work.publish(table)) for work in scored[:2]]
    with stops(phases):
        taken = follow(publishers, schedule, lambda: check_whole(table))
    winners = [publisher.won for publisher in publishers if publisher.won]
    (error,) = [publisher.error for publisher in publishers if publisher.error]
    (won,) = winners
    assert isinstance(error, JobError)
    assert won.version in str(error)
    check_end(table, won)
    return taken


@pytest.mark.parametrize("phases", [DECISIVE, pytest.param(PHASES, marks=pytest.mark.chaos)], ids=["decisive", "all"])
def test_every_order_of_two_publishers(scored, tmp_path, phases):
    """In every order of the steps of two publishers one wins, the other says who, and readers see whole versions."""
    roots = (str(tmp_path / f"{number}" / "scores") for number in range(100_000))
    count = all_schedules(lambda schedule: two_publish(next(roots), scored, schedule, phases))
    # Who loses takes two or three steps before it knows, among those of who wins; either may be the one.
    assert count >= {DECISIVE: 30, PHASES: 70}[phases]


@pytest.mark.slow
def test_some_orders_of_two_publishers_on_s3(scored, s3_folder):
    """In random orders of their steps, on an object store too."""
    for seed in range(4):
        draw = random.Random(seed)
        two_publish(storage.join(s3_folder, str(seed), "scores"), scored, [draw.randrange(2) for _ in range(4)])


@pytest.mark.chaos
def test_every_order_of_two_publishers_on_s3(scored, s3_folder):
    """In every order of their steps, on an object store too."""
    roots = (storage.join(s3_folder, str(number), "scores") for number in range(100_000))
    assert all_schedules(lambda schedule: two_publish(next(roots), scored, schedule)) >= 2 * 36


def replace_while_rolling(root: str, scored: list[Scored], seed: int) -> None:
    """One job publishes; the other begins at any instant, finds it done or not, and replaces it or loses."""
    table = staged(root, scored[:1])
    draw = random.Random(seed)

    def begin() -> ScoresManifest:
        base = recover(table)
        scored[1].stage(table, base)
        return scored[1].publish(table, base)

    first = Publisher(lambda: scored[0].publish(table))
    second = Publisher(begin)
    with stops(PHASES):
        follow([first, second], [draw.randrange(2) for _ in range(40)], lambda: check_whole(table))
    won = current(table)
    assert won in (first.won, second.won)
    assert all(isinstance(each.error, JobError) for each in (first, second) if each.error)
    recover(table)
    check_end(table, won)


def test_a_version_that_is_replaced_while_it_rolls_forward(scored, tmp_path):
    """A job that begins while another one ends leaves what the log says, whoever was faster."""
    for seed in range(20):
        replace_while_rolling(str(tmp_path / str(seed) / "scores"), scored, seed)


@pytest.mark.slow
def test_a_version_that_is_replaced_while_it_is_copied(scored, s3_folder):
    """The same on an object store, where a slow publisher may still copy what was replaced."""
    for seed in range(10):
        replace_while_rolling(storage.join(s3_folder, str(seed), "scores"), scored, seed)


def four_race(root: str, scored: list[Scored], seed: int) -> None:
    """Four jobs at once: one winner, and three that name it."""
    table = staged(root, scored)
    with jitter(seed, 0.02):
        outcomes = race([lambda work=work: work.publish(table) for work in scored])
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, ScoresManifest)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, JobError)]
    assert len(lost) == 3
    assert all(won.version in str(error) for error in lost)
    check_end(table, won)


def test_four_publishers_at_once(scored, tmp_path):
    """In 20 random races of four, on a local disk, each has one winner."""
    for seed in range(20):
        four_race(str(tmp_path / str(seed) / "scores"), scored, seed)


@pytest.mark.slow
@pytest.mark.parametrize("races", [4, pytest.param(20, marks=pytest.mark.chaos)])
def test_four_publishers_at_once_on_s3(scored, s3_folder, races):
    """In random races of four, on S3, each has one winner."""
    for seed in range(races):
        four_race(storage.join(s3_folder, str(seed), "scores"), scored, seed)


def test_the_same_job_twice_at_once(scored, tmp_path):
    """Two runs of the very same job share their staging folder: one publishes, and what it published stays whole."""
    for seed in range(10):
        table = staged(str(tmp_path / str(seed) / "scores"), scored[:1])
        with jitter(seed, 0.01):
            outcomes = race([partial(scored[0].publish, table)] * 2)
        (won,) = [outcome for outcome in outcomes if isinstance(outcome, ScoresManifest)]
        check_end(table, won)
