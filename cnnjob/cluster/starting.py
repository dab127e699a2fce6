"""What Ray does as it starts and has no option for: programs that nobody looks at, and signals that a job has."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_FOR_OTHERS = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def what_a_job_needs() -> Iterator[None]:
    """Inside, Ray starts without its API server, its autoscaler and its log monitor, which nobody looks at here.

    Each is a Python process that takes a second of a CPU to start; ``ray.init`` waits for the first, ``ray.shutdown``
    for the second, and neither has an option for them. Where Ray's inside has changed they start, and that is all.
    """
    kept: dict[str, Any] = {}
    with suppress(ImportError):
        from ray._private.node import Node

        kept = {name: getattr(Node, name) for name in _FOR_OTHERS if hasattr(Node, name)}
        for name in kept:
            setattr(Node, name, _starts_nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def _starts_nothing(*_: object, **__: object) -> None:
    pass


@contextmanager
def signals_left_alone() -> Iterator[None]:
    """Inside, Ray takes SIGTERM only where nobody has it.

    Its handler raises wherever it is, and where that is in the midst of starting a thread the process aborts. Where
    Ray's inside has changed it takes the signal, and that is all.
    """
    kept: Callable[..., object] | None = None
    with suppress(ImportError):
        from ray._private import utils

        kept = getattr(utils, "set_sigterm_handler", None)
    if kept is None:
        yield
        return

    def take(handler: Callable[..., object]) -> None:
        if not callable(signal.getsignal(signal.SIGTERM)):
            kept(handler)

    utils.set_sigterm_handler = take
    try:
        yield
    finally:
        utils.set_sigterm_handler = kept
