"""How a job is told to end: SIGTERM (a cluster, a service manager) and SIGINT (Ctrl-C).

By default a signal ends the job where it is, by an exception. Work that can end better ``defer``s it: the signal is
then only noted, the work looks at ``Asked`` and finishes what it holds; a second signal ends it at once. The exit
code is 128 + the signal's number, as shells tell it: 143 for SIGTERM, 130 for SIGINT.

An exception can come to nothing: raised where C calls Python, in a hook after a fork or in a finalizer, it is printed
and the job would go on. So the start of a library is ``watched``, and the work ``check``s before its larger steps.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class EndedBySignalError(SystemExit):
    """The job was told to end. No subclass of Exception, so that nothing on the way takes it for a failure."""


class Asked:
    """Whether a signal came while it was deferred."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


_installed = False
_received: signal.Signals | None = None


def install() -> None:
    """Let signals end this process by ``EndedBySignalError``. Only a main thread can; elsewhere nothing changes."""
    global _installed, _received
    if _in_main_thread():
        _installed, _received = True, None
        for number in _SIGNALS:
            signal.signal(number, _end)


def received() -> signal.Signals | None:
    """The signal that ended, or is ending, this job; libraries may have turned its exception into another."""
    return _received


def check() -> None:
    """End the job now where a signal has come and its exception was lost on the way.

    Raises:
        EndedBySignalError: One has.
    """
    if _received is not None:
        end(_received)


@contextmanager
def watched() -> Iterator[None]:
    """As ``deferred``, for a library that starts: a signal that came before or meanwhile ends the job at the end.

    It does also where the library has taken the signals, as Ray does, whatever became of it then: its number is written
    to a socket before any handler is called. At the end the signals are ours again.

    Raises:
        EndedBySignalError: One came.
    """
    check()
    if not (_installed and _in_main_thread()):
        yield
        return
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        before = -1
        try:
            # It is full after hundreds of signals, and then has been told.
            before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
            with deferred():
                yield
        finally:
            signal.set_wakeup_fd(before)
            _end_by(reading)


def _end_by(numbers: socket.socket) -> None:
    """End the job by the first of our signals among those that came."""
    try:
        came = numbers.recv(4096)
    except BlockingIOError:
        return
    for number in came:
        if number in _SIGNALS:
            end(signal.Signals(number))


@contextmanager
def deferred() -> Iterator[Asked]:
    """Inside, the first signal is only noted."""
    asked = Asked()
    if not (_installed and _in_main_thread()):
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            _end(number, frame)
        asked.signal = signal.Signals(number)

    before = [signal.signal(number, note) for number in _SIGNALS]
    try:
        yield asked
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def end(number: signal.Signals) -> None:
    """End the job as the signal would have, now that the work is in order.

    Raises:
        EndedBySignalError: Always.
    """
    _end(number, None)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(number: int, frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603 - as above
    del frame
    _received = signal.Signals(number)
    raise EndedBySignalError(128 + number)
