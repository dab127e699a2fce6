"""A plain function over items as plain tasks of Ray; results come back as they are done, in no order.

Ray Data is for data that moves. Here none does, and without it the first task begins 1.5 s sooner, since its two actors
need not start, and 3 % of the CPUs are left to the work.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayError, WorkerCrashedError

from cnnjob.data.attempts import MAX_ATTEMPTS
from cnnjob.errors import CnnjobError, JobError

Item = TypeVar("Item")
Result = TypeVar("Result")

DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, ObjectLostError)
"""What a task ends with that was going on well: its process, its node, or what it returned is gone."""


@dataclass(frozen=True)
class Failure:
    """What a function raised, as a result."""

    error: CnnjobError


def outcome(function: Callable[[Any], Any], item: Any) -> Any:
    """The result, or our own error as it is: an exception here would reach the driver as a text of Ray's."""
    if isinstance(item, Failure):
        return item  # Of the stage before.
    try:
        return function(item)
    except CnnjobError as error:
        return Failure(error)
    except Exception as error:  # noqa: BLE001 - told by the driver with its place
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        return Failure(JobError(f"a task failed with {type(error).__name__}: {error} ({where})"))


def as_tasks(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    name: str,
    at: Callable[[Item], str],
    cpus: int = 1,
    processes: int | None = None,
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order of completion.

    Args:
        function: A plain function; it is sent to the workers.
        items: Small values; one is one task.
        name: What Ray's own tools call the tasks.
        at: What the task of an item was at, in words, when its process died. It is tried again until it has died
            ``MAX_ATTEMPTS`` times at the same.
        cpus: CPUs that a task reserves.
        processes: Tasks at once, never more; by default as many as the CPUs hold, also those of a cluster that grows.

    Raises:
        CnnjobError: The first that the function raised.
        JobError: It raised anything else, or killed its process again and again.
    """
    task = ray.remote(outcome).options(name=name, num_cpus=cpus, max_retries=0)
    sent, left, deaths = ray.put(function), iter(items), Counter[str]()
    flying: dict[Any, Item] = {}
    # Where the user stops early, what is flying flies on until Ray ends: ray.cancel brought the driver down one time in
    # two ("Tried to complete task that was not pending"), and a task that nobody waits for harms nobody.
    while True:
        room = max(0, tasks_in_hand(processes, cpus) - len(flying))
        flying.update((task.remote(sent, item), item) for item in islice(left, room))
        if not flying:
            return
        (done, *_), _ = ray.wait(list(flying))
        item = flying.pop(done)
        try:
            result = _result(done)
        except DEATHS as error:
            deaths[place := at(item)] += 1
            if deaths[place] == MAX_ATTEMPTS:
                raise JobError(
                    f"{place} killed its process {MAX_ATTEMPTS} times. What the other tasks did is kept; look at this "
                    f"input, then run the command again."
                ) from error
            flying[task.remote(sent, item)] = item
            continue
        yield result


def _result(done: Any) -> Any:
    """What a task returned.

    Raises:
        CnnjobError: What its function raised.
        RayError: One of ``DEATHS``.
        JobError: Any other.
    """
    try:
        result = ray.get(done)
    except DEATHS:
        raise
    except RayError as error:
        raise JobError(f"a task died: {str(error).strip().splitlines()[0]}. Run the same command again.") from error
    if isinstance(result, Failure):
        raise result.error
    return result


def tasks_in_hand(processes: int | None, cpus: int) -> int:
    """How many tasks to hand to Ray at once.

    Ray Data looks for finished tasks ten times a second, and a process would wait 0.1 to 0.2 s for its next one. So
    twice as many as the CPUs hold are handed out: half of them wait where they will run, and a cluster that grows by
    demand sees that there is some. A stated number is kept to, since a cluster that grows would run those that wait.
    """
    return processes or 2 * max(1, int(ray.cluster_resources().get("CPU", 0)) // cpus)
