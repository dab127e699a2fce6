"""The Ray that a command starts for itself, and a cluster of several nodes that it joins."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from cnnjob.cluster.session import machine_gpus

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

REFUSED = """
import json
import ray
from cnnjob.cluster import session as sessions
from cnnjob.errors import ResourceError
from cnnjob.progress import Silent

sessions.machine_gpus = lambda: 1
try:
    with sessions.session(sessions.Needs(processes=1, gpus=1), Silent()):
        said = "opened"
except ResourceError as error:
    said = str(error)
print(json.dumps([said, ray.is_initialized()]))
"""

JOINED = """
import json, os
import ray
from ray.cluster_utils import Cluster
from cnnjob.cluster.session import Needs, session
from cnnjob.errors import ResourceError
from cnnjob.progress import Silent

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
cluster.add_node(num_cpus=2)
gone = cluster.add_node(num_cpus=4)
cluster.remove_node(gone)
os.environ["RAY_ADDRESS"] = cluster.address
said = []
for size in (2, 3):
    try:
        with session(Needs(processes=2, cpus_per_process=size), Silent()):
            said.append("opened")
    except ResourceError as error:
        said.append(str(error))
print(json.dumps(said))
cluster.shutdown()
"""

TOLD_TO_END = """
import json, os, signal
from cnnjob import interrupt
from cnnjob.cluster.processes import descendants
from cnnjob.cluster.session import Needs, session
from cnnjob.progress import Silent

interrupt.install()
told = []

def tell():
    if not told:
        told.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

os.register_at_fork(after_in_parent=tell)
before = descendants()
try:
    with session(Needs(processes=1), Silent()):
        code = 0
except SystemExit as ended:
    code = ended.code
left = {each.pid for each in descendants() - before}
print(json.dumps([code, [pid for pid in left if open(f"/proc/{pid}/cmdline").read()]]))
"""


def said_by(code: str) -> Any:
    """What a process of its own prints last, without the Ray of the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_our_own_ray_has_what_a_job_needs():
    """A raylet and a control service; no dashboard, autoscaler and log monitor, for which its start and end wait."""
    commands = said_by(OPENED)
    assert any("raylet/raylet" in command for command in commands)
    assert any("gcs_server" in command for command in commands)
    for name in ("autoscaler", "dashboard/dashboard.py", "log_monitor.py"):
        assert not [command for command in commands if name in command.partition("--")[0]], name


def test_a_sigterm_as_ray_forks_ends_the_job_and_leaves_no_process():
    """Where the exception of a signal would be lost, in a hook after a fork, the job ends as told, and Ray with it."""
    assert said_by(TOLD_TO_END) == [143, []]


@pytest.mark.skipif(bool(machine_gpus()), reason="Ray finds the GPUs that are there")
def test_our_own_ray_is_closed_where_it_has_no_gpu():
    """A job is refused, and Ray closed, where Ray itself finds no GPU, whatever the device files say."""
    said, still_open = said_by(REFUSED)
    assert said == "use_gpu asks for 1 GPU, and the Ray of this process has none; set use_gpu: false."
    assert not still_open


def test_nodes_that_are_too_small_are_not_waited_for():
    """Two nodes of 2 CPUs hold two workers of 2 and none of 3; a node that is gone does not count."""
    opened, refused = said_by(JOINED)
    assert opened == "opened"
    assert refused == (
        "num_workers 2 x 3 CPU each = 6 CPUs, and the cluster has 4 on 2 nodes of at most 2. "
        "Each must fit on one node, and none will; give each fewer CPUs."
    )
