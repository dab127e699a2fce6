"""A plain function over items, spread by Ray Data; results stream back as they are done, or in the order of the items.

Items and results travel pickled between this job's own processes. Where functions write files they return receipts;
images travel only where a rank or a GPU has them decoded on other CPUs.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from cnnjob.data.tasks import Failure, line_of, outcome, processes_now, tasks_in_hand
from cnnjob.errors import JobError

Item = TypeVar("Item")
Result = TypeVar("Result")

_COLUMN = "pickled"


class Caller:
    """What runs in each worker: the function on one item at a time."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One item in, one result out."""
        return {_COLUMN: [pickle.dumps(outcome(self.function, pickle.loads(item))) for item in batch[_COLUMN]]}  # noqa: S301


def spread(function: Callable[[Item], Result], items: Sequence[Item], *, ordered: bool = False) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order of completion, on as many CPUs as there are.

    Args:
        function: A plain function; it is sent to the workers.
        items: Small values; one is one task.
        ordered: In the order of the items instead. Results may be large: no more are made than Ray Data has room for.

    Raises:
        CnnjobError: The first that the function raised.
        JobError: It raised anything else, or its process died again and again.
    """
    if not items:
        return
    if not ordered:
        _warm(function, min(len(items), processes_now(1)))
    dataset = _dataset_of(items)
    dataset.context.execution_options.preserve_order = ordered
    if not ordered:
        # Small results need no holding back; where it is, Ray Data at times runs one task alone.
        dataset.context.op_resource_reservation_enabled = False
        dataset.context.downstream_capacity_backpressure_ratio = None
    # No more than there are items: Ray Data would warn of it.
    compute = TaskPoolStrategy(None if ordered else min(len(items), tasks_in_hand(None, 1)))
    yield from _results(dataset.map_batches(Caller(function).__call__, batch_size=1, num_cpus=1, compute=compute))


def spread_over_gpus(
    function: Callable[[Any], Result],
    items: Sequence[Item],
    *,
    processes: int,
    cpus: int = 1,
    before: Callable[[Item], Any] | None = None,
) -> Iterator[Result]:
    """Yield ``function(before(item))`` for each item, in order of completion.

    ``function`` runs in actors with a GPU each: of a task with a GPU Ray ends the process, and starting CUDA takes
    seconds.

    Args:
        function: A plain function; it is sent to the workers.
        items: Small values; one is one task.
        processes: GPUs, and actors.
        cpus: CPUs that each of them reserves.
        before: What runs on all other CPUs, as tasks; its results travel through the object store, and no more are
            made than there is room for. None: nothing.

    Raises:
        CnnjobError: The first that a function raised.
        JobError: It raised anything else, or its process died again and again.
    """
    if not items:
        return
    dataset = _dataset_of(items)
    if before is not None:
        dataset = dataset.map_batches(Caller(before).__call__, batch_size=1, num_cpus=1)
    # By default an actor that dies is started again without end.
    bounds = {"max_restarts": 2, "max_task_retries": 2}
    pool = ActorPoolStrategy(size=processes)
    yield from _results(
        dataset.map_batches(
            Caller, fn_constructor_args=(function,), batch_size=1, num_cpus=cpus, num_gpus=1, compute=pool, **bounds
        )
    )


def _warm(function: Callable[[Any], Any], processes: int) -> None:
    """Let processes that are there import what the function needs, before two actors of Ray Data's take them."""
    task = ray.remote(_nothing).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
    given = ray.put(function)
    for _ in range(processes):
        task.remote(given)


def _nothing(_: Callable[[Any], Any]) -> None:
    """The argument has been unpickled, and with that its modules imported."""


def _dataset_of(items: Sequence[Any]) -> Dataset:
    quiet_ray_data()
    return ray.data.from_items([{_COLUMN: pickle.dumps(item)} for item in items], override_num_blocks=len(items))


def _results(mapped: Dataset) -> Iterator[Any]:
    try:
        for row in mapped.iter_rows():
            result = pickle.loads(row[_COLUMN])  # noqa: S301 - our own result, from our own task
            if isinstance(result, Failure):
                raise result.error
            yield result
    except ray.exceptions.RayError as error:
        raise JobError(f"a task died: {line_of(error)}. Run the same command again.") from error


def quiet_ray_data() -> None:
    """Leave the telling of progress to us: Ray Data's own bars and log lines would mix with it."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
