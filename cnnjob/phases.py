"""Named instants of the work, at which a test can kill or stop the process that gets there.

The product calls ``reached`` where being ended would hurt most. It does nothing, unless ``CNNJOB_FAULTS`` has faults: a
JSON list of ``{"phase": ..., "signal": "SIGKILL", "mark": FILE, "where": {...}}``. A fault happens once: its mark is
made just before, and a fault whose mark is there is over. By the mark a test knows that the instant was reached.
"""

import json
import os
import signal
from pathlib import Path

ENVIRONMENT = "CNNJOB_FAULTS"


def reached(phase: str, **where: int | str) -> None:
    """Say that the work is at ``phase``; ``where`` tells apart the times it gets there, such as ``rank=1, step=3``."""
    if ENVIRONMENT not in os.environ:
        return
    for fault in json.loads(os.environ[ENVIRONMENT]):
        if fault["phase"] == phase and fault.get("where", {}).items() <= where.items():
            _strike(Path(fault["mark"]), signal.Signals[fault["signal"]])


def _strike(mark: Path, blow: signal.Signals) -> None:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), blow)
