"""A Ray head on this machine for development: dashboard and jobs API on loopback, with a token, ended by its own id.

The token and the head's process id lie in a folder that only their owner can read. ``ray stop`` would end every
Ray of the user; here only the process group that was started is ended. A number alone outlives a restart of the machine
or the container, and is another's then: with it the boot and the start of the process are noted, as ``/proc`` has them.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cnnjob.cluster.processes import start_of
from cnnjob.config.cluster import ClusterConfig
from cnnjob.errors import ClusterError, UserError

TOKEN = "token"  # noqa: S105 - a file name
RECORD = "head.json"
LOG = "head.log"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 3.0
"""After SIGTERM the head's processes wait for each other for minutes; nothing of theirs needs saving."""
_POLL_S = 0.3


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        address: URL of its dashboard and jobs API.
        ray_address: What ``ray.init`` connects to.
        pid: Process group, and the process that leads it.
        token_path: File with its token.
        boot_id: The boot of the machine that it was started in.
        started: When that process started, in clock ticks since the boot.
    """

    address: str
    ray_address: str
    pid: int
    token_path: str
    boot_id: str
    started: int


def start(config: ClusterConfig) -> Head:
    """Start a head and wait until its jobs API answers.

    Raises:
        UserError: One is running already, a port is taken, or the folder cannot be used.
        ClusterError: It did not come up in time; its log says why.
    """
    state = Path(config.state)
    running = find(state)
    if running is not None:
        raise UserError(f"a head is running already at {running.address} (process {running.pid}); stop it: cnnjob down")
    _check_free("port", config.port)
    _check_free("dashboard_port", config.dashboard_port)
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = _write_token(state / TOKEN)
        log = (state / LOG).open("wb")
    except OSError as error:
        raise UserError(
            f"the head's token and log cannot be kept in {state}: {error.strerror}. Give another folder as state; "
            f"nothing was started."
        ) from error
    address = f"http://127.0.0.1:{config.dashboard_port}"
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--port", str(config.port)),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(config.dashboard_port)),
        # Ray's default is one fixed port, and beside another Ray on this machine no job would ever start.
        *("--dashboard-agent-listen-port", str(_free_port())),
        *("--num-cpus", str(config.num_cpus or len(os.sched_getaffinity(0)) + 1)),
    ]
    with log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=_environment(token), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    ray_address = f"127.0.0.1:{config.port}"
    try:
        head = Head(address, ray_address, process.pid, str(token), _boot_id(), start_of(process.pid))
        _write_record(state / RECORD, head)
        _wait(process, head, state)
    except BaseException:
        # Also where this command is told to end. Not by `stop`: where the first process has ended, others of its group
        # may still run.
        _end(process.pid)
        with suppress(OSError):
            (state / RECORD).unlink()
        raise
    return head


def stop(state: Path) -> bool:
    """End the head that ``start`` left in ``state``. False where none is running."""
    head = find(state)
    if head is None:
        return False
    _end(head.pid)
    (state / RECORD).unlink(missing_ok=True)
    return True


def find(state: Path) -> Head | None:
    """The head recorded in ``state``, if it is alive: a process of its number that started when it did."""
    try:
        head = Head(**json.loads((state / RECORD).read_text()))
        same = (head.boot_id, head.started) == (_boot_id(), start_of(head.pid))
    except (OSError, ValueError, TypeError):
        return None
    return head if same and _group_alive(head.pid) else None


def reached(state: Path, address: str) -> tuple[str, str | None]:
    """Where a cluster is asked, and with which token: of the head in ``state``, where it is that one.

    Of any other cluster there is no token: Ray's own settings are for that.

    Raises:
        ClusterError: It is that head, and its token cannot be read.
    """
    head = find(state)
    # By the head's own address: by its name, somebody else's server might be asked, and told the token.
    if head is None or head.address != address.rstrip("/").replace("//localhost:", "//127.0.0.1:"):
        return address, None
    try:
        return head.address, Path(head.token_path).read_text()
    except OSError as error:
        raise ClusterError(
            f"the token of the head at {head.address} cannot be read: {head.token_path}: {error.strerror}. Start the "
            f"head anew: cnnjob down, cnnjob up."
        ) from error


def _write_token(path: Path) -> Path:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _write_record(path: Path, head: Head) -> None:
    try:
        path.write_text(json.dumps(vars(head)))
    except OSError as error:
        raise ClusterError(
            f"{path} cannot be written: {error.strerror}. The head was ended again, since cnnjob down would not find "
            f"it; run the same command again where there is room, or with another folder as state."
        ) from error


def _environment(token: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    # Jobs start as `python -m pipelines`: with the interpreter, and so the libraries, of this installation.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def _wait(process: subprocess.Popen[bytes], head: Head, state: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {Path(head.token_path).read_text()}"}
    )
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(request, timeout=2):  # noqa: S310 - loopback
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    # Of a traceback the last line is what was raised.
    said = (state / LOG).read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    raise ClusterError(f"the head did not come up; the end of {state / LOG} says: {said[0].strip()}")


def _check_free(key: str, port: int) -> None:
    """Raises where a port is taken: Ray would say so after a minute, and in its log alone."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"{key} {port} cannot be used: {error.strerror}; set {key} to another port") from error


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _boot_id() -> str:
    return BOOT_ID.read_text().strip()


def _end(group: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _group_alive(group):
            return
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _group_alive(group) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _group_alive(group: int) -> bool:
    """Whether there is a process of ours in the group."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
