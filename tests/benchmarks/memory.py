"""A command, watched from outside: what it prints, and the most memory that it and all it started held at once."""

import json
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any


def watched(command: list[str], every_s: float | None = 2.0) -> tuple[dict[str, Any], float]:
    """Run a command to its end.

    Args:
        command: The last JSON object of its standard output is what it tells.
        every_s: How often to look at its memory; None: never.

    Returns:
        What it told, and the largest sum of private memory seen, in MB.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        over, peak = threading.Event(), [0.0]

        def look() -> None:
            while not over.wait(every_s):
                peak[0] = max(peak[0], sum(private_mb(pid) for pid in family(process.pid)))

        watcher = threading.Thread(target=look, daemon=True)
        if every_s is not None:
            watcher.start()
        output, _ = process.communicate()
        over.set()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()[-3000:]}")
    at = output.rfind("\n{") + 1 if not output.startswith("{") or "\n{" in output else 0
    told, _ = json.JSONDecoder().raw_decode(output[at:])
    return told, peak[0]


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, more = {root}, {root}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return sorted(found)


def private_mb(pid: int) -> float:
    """Memory of a process that is not shared with others or a file; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
