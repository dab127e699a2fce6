"""Which process the file of a head means: the one that was started, and no other that has its number by now."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cnnjob.cluster import head
from cnnjob.cluster.processes import start_of
from cnnjob.config.cluster import ClusterConfig
from cnnjob.errors import ClusterError, UserError
from cnnjob.interrupt import EndedBySignalError

SLEEPS = "import time; print(flush=True); time.sleep(60)"
NAMED = "open('/proc/self/comm', 'w').write('a) R 1 (b'); " + SLEEPS


@contextmanager
def process(code: str = SLEEPS) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own, as a head does."""
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    started.stdout.readline()
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def note(state: Path, pid: int, **other: object) -> None:
    """The file of a head that is this process, unless said otherwise."""
    (state / "token").write_text("secret")
    known = {"boot_id": head.BOOT_ID.read_text().strip(), "started": start_of(pid)}
    where = {"address": "http://127.0.0.1:8265", "ray_address": "127.0.0.1:6379", "token_path": str(state / "token")}
    noted = {**where, "pid": pid, **known, **other}
    (state / head.RECORD).write_text(json.dumps({key: value for key, value in noted.items() if value is not None}))


def test_a_head_that_runs_is_found_and_ended(tmp_path):
    """The process of the file is found, its token is for it alone, and stopping ends it and removes the file.

    By the name of this machine too; it is the head's own address that is asked then.
    """
    with process() as running:
        note(tmp_path, running.pid)
        assert head.find(tmp_path).pid == running.pid
        for address in ("http://127.0.0.1:8265", "http://127.0.0.1:8265/", "http://localhost:8265"):
            assert head.reached(tmp_path, address) == ("http://127.0.0.1:8265", "secret")
        for address in ("http://127.0.0.1:9999", "https://127.0.0.1:8265", "http://localhost.example.org:8265"):
            assert head.reached(tmp_path, address) == (address, None)
        # As whoever adopts it does: one that has ended and was not waited for still counts as one.
        reaper = threading.Thread(target=running.wait)
        reaper.start()
        assert head.stop(tmp_path)
        reaper.join()
        assert running.returncode == -signal.SIGTERM
    assert not (tmp_path / head.RECORD).exists()
    assert not head.stop(tmp_path)


def free() -> ClusterConfig:
    """A head on ports that nobody has."""
    return ClusterConfig(port=head._free_port(), dashboard_port=head._free_port(), state="/dev/null/none")


def test_a_token_that_is_gone_is_told(tmp_path):
    """A head that runs and whose token was removed: what to do, and no question without a token."""
    with process() as running:
        note(tmp_path, running.pid)
        (tmp_path / "token").unlink()
        with pytest.raises(ClusterError, match="cnnjob down, cnnjob up"):
            head.reached(tmp_path, "http://127.0.0.1:8265")


@pytest.mark.parametrize("key", ["port", "dashboard_port"])
def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path, key):
    """The key and the port are named, and no file is written."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = free().model_copy(update={key: port, "state": str(tmp_path / "state")})
        with pytest.raises(UserError, match=f"^{key} {port} cannot be used"):
            head.start(config)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none", "no log"])
def test_a_folder_that_cannot_keep_a_token_is_a_mistake(tmp_path, place):
    """A file, where nobody can write, and where a folder has the name of the log are told with the folder."""
    (tmp_path / "file").touch()
    (tmp_path / "no log" / head.LOG).mkdir(parents=True)
    state = str(tmp_path / place)
    with pytest.raises(UserError, match=f"cannot be kept in {state}: .* nothing was started"):
        head.start(free().model_copy(update={"state": state}))


def test_a_start_that_is_told_to_end_leaves_no_head(tmp_path, monkeypatch):
    """The process that was started is ended, and no file says that there is one."""
    seen = []

    def told(process: subprocess.Popen[bytes], *_: object) -> None:
        seen.append(process)
        raise EndedBySignalError(130)

    monkeypatch.setattr(head, "_wait", told)
    with pytest.raises(EndedBySignalError):
        head.start(free().model_copy(update={"state": str(tmp_path)}))
    assert seen[0].wait(timeout=10) < 0
    assert not (tmp_path / head.RECORD).exists()


def test_a_head_that_cannot_be_noted_is_ended(tmp_path, monkeypatch):
    """Where no file can say that there is a head, `cnnjob down` would never find it."""
    (tmp_path / head.RECORD).mkdir()
    seen = []
    start = subprocess.Popen
    monkeypatch.setattr(head.subprocess, "Popen", lambda *args, **more: seen.append(start(*args, **more)) or seen[0])
    with pytest.raises(ClusterError, match=f"{tmp_path / head.RECORD} cannot be written: Is a directory"):
        head.start(free().model_copy(update={"state": str(tmp_path)}))
    assert seen[0].wait(timeout=10) < 0


def test_what_a_failed_start_says_is_one_line(tmp_path):
    """Of a traceback in the log the message has what was raised."""
    (tmp_path / head.LOG).write_text("Traceback (most recent call last):\n  File\n    raise\nConnectionError: it is\n")
    (tmp_path / "token").touch()
    with process("") as ended:
        ended.wait()
        at = head.Head("http://127.0.0.1:9", "127.0.0.1:9", ended.pid, str(tmp_path / "token"), "", 0)
        with pytest.raises(ClusterError) as told:
            head._wait(ended, at, tmp_path)
    assert str(told.value).endswith(f"the end of {tmp_path / head.LOG} says: ConnectionError: it is")


@pytest.mark.parametrize(
    "other",
    [{"boot_id": "another"}, {"started": 1}, {"boot_id": None, "started": None}],
    ids=["another boot", "another start", "a file of an older cnnjob"],
)
def test_a_process_that_only_has_the_number_is_left_alone(tmp_path, other):
    """A process of another boot, of another start, or of a file that does not say, is no head, and lives on."""
    with process() as stranger:
        note(tmp_path, stranger.pid, **other)
        assert head.find(tmp_path) is None
        assert head.reached(tmp_path, "http://127.0.0.1:8265") == ("http://127.0.0.1:8265", None)
        assert not head.stop(tmp_path)
        assert stranger.poll() is None


def test_a_process_of_somebody_else_is_no_head(tmp_path, monkeypatch):
    """Where the group may not be signalled, nothing of ours runs."""

    def refuse(group: int, number: int) -> None:
        raise PermissionError

    with process() as stranger:
        note(tmp_path, stranger.pid)
        monkeypatch.setattr(os, "killpg", refuse)
        assert head.find(tmp_path) is None
        assert not head.stop(tmp_path)
        assert stranger.poll() is None


def test_a_name_with_spaces_and_parentheses_hides_no_start():
    """The start of a process is read behind its name, whatever is in that."""
    with process() as plain, process(NAMED) as named:
        assert Path(f"/proc/{named.pid}/comm").read_text() == "a) R 1 (b\n"
        assert start_of(plain.pid) <= start_of(named.pid) <= start_of(plain.pid) + 10_000


def test_no_process_has_no_start(tmp_path):
    """A head whose process has ended is not found."""
    with process() as ended:
        note(tmp_path, ended.pid)
    assert head.find(tmp_path) is None
    with pytest.raises(OSError, match=str(ended.pid)):
        start_of(ended.pid)
