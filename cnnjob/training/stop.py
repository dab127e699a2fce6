"""Asking a run to stop, and whose a run is: two small files in the run's folder, which rank 0 looks for.

They reach the workers wherever they are, since they share the run's folder. A question names the command's try at the
run, so that it never stops the next one. The other file names the last try that has taken the run up: an earlier one
that still works, be it workers whose command has died or another command on an object store, where nothing tells
whether it has, leaves when it finds another's name.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cnnjob import storage
from cnnjob.errors import CnnjobError, OvertakenError

OWNER = "attempt"
_QUESTION = "stop-"
_POLL_S = 0.3
_POLLS_OF_OWNER = 3
"""One of so many looks is for another's name too."""


def take_up(run_folder: str, attempt: str) -> None:
    """From now on the run is that of ``attempt``."""
    storage.write_bytes(storage.join(run_folder, OWNER), attempt.encode())


def is_taken(run_folder: str, attempt: str) -> bool:
    """Whether another try has taken the run up since.

    Raises:
        StorageError: The store failed.
    """
    try:
        return storage.read_bytes(storage.join(run_folder, OWNER)) != attempt.encode()
    except FileNotFoundError:
        return False


def check_ours(run_folder: str, attempt: str) -> None:
    """The run is still that of ``attempt``.

    Raises:
        OvertakenError: Another try has taken it up.
        StorageError: The store failed.
    """
    if is_taken(run_folder, attempt):
        raise OvertakenError(
            f"another command has taken up the run in {run_folder}, and this one has left it. Nothing is lost: where "
            f"the other one does not finish the run, the same command goes on with it. Let one at a time train a run."
        )


def ask_to_stop(run_folder: str, attempt: str) -> None:
    """Ask the workers of ``attempt`` to keep what they have and leave."""
    storage.write_bytes(_uri(run_folder, attempt), b"")


def forget(run_folder: str, attempt: str) -> None:
    """Take the question back, now that the attempt is over."""
    storage.remove(_uri(run_folder, attempt))


def forget_all(run_folder: str) -> None:
    """Take back what was asked of any attempt: all before one that has taken the run up are over, or leave for that."""
    for path in storage.list_files(run_folder):
        if path.startswith(_QUESTION):
            storage.remove(storage.join(run_folder, path))


@contextmanager
def watch(run_folder: str, attempt: str) -> Iterator[Callable[[], bool]]:
    """Look, beside the work, whether this try is to leave. Yields a function that says so at once."""
    leave, over = threading.Event(), threading.Event()

    def look(number: int) -> bool:
        with suppress(CnnjobError, OSError):
            asked = storage.exists(_uri(run_folder, attempt))
            if asked or (number % _POLLS_OF_OWNER == 0 and is_taken(run_folder, attempt)):
                leave.set()
        return leave.is_set()

    def keep_looking() -> None:
        number = 1
        while not over.wait(_POLL_S) and not look(number):
            number += 1

    look(0)
    watcher = threading.Thread(target=keep_looking, name="stop", daemon=True)
    watcher.start()
    try:
        yield leave.is_set
    finally:
        over.set()
        watcher.join()


@contextmanager
def nobody_asks() -> Iterator[Callable[[], bool]]:
    """In the place of ``watch`` where another rank looks."""
    yield lambda: False


def _uri(run_folder: str, attempt: str) -> str:
    return storage.join(run_folder, _QUESTION + attempt)
