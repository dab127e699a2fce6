"""Whose a run is: the last try that took it up; one before it leaves, and says so at its end."""

import threading

import pytest

from cnnjob.errors import OvertakenError
from cnnjob.training import stop
from cnnjob.training.stop import ask_to_stop, check_ours, forget, forget_all, is_taken, take_up, watch


def test_the_last_one_has_the_run(tmp_path):
    """A run that nobody, or only this try, has taken up is its own; one that a later try has is not."""
    folder = str(tmp_path)
    check_ours(folder, "one")
    take_up(folder, "one")
    check_ours(folder, "one")
    take_up(folder, "two")
    check_ours(folder, "two")
    with pytest.raises(OvertakenError, match="Nothing is lost"):
        check_ours(folder, "one")
    assert is_taken(folder, "one")
    assert not is_taken(folder, "two")


def test_the_workers_of_an_earlier_try_leave(tmp_path, monkeypatch):
    """Also of one whose command has died: they find the other's name by themselves, and the later one's stay."""
    monkeypatch.setattr(stop, "_POLL_S", 0.001)
    folder = str(tmp_path)
    take_up(folder, "one")
    with watch(folder, "one") as one:
        assert not one()
        take_up(folder, "two")
        wait_until(one)
    with watch(folder, "one") as begun_late, watch(folder, "two") as two:
        assert begun_late()
        assert not two()


def test_a_question_is_for_one_try(tmp_path):
    """Workers that are asked leave, those of another try do not, and a question can be taken back."""
    folder = str(tmp_path)
    ask_to_stop(folder, "one")
    with watch(folder, "one") as one, watch(folder, "two") as two:
        assert one()
        assert not two()
    forget(folder, "one")
    with watch(folder, "one") as one:
        assert not one()


def test_what_was_asked_of_the_dead_is_taken_back(tmp_path):
    """Questions to commands that were killed lie there for ever otherwise; whose the run is stays known."""
    folder = str(tmp_path)
    take_up(folder, "three")
    for attempt in ("one", "two"):
        ask_to_stop(folder, attempt)
    forget_all(folder)
    assert [path.name for path in tmp_path.iterdir()] == [stop.OWNER]
    check_ours(folder, "three")


def wait_until(holds):
    """For a second, at most."""
    for _ in range(1000):
        if holds():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not leave")
