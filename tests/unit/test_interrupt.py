"""Signals whose exception is lost on the way, and what is watched while a library starts."""

import signal
import sys
from contextlib import suppress

import pytest

from cnnjob import interrupt
from cnnjob.interrupt import EndedBySignalError

pytestmark = pytest.mark.usefixtures("signals_installed")


def lost(number: signal.Signals) -> None:
    """A signal whose exception comes to nothing."""
    with suppress(SystemExit):
        signal.raise_signal(number)


def taken(number: signal.Signals) -> None:
    """A signal that a library has taken, and does nothing at."""
    signal.signal(number, lambda *_: None)
    signal.raise_signal(number)


def wakeup_fd() -> int:
    """The descriptor that is written to where a signal comes."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("sent", [lost, taken])
def test_a_signal_that_is_lost_while_it_is_watched_ends_the_job(sent, number):
    """Whatever became of its exception, and whoever had the handler."""
    with pytest.raises(EndedBySignalError) as ended, interrupt.watched():
        sent(number)
    assert ended.value.code == 128 + number
    assert interrupt.received() == number


def test_what_is_watched_is_not_broken_off():
    """The first signal ends the job after it, the second at once: a library that starts is best left to."""
    reached = []

    def start() -> None:
        signal.raise_signal(signal.SIGTERM)
        reached.append("after the first")
        signal.raise_signal(signal.SIGTERM)
        reached.append("after the second")

    with pytest.raises(EndedBySignalError), interrupt.watched():
        start()
    assert reached == ["after the first"]


def test_the_end_of_a_library_by_a_signal_is_that_of_the_job():
    """Where a library ends the process by the bare number, or by a failure, the job ends by the signal."""

    def ends(error: BaseException) -> None:
        taken(signal.SIGTERM)
        raise error

    for error in (SystemExit(signal.SIGTERM), RuntimeError("the start failed")):
        with pytest.raises(EndedBySignalError), interrupt.watched():
            ends(error)


def test_without_a_signal_nothing_is_changed():
    """What is raised inside comes out, and so does nothing; other signals end nothing."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    with interrupt.watched():
        signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    with pytest.raises(SystemExit) as ended, interrupt.watched():
        sys.exit(7)
    assert ended.value.code == 7


@pytest.mark.parametrize("sent", [lambda _: None, lost])
def test_after_the_watch_the_signals_are_ours_and_the_descriptor_is_as_it_was(sent):
    """A library's handler is taken back, and whoever had the descriptor has it again."""
    handler, descriptor = signal.getsignal(signal.SIGTERM), wakeup_fd()
    with suppress(EndedBySignalError), interrupt.watched():
        assert wakeup_fd() != descriptor
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sent(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), wakeup_fd()) == (handler, descriptor)


def test_a_thousand_signals_are_one(capfd):
    """More signals than the watch has room for end the job, and nothing complains of them."""

    def many() -> None:
        for _ in range(1000):
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda *_: None)
    with pytest.raises(EndedBySignalError), interrupt.watched():
        many()
    assert capfd.readouterr() == ("", "")


def test_a_signal_that_was_lost_is_found_by_the_next_check():
    """Also where the next thing is to be watched; a new command knows nothing of it."""
    interrupt.check()
    lost(signal.SIGTERM)
    with pytest.raises(EndedBySignalError):
        interrupt.check()
    with pytest.raises(EndedBySignalError), interrupt.watched():
        pytest.fail("the work goes on")
    interrupt.install()
    interrupt.check()


def test_a_process_that_did_not_ask_for_signals_is_left_alone(monkeypatch):
    """Where signals are not ours, as in a notebook, nobody watches and no handler is put."""
    monkeypatch.setattr(interrupt, "_installed", False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with interrupt.watched():
        assert wakeup_fd() == -1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
