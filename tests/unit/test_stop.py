"""Whose a run is: a later try asks the one before to stop, and that one says so at its end."""

from contextlib import ExitStack

import pytest

from cnnjob import storage
from cnnjob.errors import OvertakenError, StorageError
from cnnjob.training.stop import taken_up, watch


def test_the_try_before_is_asked_to_stop(tmp_path):
    """Whoever was at the run is asked, even one that has died; the new one is not, and nothing stays of it."""
    folder = str(tmp_path)
    with taken_up(folder, "dead"):
        pass
    with taken_up(folder, "new"), watch(folder, "dead") as asks_dead, watch(folder, "new") as asks_new:
        assert asks_dead()
        assert not asks_new()
    assert not [name for name in storage.list_files(folder) if name.startswith("stop")]


def overtaken(folder, error):
    """A try that another one overtakes, and that ends so."""
    with ExitStack() as later, taken_up(folder, "one"):
        later.enter_context(taken_up(folder, "two"))
        if error:
            raise error


@pytest.mark.parametrize("error", [None, StorageError("a checkpoint is gone"), FileNotFoundError("x")])
def test_one_that_is_overtaken_says_so(tmp_path, error):
    """However it ends, what counts is that another one has the run."""
    with pytest.raises(OvertakenError, match="nothing is lost"):
        overtaken(str(tmp_path), error)


def test_what_else_ends_it_is_told(tmp_path):
    """Where nobody else has the run, an error stays what it is."""
    with pytest.raises(StorageError, match="full"), taken_up(str(tmp_path), "one"):
        raise StorageError("the disk is full")
