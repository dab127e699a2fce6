"""A plain function over items as plain tasks of Ray; results come back as they are done, in no order.

Ray Data is for data that moves. Here none does, and without it the first task begins 1.5 s sooner, since its two actors
need not start, and 3 % of the CPUs are left to the work.
"""

import re
import time
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
    again: Callable[[Item], Result] | None = None,
    cpus: int = 1,
    processes: int | None = None,
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order of completion.

    Where the user stops early, what is under way goes on until Ray ends: ``ray.cancel`` brought the driver down one
    time in two ("Tried to complete task that was not pending").

    Args:
        function: A plain function; it is sent to the workers.
        items: Small values; one is one task. They are asked for as they are handed out.
        name: What Ray's own tools call the tasks.
        at: What the task of an item was at, in words, when its process died. It is tried again until it has died
            ``MAX_ATTEMPTS`` times at the same.
        again: The function for an item whose process died, and which may have done a part of it; by default the same.
        cpus: CPUs that a task reserves.
        processes: Tasks at once, never more; by default as many as the CPUs hold, also those of a cluster that grows.

    Raises:
        CnnjobError: The first that the function raised.
        JobError: It raised anything else, its process died again and again, or Ray failed.
    """
    try:
        yield from _as_tasks(function, again or function, iter(items), name, at, cpus, processes)
    except RayError as error:
        raise JobError(f"a task died: {line_of(error)}. Run the same command again.") from error


def _as_tasks(
    function: Callable[[Item], Result],
    again: Callable[[Item], Result],
    items: Iterator[Item],
    name: str,
    at: Callable[[Item], str],
    cpus: int,
    processes: int | None,
) -> Iterator[Result]:
    # Over all nodes, as Ray Data does it: by default Ray fills half of the driver's node first.
    task = ray.remote(outcome).options(name=name, num_cpus=cpus, max_retries=0, scheduling_strategy="SPREAD")
    first, retry, deaths = ray.put(function), ray.put(again), Counter[str]()
    flying: dict[Any, Item] = {}
    while True:
        room = max(0, tasks_in_hand(processes, cpus) - len(flying))
        flying.update((task.remote(first, item), item) for item in islice(items, room))
        if not flying:
            return
        (done, *_), _ = ray.wait(list(flying))
        item = flying.pop(done)
        try:
            result = ray.get(done)
        except DEATHS as error:
            deaths[place := at(item)] += 1
            if deaths[place] == MAX_ATTEMPTS:
                raise JobError(
                    f"{place} ended its process {MAX_ATTEMPTS} times ({type(error).__name__}: {line_of(error)}). What "
                    f"the other tasks did is kept; look at this input, then run the command again."
                ) from error
            if isinstance(error, OutOfMemoryError):
                # What else takes memory may be done by then.
                time.sleep(deaths[place])
            flying[task.remote(retry, item)] = item
            continue
        if isinstance(result, Failure):
            raise result.error
        yield result


def tasks_in_hand(processes: int | None, cpus: int) -> int:
    """How many tasks to hand to Ray at once: a stated number, which is never passed; else twice what the CPUs hold.

    The second half waits, so that no process does, and a cluster that grows by demand sees that there is some. Ray Data
    looks for finished tasks ten times a second: with fewer a process waited 0.1 to 0.2 s for its next one.
    """
    return processes or 2 * processes_now(cpus)


def processes_now(cpus: int) -> int:
    """How many processes of so many CPUs the Ray that is open holds, one at least."""
    return max(1, int(ray.cluster_resources().get("CPU", 0)) // cpus)


def line_of(error: RayError) -> str:
    """What an error of Ray's says, in a line: what was raised, where it wraps something."""
    said = str(getattr(error, "cause", None) or error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\x1b\[[0-9;]*m", "", said[0]).rstrip(".")
