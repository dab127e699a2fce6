"""A night through Ray, in a process of its own with a Ray of its own: ``python -m tests.ray_nights WORK.json``.

It is ``cnnjob score`` without the registry. Tests kill the process, its raylet or its workers, and run it again.
"""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from cnnjob import phases
from tests.nights import DATE, Work

END_S = 120


def command(work: Work, folder: Path) -> list[str]:
    """The command that scores."""
    path = folder / "work.json"
    path.write_text(json.dumps(asdict(work), default=dt.datetime.isoformat))
    return [sys.executable, "-m", "tests.ray_nights", str(path)]


@contextmanager
def begun(work: Work, folder: Path, faults: list[dict[str, Any]] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The process, begun; killed in the end if it is still there."""
    environment = {**os.environ, phases.ENVIRONMENT: json.dumps(faults or [])}
    for name in [name for name in environment if name.startswith("RAY_")]:
        del environment[name]
    process = subprocess.Popen(
        command(work, folder), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def ended(work: Work, folder: Path, faults: list[dict[str, Any]] | None = None) -> tuple[int, dict[str, Any], str]:
    """Exit code, result and log of a whole run."""
    with begun(work, folder, faults) as process:
        out, err = process.communicate(timeout=END_S)
        return process.returncode, json.loads(out) if out else {}, err


def wait_for(mark: str, process: subprocess.Popen[str]) -> None:
    """Wait until the instant is reached."""
    deadline = time.monotonic() + END_S
    while not Path(mark).exists():
        assert process.poll() is None, f"ended before its time:\n{process.communicate()[1][-3000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def raylet_of(process: subprocess.Popen[str]) -> int:
    """The raylet that the process has started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                if name == "raylet" and int(rest.split()[1]) == process.pid:
                    return int(entry.name)
    raise AssertionError("it has no raylet")


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Score as the file says."""
    from cnnjob.models.bundle import read_bundle
    from cnnjob.tracking.registry import Resolved
    from pipelines import score
    from pipelines.command import run_command

    told = json.loads(Path(sys.argv[1]).read_text())
    work = Work(**{**told, "clock": dt.datetime.fromisoformat(told["clock"])})
    resolved = Resolved("digits", work.version, read_bundle(Path(work.bundle), expected_digest=None, where="model"))
    with mock.patch.object(score, "now", return_value=work.clock):
        run_command(lambda console: score.score_date(work.config, DATE, resolved, console), as_json=True, debug=False)


if __name__ == "__main__":
    main()
