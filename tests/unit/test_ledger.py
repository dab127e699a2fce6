"""What the driver keeps of units, and how it hands them out."""

import numpy as np
import pytest

from cnnjob.scoring.job import MAX_GROUP, grouped
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Unit
from cnnjob.scoring.work import Receipt


def receipt(number: int, refused: int = 0) -> Receipt:
    rows = [{"id": f"{number}-{row}", "uri": "x", "reason": "truncated", "detail": "d"} for row in range(refused)]
    pixels = [[number] * 256 for _ in range(3)]
    return Receipt(f"unit-{number}", number, 10, rows, "0" * 64, 99, [number, 10 - number], pixels, 0.5, 0.0)


def test_counts_are_summed_and_not_kept():
    """A ledger keeps no counts of a unit, however many there are, and has their sums."""
    ledger = Ledger(2, 3, [receipt(number) for number in (3, 1, 2)])
    assert ledger.counts.tolist() == [6, 24]
    assert np.array_equal(ledger.pixels, np.full((3, 256), 6))
    assert all(not (each.counts or each.pixels) for each in ledger.in_order())


def test_receipts_are_in_the_order_of_the_plan():
    """However they came in, receipts are in the order of the plan; a unit without one has none."""
    ledger = Ledger(2, 3, [receipt(2, refused=1), receipt(0, refused=2), receipt(1)])
    assert [each.number for each in ledger.in_order()] == [0, 1, 2]
    assert (ledger.rows, ledger.refused) == (30, {"truncated": 3})
    assert ledger.of("unit-7") is None


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 127, 128, 1000, 100_000])
@pytest.mark.parametrize("processes", [1, 2, 64])
def test_every_unit_is_handed_out_once(count, processes):
    """Tasks are the units in order; none holds more than an eighth of a process's share of what is left, or one."""
    units = [Unit(f"unit-{number}", number, 10) for number in range(count)]
    groups = list(grouped(units, lambda: processes))
    assert [unit for group in groups for unit in group] == units
    sizes = [len(group) for group in groups]
    left = count
    for size in sizes:
        assert size <= max(1, min(MAX_GROUP, left // (processes * 8)))
        left -= size


def test_very_many_units_are_few_tasks():
    """Handing out a task takes a millisecond: 100,000 units should take seconds, not minutes."""
    units = [Unit(f"unit-{number}", number, 10) for number in range(100_000)]
    assert len(list(grouped(units, lambda: 64))) < 4_000


def test_tasks_are_cut_for_the_processes_there_are():
    """On a cluster that grows from one process to many, what is left is cut smaller."""
    processes = iter([1, *[100] * 1000])
    sizes = [len(group) for group in grouped([Unit(f"unit-{n}", n, 10) for n in range(800)], lambda: next(processes))]
    assert sizes == [100, *[1] * 700]
