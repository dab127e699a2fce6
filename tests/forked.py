"""Processes that begin with what the tests' own work needs, imported already: forked from one server, in an instant.

There is one such server in a process, and what it imports is decided before it begins: so it is decided here, for all.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.workers", "tests.nights"])


@contextmanager
def apart(function: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Any]]:
    """A process that calls a function of a module, and what it says: the function's last argument sends it.

    It is killed in the end, if it is still there.
    """
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=function, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        with ours:
            yield process, ours
    finally:
        process.kill()
        process.join()
