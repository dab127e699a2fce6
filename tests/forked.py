"""Processes that begin with what the tests' own work needs, imported already: forked from one server, in an instant.

There is one such server in a process, and what it imports is decided before it begins: so it is decided here, for all.
"""

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.workers", "tests.nights"])
