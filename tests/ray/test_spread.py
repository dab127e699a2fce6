"""Functions over items, spread over processes by Ray Data or as plain tasks: how many run at once, each item once."""

import os
import signal
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from cnnjob.data.spread import spread
from cnnjob.data.tasks import as_tasks, tasks_in_hand
from cnnjob.errors import DatasetError, JobError
from tests.shared import NUM_CPUS

pytestmark = pytest.mark.ray


def timed(item: int) -> tuple[int, float, float]:
    """When an item was begun and done."""
    began = time.time()
    time.sleep(0.01)
    return item, began, time.time()


def tasks(function, items, **options):
    return as_tasks(function, items, name="test", at="item {}".format, **options)


def test_one_process_does_one_item_at_a_time(shared_ray):
    """A user's bound on processes holds: with one of them no two items overlap."""
    found = sorted(tasks(timed, range(12), processes=1), key=lambda each: each[1])
    assert all(before[2] <= after[1] for before, after in pairwise(found))


@pytest.mark.parametrize("processes", [None, 1, 2, NUM_CPUS])
def test_every_item_is_done_once(shared_ray, processes):
    """Whatever waits at the workers, each item has one result."""
    assert Counter(item for item, _, _ in tasks(timed, range(20), processes=processes)) == Counter(range(20))


@pytest.mark.parametrize("ordered", [False, True])
def test_every_item_is_spread_once(shared_ray, ordered):
    """Each item has one result, in the order of the items where that is asked for."""
    found = [item for item, _, _ in spread(timed, range(20), ordered=ordered)]
    assert found == list(range(20)) if ordered else Counter(found) == Counter(range(20))


@pytest.mark.parametrize("way", [spread, tasks])
def test_no_item_is_no_work(shared_ray, way):
    """Of nothing comes nothing."""
    assert list(way(timed, [])) == []


@pytest.mark.parametrize("way", [spread, tasks])
@pytest.mark.parametrize(
    ("raised", "found", "told"),
    [(DatasetError("row 7 is odd"), DatasetError, "^row 7 is odd$"), (KeyError("x"), JobError, "KeyError: 'x' .*line")],
)
def test_what_a_function_raises_is_told(shared_ray, way, raised, found, told):
    """Our own errors arrive as they are, others with their place; never as a text of Ray's."""

    def function(item):
        if item == 3:
            raise raised
        return item

    with pytest.raises(found, match=told):
        list(way(function, range(6)))


@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_an_item_may_kill_its_process_twice(shared_ray, tmp_path: Path, deaths: int):
    """A process that dies takes no result with it; the third time its item ends the job, by name."""

    def function(item):
        if item == 3 and len(before := list(tmp_path.iterdir())) < deaths:
            (tmp_path / str(len(before))).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    if deaths == 3:
        with pytest.raises(JobError, match=r"item 3 ended its process 3 times \(WorkerCrashedError: "):
            list(tasks(function, range(6)))
    else:
        assert sorted(tasks(function, range(6))) == list(range(6))
    assert len(list(tmp_path.iterdir())) == deaths


def test_a_second_try_may_be_another_function(shared_ray, tmp_path: Path):
    """An item whose process died is done by the function for such ones, which may find a part of it done."""

    def dies(item):
        os.kill(os.getpid(), signal.SIGKILL) if item == 3 else None
        return item

    assert sorted(tasks(dies, range(6), again=lambda item: 10 * item)) == [0, 1, 2, 4, 5, 30]


def test_what_no_process_can_read_is_told(shared_ray):
    """A function that a worker cannot load ends the job with what was raised there."""

    class Unreadable:
        def __reduce__(self):
            return int, ("no number",)

    with pytest.raises(JobError, match=r"a task died: .*no number.*Run the same command again"):
        list(tasks(partial(max, Unreadable()), range(3)))


def test_tasks_wait_only_where_no_bound_is_stated(shared_ray):
    """A second task waits for each process; a stated number of processes is never passed, whatever the cluster has."""
    assert tasks_in_hand(None, 1) == 2 * NUM_CPUS
    assert tasks_in_hand(NUM_CPUS, 1) == NUM_CPUS
