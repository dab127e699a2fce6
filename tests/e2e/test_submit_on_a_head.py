"""Jobs on a head of this machine, as `cnnjob up` starts it: one that is no longer followed, and one that is stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cnnjob.cluster.head import _free_port
from tests.line import ROOT

pytestmark = pytest.mark.slow

WAIT_S = 120
LONGER_THAN_RAY_WAITS_S = 5
"""Ray kills a job 3 s after it was told to stop, unless it is told otherwise."""

JOB = f"""
import signal, sys, time
from pathlib import Path

def told(*_):
    time.sleep({LONGER_THAN_RAY_WAITS_S})
    Path("FOLDER", "in order").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, told)
Path("FOLDER", "begun").touch()
print("the job works", flush=True)
time.sleep(600)
"""
SUBMIT = """
import sys
from cnnjob.cluster import submit

def stage(folder, config):
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "__init__.py").touch()
    (folder / "pipelines" / "__main__.py").write_text(JOB)

submit._stage = stage
from pipelines.cli import main
main()
"""


class Head:
    """A head and the commands that are given to it.

    Attributes:
        folder: Where everything is written.
        address: Of its jobs API.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = [f"--set={key}={_free_port()}" for key in ("port", "dashboard_port")]
        self.address = self.run("up", "--set=num_cpus=1", *ports, f"--set=state={folder / 'state'}")["address"]

    def begin(self, *arguments: str, code: str = "from pipelines.cli import main; main()") -> subprocess.Popen[str]:
        """A command in a process of its own."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--json"],
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> Any:
        """The result of a command."""
        command = self.begin(*arguments)
        out, err = command.communicate(timeout=WAIT_S)
        assert command.returncode == 0, err
        return json.loads(out)

    def ask(self, command: str, *arguments: str) -> Any:
        """The result of a command about jobs."""
        return self.run(command, *arguments, *self.where)

    @property
    def where(self) -> tuple[str, ...]:
        """The options that lead to it."""
        return ("--address", self.address, "--state", str(self.folder / "state"))

    def follow(self) -> subprocess.Popen[str]:
        """Submit the job of this module and follow it."""
        conf = self.folder / "conf.yaml"
        conf.write_text("output: data\nsource: {kind: digits}\n")
        code = SUBMIT.replace("JOB", repr(JOB.replace("FOLDER", str(self.folder))))
        return self.begin("submit", "prepare", str(conf), "--follow", *self.where, code=code)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A head, ended after."""
    started = Head(tmp_path)
    yield started
    assert started.run("down", "--state", str(tmp_path / "state")) == {"stopped": True}


def wait_for(what: Callable[[], object]) -> None:
    """Wait until it is so."""
    until = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_job_outlives_who_follows_it_and_has_its_time_to_stop(head: Head) -> None:
    """Ctrl-C while a job is followed leaves it running, and says so; stopped, it has the time to end in order."""
    following = head.follow()
    wait_for(lambda: (head.folder / "begun").exists() or following.poll() is not None)
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=WAIT_S)
    assert following.returncode == json.loads(out)["exit_code"] == 130, err
    assert "Traceback" not in err
    [job_id] = re.findall(r"The job (\w+) was not stopped", err)
    assert f"cnnjob logs {job_id} --address {head.address}" in err
    assert f"cnnjob stop {job_id} --address {head.address}" in err
    assert "run the same command again" not in err

    [job] = head.ask("jobs")["jobs"]
    assert (job["job_id"], job["status"]) == (job_id, "RUNNING")
    head.ask("stop", job_id)
    wait_for(lambda: head.ask("jobs")["jobs"][0]["status"] != "RUNNING")
    assert head.ask("jobs")["jobs"][0]["status"] == "STOPPED"
    assert (head.folder / "in order").exists()
