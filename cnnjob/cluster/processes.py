"""Processes of this machine, as ``/proc`` has them: those that this one has brought about, and ending them."""

import importlib.util
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process; with when it was started it is never taken for another one of the same number.

    Attributes:
        pid: Its number.
        started: In clock ticks since the boot.
    """

    pid: int
    started: int


def start_of(pid: int) -> int:
    """When a process started, in clock ticks since the boot.

    Raises:
        OSError: There is none of this number.
    """
    return int(_stat(pid)[22 - 3])


def descendants() -> frozenset[Process]:
    """All processes that this one has started, and those that they have."""
    children: dict[int, list[Process]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        # One that ends meanwhile is none.
        with suppress(OSError):
            fields = _stat(int(path.name))
            children.setdefault(int(fields[4 - 3]), []).append(Process(int(path.name), int(fields[22 - 3])))
    found: list[Process] = []
    above = [os.getpid()]
    while above:
        below = children.get(above.pop(), [])
        found += below
        above += [process.pid for process in below]
    return frozenset(found)


def is_of_ray(process: Process) -> bool:
    """Whether it is one of Ray's, by its command: a worker, whatever it is at, or what runs Ray's own programs.

    A path somewhere inside an argument tells nothing: ``multiprocessing`` writes the whole ``sys.path``, to which Ray
    adds its own folders, into the command of its fork server.
    """
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return command.startswith(b"ray::") or any(part.startswith(_rays_folder()) for part in command.split(b"\0"))


@cache
def _rays_folder() -> bytes:
    """The folder of Ray's programs, found without importing it."""
    found = importlib.util.find_spec("ray")
    assert found is not None, "it is a dependency"
    assert found.origin is not None, "it is a package"
    return os.fsencode(Path(found.origin).parent) + b"/"


def end_all(found: Callable[[], Iterable[Process]]) -> None:
    """Kill what ``found`` finds, and also what begins meanwhile.

    What a process starts while it is killed would be found no more: its parent is gone. One that is halted starts none,
    so all are, until no new one is found.
    """
    halted: set[Process] = set()
    while new := set(found()) - halted:
        _send(signal.SIGSTOP, new)
        halted |= new
    end(halted)


def end(processes: Iterable[Process]) -> None:
    """Kill those of the processes that still run."""
    _send(signal.SIGKILL, processes)


def _send(number: signal.Signals, processes: Iterable[Process]) -> None:
    for process in processes:
        with suppress(OSError):
            if start_of(process.pid) == process.started:
                os.kill(process.pid, number)


def _stat(pid: int) -> list[str]:
    """Fields of proc(5) from the third on; the second, a command's name, may have spaces and parentheses itself."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
