"""The journal of a run: one small file for each report of the workers, the first one for a key wins.

Ray Train's controller writes it (it sees every rank's metrics and outlives the workers), the driver follows it:
for the live table, and for MLflow. Timestamps are taken once, here, so a metric that is sent twice is the same
metric to MLflow and leaves one point.
"""

import time
from collections.abc import Iterator
from typing import Any

from ray.train import UserCallback

from cnnjob import storage

FOLDER = "journal"


class JournalCallback(UserCallback):  # type: ignore[misc]
    """Appends to the journal in the controller's process. It only appends: if it blocked, training would."""

    def __init__(self, run_folder: str) -> None:
        self._folder = storage.join(run_folder, FOLDER)

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Write rank 0's metrics, which are those of all ranks already, under their key."""
        del run_context, checkpoint
        entry = {**metrics[0], "timestamp_ms": int(time.time() * 1000)}
        uri = storage.join(self._folder, f"{entry['key']}.json")
        if not storage.exists(uri):
            storage.write_json(uri, entry)


def read_journal(run_folder: str, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Entries that are not in ``seen`` yet, in order of their keys; their names are added to it."""
    folder = storage.join(run_folder, FOLDER)
    for name in storage.list_files(folder):
        if name.endswith(".json") and name not in seen:
            seen.add(name)
            yield storage.read_json(storage.join(folder, name))
