"""The journal of a run: one small file for each report, the first one for a key wins.

The worker of rank 0 writes it, as it writes the checkpoints, and Ray Train's controller what only it sees: that
workers failed. The driver follows it: for the live table, and for MLflow. Timestamps are taken once, here, so a metric
that is sent twice is the same metric to MLflow and leaves one point. Events (``event``) are told as they come; they are
not kept, and have no part in the result.
"""

import time
import uuid
from collections.abc import Iterator
from typing import Any

from cnnjob import conditional, storage

FOLDER = "journal"
EPOCH = "epoch"
TEST = "test"
KEPT = (EPOCH, TEST)
"""Kinds of entries that stay, whichever try has written them: all others are events."""
_EVENTS = "events"


def event(kind: str) -> dict[str, Any]:
    """The beginning of an entry that tells what happened to a run.

    Kinds: ``resumed``, ``stopped``, ``not_finite``, ``replaced`` (its data set was), ``failed``.
    """
    return {"key": f"{_EVENTS}/{time.time_ns()}-{uuid.uuid4().hex[:8]}", "kind": kind}


def append(run_folder: str, entry: dict[str, Any]) -> None:
    """Write an entry under its key, unless there is one.

    Those it carries of earlier epochs are written where they are missing: their process died before they were.
    """
    for earlier in entry.get("entries", ()):
        append(run_folder, {**earlier, "attempt": entry["attempt"]})
    uri = storage.join(run_folder, FOLDER, f"{entry['key']}.json")
    kept = {name: value for name, value in entry.items() if name != "entries"}
    document = {**kept, "timestamp_ms": int(time.time() * 1000)}
    if storage.is_s3(uri):
        # Another command may be at the run there: one time for a key, whoever reads it.
        conditional.replace(uri, storage.json_bytes(document), None)
    elif not storage.exists(uri):
        storage.write_json(uri, document)


def read(run_folder: str, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Entries that are not in ``seen`` yet, in order of their keys; their names are added once they are read."""
    folder = storage.join(run_folder, FOLDER)
    for name in storage.list_files(folder):
        if name.endswith(".json") and name not in seen:
            entry = storage.read_json(storage.join(folder, name))
            seen.add(name)
            yield entry


def clear_events(run_folder: str) -> None:
    """Remove what earlier tries told; their entries of epochs stay."""
    storage.remove(storage.join(run_folder, FOLDER, _EVENTS))
