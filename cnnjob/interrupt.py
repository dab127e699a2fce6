"""How a job is told to end: SIGTERM (a cluster, a service manager) and SIGINT (Ctrl-C).

By default a signal ends the job where it is, by an exception. Work that can end better ``defer``s it: the signal is
then only noted, the work looks at ``Asked`` and finishes what it holds; a second signal ends it at once. The exit
code is 128 + the signal's number, as shells tell it: 143 for SIGTERM, 130 for SIGINT.
"""

import signal
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
    global _installed  # noqa: PLW0603 - handlers are one per process
    if threading.current_thread() is threading.main_thread():
        _installed = True
        for number in _SIGNALS:
            signal.signal(number, _end)


def reinstall() -> None:
    """Take the signals back from a library that took them, if they were ours: Ray handles SIGTERM once it starts."""
    if _installed:
        install()


def received() -> signal.Signals | None:
    """The signal that ended, or is ending, this job; libraries may have turned its exception into another."""
    return _received


@contextmanager
def deferred() -> Iterator[Asked]:
    """Inside, the first signal is only noted."""
    asked = Asked()
    if not _installed or threading.current_thread() is not threading.main_thread():
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


def _end(number: int, frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603 - as above
    del frame
    _received = signal.Signals(number)
    raise EndedBySignalError(128 + number)
