"""Asking a run to stop: a small file in the run's folder, which rank 0 looks for.

It reaches the workers wherever they are, since they share the run's folder, and it names the command's try at the
run, so that it never stops the next one.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cnnjob import storage
from cnnjob.errors import CnnjobError

_POLL_S = 0.3


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
