"""Publishers in threads that stop at the commit's phases, so that a test can drive any order of their steps."""

import dataclasses
import datetime as dt
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from cnnjob import storage
from cnnjob.errors import CnnjobError
from cnnjob.scoring import commit, rolling
from cnnjob.scoring.commit import publish
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, ScoringModel
from cnnjob.scoring.table import ScoresManifest, Table
from cnnjob.scoring.work import Receipt, part_uri

STEP_S = 60
MORNING = dt.datetime(2024, 3, 1, 6, tzinfo=dt.UTC)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A plan that is done: its parts' bytes by unit, to be staged again and again."""

    plan: Plan
    receipts: list[Receipt]
    model: ScoringModel
    parts: dict[str, bytes]

    def stage(self, table: Table, base: ScoresManifest | None = None) -> None:
        """Put the parts where the job would have."""
        staging = table.staging(self.plan.digest, base.number if base else 0)
        for unit, content in self.parts.items():
            storage.write_bytes(part_uri(staging, unit), content)

    def publish(self, table: Table, base: ScoresManifest | None = None) -> ScoresManifest:
        """Publish what was staged."""
        ledger = Ledger(len(self.model.class_names), self.model.shape[0], self.receipts)
        return publish(table, self.plan, ledger, self.model, {}, MORNING, base=base)


class Publisher(threading.Thread):
    """One of the racers; it stops at each phase until it is told to go on."""

    def __init__(self, work: Callable[[], ScoresManifest]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False
        self.won: ScoresManifest | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Wait for the first step, then work."""
        self._go.acquire()
        try:
            self.won = self._work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.ended = True
        self._stopped.release()

    def reached(self) -> None:
        """Stop."""
        self._stopped.release()
        self._go.acquire()

    def step(self) -> None:
        """Go on to the next phase, or to the end."""
        self._go.release()
        assert self._stopped.acquire(timeout=STEP_S), "a publisher waits for something that no other does"


@contextmanager
def stops(phases: Sequence[str]) -> Iterator[None]:
    """Publishers stop at these phases of the commit."""

    def reached(phase: str, **_: object) -> None:
        current = threading.current_thread()
        if phase in phases and isinstance(current, Publisher):
            current.reached()

    with mock.patch.object(commit, "reached", reached), mock.patch.object(rolling, "reached", reached):
        yield


@contextmanager
def jitter(seed: int, longest_s: float) -> Iterator[None]:
    """Whoever comes to a phase rests there for a random while."""
    draw = random.Random(seed)

    def rest(*_: object, **__: object) -> None:
        time.sleep(draw.uniform(0, longest_s))

    with mock.patch.object(commit, "reached", rest), mock.patch.object(rolling, "reached", rest):
        yield


def follow(publishers: Sequence[Publisher], schedule: Sequence[int], look: Callable[[], None]) -> list[tuple[int, int]]:
    """Take steps as ``schedule`` says, and then always of the first that has not ended.

    Returns:
        Of each step, who took it and how many could have.
    """
    for publisher in publishers:
        publisher.start()
    taken = []
    while open_ones := [number for number, publisher in enumerate(publishers) if not publisher.ended]:
        asked = schedule[len(taken)] if len(taken) < len(schedule) else 0
        chosen = min(asked, len(open_ones) - 1)
        publishers[open_ones[chosen]].step()
        taken.append((chosen, len(open_ones)))
        look()
    return taken


def all_schedules(run: Callable[[Sequence[int]], list[tuple[int, int]]]) -> int:
    """Run every order of steps there is, each once; how many there were."""
    schedule: list[int] | None = []
    count = 0
    while schedule is not None:
        taken = run(schedule)
        count += 1
        # The last step that could still be another's is, and what comes after it begins anew.
        schedule = None
        for at in range(len(taken) - 1, -1, -1):
            chosen, choices = taken[at]
            if chosen + 1 < choices:
                schedule = [*(step for step, _ in taken[:at]), chosen + 1]
                break
    return count


def race(works: Sequence[Callable[[], ScoresManifest]]) -> list[ScoresManifest | CnnjobError]:
    """All at once; what each came to."""
    line = threading.Barrier(len(works))
    outcomes: list[ScoresManifest | CnnjobError | None] = [None] * len(works)

    def run(number: int) -> None:
        line.wait()
        try:
            outcomes[number] = works[number]()
        except CnnjobError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcome for outcome in outcomes if outcome is not None]
