"""What this process has started, and ending it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from cnnjob.cluster import session
from cnnjob.cluster.processes import Process, descendants, end, end_all, is_of_ray, start_of

SLEEPS = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print(flush=True); time.sleep(60)"
STARTS_MANY = (
    "import subprocess, time; print(flush=True)\nwhile True: subprocess.Popen(['sleep', '60']); time.sleep(0.002)"
)


@pytest.fixture
def started():
    """A process that has started another one."""
    before = descendants()
    process = subprocess.Popen([sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process, descendants() - before
    end(descendants() - before)
    process.wait()


def test_what_a_process_has_started_is_ended_with_it(started):
    """A process and what it has started are found, and both are ended."""
    process, ours = started
    assert process.pid in {each.pid for each in ours}
    assert len(ours) == 2
    end(ours)
    assert process.wait(timeout=10) == -9
    deadline = time.monotonic() + 10
    while any(_runs(each.pid) for each in ours):
        assert time.monotonic() < deadline


def test_what_begins_while_a_process_is_ended_is_ended_too():
    """A process that starts another one all the time leaves none of them behind."""
    before = descendants()
    process = subprocess.Popen([sys.executable, "-c", STARTS_MANY], stdout=subprocess.PIPE)
    process.stdout.readline()
    end_all(lambda: descendants() - before)
    assert process.wait(timeout=10) == -9
    # Each of them has the pipe's other end.
    assert process.communicate(timeout=10) == (b"", None)


def test_another_process_of_the_same_number_stays(started):
    """A number that another process has by now ends nothing."""
    process, _ = started
    end([Process(process.pid, start_of(process.pid) - 1), Process(2**22 + 1, 0)])
    assert process.poll() is None


def test_where_no_ray_was_started_nothing_is_ended(started):
    """Sessions that were shared and never opened end no process of somebody else's."""
    process, _ = started
    with session.shared_session():
        pass
    assert process.poll() is None


def test_what_is_no_ray_stays_when_our_own_ends(started, monkeypatch):
    """What the program has started beside its own Ray is not ended with it."""
    process, ours = started
    monkeypatch.setattr(session, "_others", descendants() - ours)
    session._close()
    assert process.poll() is None
    assert session._others is None


def test_rays_processes_are_known_by_their_commands():
    """Its own programs are Ray's; a fork server, whose command names Ray's folders in a list of paths, is not."""
    program = Path(ray.__file__).parent / "_private" / "workers" / "default_worker.py"
    assert _is_of_ray([sys.executable, "-c", "import time; time.sleep(60)", str(program)])
    assert not _is_of_ray([sys.executable, "-c", f"import time; sys_path = [{str(program)!r}]; time.sleep(60)"])


def _is_of_ray(command):
    process = subprocess.Popen(command)
    # A program has been begun a moment before its command can be read.
    deadline = time.monotonic() + 10
    while not _runs(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        return is_of_ray(Process(process.pid, start_of(process.pid)))
    finally:
        process.kill()
        process.wait()


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended and was not asked how has no command any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False
