"""Time as a person who waits for a command counts it: from the start of its process, and stage by stage."""

import os
import time
from pathlib import Path


class Pace:
    """How fast a job goes.

    Attributes:
        rows: Done so far.
        processes: How many work at once.
        stages: Seconds of each stage that has ended; the first began with this object.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.stages: dict[str, float] = {}
        self._at = time.perf_counter()
        self.processes = 1
        self._units: list[tuple[float, int]] = []

    def unit(self, rows: int) -> None:
        """So many rows more are done."""
        self.rows += rows
        self._units.append((time.perf_counter(), rows))

    def stage(self, name: str) -> None:
        """A stage has ended."""
        self.stages[name], self._at = time.perf_counter() - self._at, time.perf_counter()

    @property
    def steady(self) -> float:
        """Rows a second from when each process had its first unit done to the last unit; 0 where there is no more."""
        if len(self._units) <= self.processes:
            return 0.0
        after = self._units[self.processes :]
        return sum(rows for _, rows in after) / (after[-1][0] - self._units[self.processes - 1][0])


def process_began() -> float:
    """Seconds since the epoch, to 10 ms, from proc(5) and proc_stat(5); where there is no /proc, now."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    # Field 22, counted from the third on: clock ticks from the machine's start to the process's.
    return time.time() - up + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
