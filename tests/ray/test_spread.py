"""Functions over items, spread over processes by Ray Data: how many run at once, and that each item is done once."""

import time
from collections import Counter
from itertools import pairwise

import pytest

from cnnjob.data.spread import spread, tasks_in_hand
from tests.shared import NUM_CPUS

pytestmark = pytest.mark.ray


def timed(item: int) -> tuple[int, float, float]:
    """When an item was begun and done."""
    began = time.time()
    time.sleep(0.01)
    return item, began, time.time()


def test_one_process_does_one_item_at_a_time(shared_ray):
    """A user's bound on processes holds: with one of them no two items overlap."""
    found = sorted(spread(timed, range(12), processes=1), key=lambda each: each[1])
    assert all(before[2] <= after[1] for before, after in pairwise(found))


@pytest.mark.parametrize("processes", [None, 1, 2, NUM_CPUS])
def test_every_item_is_done_once(shared_ray, processes):
    """Whatever waits at the workers, each item has one result."""
    assert Counter(item for item, _, _ in spread(timed, range(20), processes=processes)) == Counter(range(20))


def test_tasks_wait_only_where_no_bound_is_stated(shared_ray):
    """A second task waits for each process; a stated number of processes is never passed, whatever the cluster has."""
    assert tasks_in_hand(None, 1) == 2 * NUM_CPUS
    assert tasks_in_hand(NUM_CPUS, 1) == NUM_CPUS
