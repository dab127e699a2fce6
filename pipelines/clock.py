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
        self._units: list[tuple[float, float, int]] = []

    def unit(self, rows: int, began: float, ended: float) -> None:
        """So many rows more are done; when, in seconds of the clock of the process that did them.

        When the driver heard of it does not tell: several come at once, and 60,000 rows seemed to take 8 ms.
        """
        self.rows += rows
        self._units.append((began, ended, rows))

    def stage(self, name: str) -> None:
        """A stage has ended."""
        self.stages[name], self._at = time.perf_counter() - self._at, time.perf_counter()

    @property
    def steady(self) -> float:
        """Rows a second from when as many units as processes were done to the last one; 0 where there are no more.

        The rows of a unit that was begun before count for the share of its time that is left.
        """
        ends = sorted(ended for _, ended, _ in self._units)
        if len(ends) <= self.processes or ends[-1] <= ends[self.processes - 1]:
            return 0.0
        start = ends[self.processes - 1]
        shares = (
            rows * (ended - max(began, start)) / (ended - began) for began, ended, rows in self._units if ended > start
        )
        return sum(shares) / (ends[-1] - start)


def process_began() -> float:
    """Seconds since the epoch, to 10 ms, from proc(5) and proc_stat(5); where there is no /proc, now."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    # Field 22, counted from the third on: clock ticks from the machine's start to the process's.
    return time.time() - up + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
