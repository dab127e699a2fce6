"""Asking a run to stop: a small file in the run's folder, which rank 0 looks for.

It reaches the workers wherever they are, since they share the run's folder, and it names the command's try at the
run, so that it never stops the next one. That one asks whoever was at the run before: a try whose command has died may
have workers left, and on an object store nothing tells whether it has.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cnnjob import storage
from cnnjob.errors import CnnjobError, OvertakenError, StorageError

ATTEMPT = "attempt"
"""The file that says whose the run is."""
_POLL_S = 0.3


@contextmanager
def taken_up(run_folder: str, attempt: str) -> Iterator[None]:
    """From now on the run is that of ``attempt``; an earlier one that still works is asked to stop.

    Two that are at a run for a moment write the same bits.

    Raises:
        OvertakenError: At the end, where a later one has taken the run up meanwhile.
    """
    before = _owner(run_folder)
    if before is not None:
        ask_to_stop(run_folder, before)
    storage.write_bytes(storage.join(run_folder, ATTEMPT), attempt.encode())
    try:
        try:
            yield
        except Exception as error:
            # Files that one of the two has removed may be what the other failed for.
            _check_whose(run_folder, attempt, error)
            raise
        _check_whose(run_folder, attempt)
    finally:
        # What stays is small, and why the training ended counts.
        with suppress(CnnjobError, OSError):
            for each in (attempt, before):
                if each is not None:
                    forget(run_folder, each)


def _check_whose(run_folder: str, attempt: str, error: Exception | None = None) -> None:
    with suppress(StorageError, OSError):
        if _owner(run_folder) != attempt:
            raise OvertakenError(
                f"another command has taken up the run in {run_folder}, and goes on from where this one was. This one "
                f"has left; nothing is lost. Let one command at a time train a run."
            ) from error


def _owner(run_folder: str) -> str | None:
    try:
        return storage.read_bytes(storage.join(run_folder, ATTEMPT)).decode()
    except FileNotFoundError:
        return None


def ask_to_stop(run_folder: str, attempt: str) -> None:
    """Ask the workers of ``attempt`` to keep what they have and leave."""
    storage.write_bytes(_uri(run_folder, attempt), b"")


def forget(run_folder: str, attempt: str) -> None:
    """Take the question back, now that the attempt is over."""
    storage.remove(_uri(run_folder, attempt))


@contextmanager
def watch(run_folder: str, attempt: str) -> Iterator[Callable[[], bool]]:
    """Look for the question beside the work. Yields a function that says at once whether it is there."""
    asked, over = threading.Event(), threading.Event()

    def look() -> bool:
        with suppress(CnnjobError, OSError):
            if storage.exists(_uri(run_folder, attempt)):
                asked.set()
        return asked.is_set()

    def keep_looking() -> None:
        while not over.wait(_POLL_S) and not look():
            pass

    look()
    watcher = threading.Thread(target=keep_looking, name="stop", daemon=True)
    watcher.start()
    try:
        yield asked.is_set
    finally:
        over.set()
        watcher.join()


@contextmanager
def nobody_asks() -> Iterator[Callable[[], bool]]:
    """In the place of ``watch`` where another rank looks."""
    yield lambda: False


def _uri(run_folder: str, attempt: str) -> str:
    return storage.join(run_folder, f"stop-{attempt}")
