"""The Ray that a command starts for itself."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

OPENED = """
import json, os
from contextlib import suppress
from pathlib import Path
from cnnjob.cluster.session import Needs, session
from cnnjob.progress import Silent
from tests.benchmarks.memory import family

with session(Needs(processes=1), Silent()):
    started = []
    for pid in family(os.getpid())[1:]:
        with suppress(OSError):  # It has ended meanwhile.
            started.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
    print(json.dumps(started))
"""


def test_nothing_waits_for_an_autoscaler():
    """Our own Ray has a raylet and a control service, and no process that would add nodes, which its end waits for."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", OPENED], env=environment, capture_output=True, text=True, check=True)
    commands = json.loads(done.stdout.strip().splitlines()[-1])
    assert any("raylet/raylet" in command for command in commands)
    assert any("gcs_server" in command for command in commands)
    assert not [command for command in commands if "autoscaler" in command]
