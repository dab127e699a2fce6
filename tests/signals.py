"""Signals in the process of the tests, as a command has them. Loaded by ``tests/conftest.py``."""

import signal
from collections.abc import Iterator

import pytest

from cnnjob import interrupt


@pytest.fixture
def signals_installed() -> Iterator[None]:
    """This process ends by signals as a command does, and not after."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    interrupt.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupt._installed, interrupt._received = False, None
