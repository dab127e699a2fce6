"""The pace of a job, from when its processes did what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.clock import Pace


def pace_of(processes: int, units: list[tuple[float, float, int]]) -> Pace:
    pace = Pace()
    pace.processes = processes
    for began, ended, rows in units:
        pace.unit(rows, began, ended)
    return pace


def test_units_of_one_speed_have_that_speed():
    """Two processes at 100 rows a second each: 200, though one began half a unit later."""
    first = [(at, at + 1.0, 100) for at in range(5)]
    second = [(at + 0.5, at + 1.5, 100) for at in range(4)] + [(4.5, 5.0, 50)]
    assert pace_of(2, first + second).steady == pytest.approx(200)


@given(st.lists(st.tuples(st.floats(0.1, 9), st.integers(1, 999)), min_size=2, max_size=20), st.randoms())
def test_the_order_in_which_they_are_heard_of_changes_nothing(units, random):
    """One process: its rows after the first unit over its time after that, whatever comes first."""
    done, at = [], 0.0
    for seconds, rows in units:
        done.append((at, at + seconds, rows))
        at += seconds
    expected = sum(rows for _, rows in units[1:]) / sum(seconds for seconds, _ in units[1:])
    random.shuffle(done)
    assert pace_of(1, done).steady == pytest.approx(expected)


def test_no_more_units_than_processes_have_no_steady_pace():
    """The first unit of a process has its start in it."""
    assert pace_of(2, [(0, 1, 10), (0, 2, 10)]).steady == 0
