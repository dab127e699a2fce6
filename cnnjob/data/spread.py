"""A plain function over items, spread by Ray Data; results stream back as they are done, in no order.

Items and results travel pickled between this job's own processes; images never do: functions write files and
return receipts.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.data

Item = TypeVar("Item")
Result = TypeVar("Result")

_COLUMN = "pickled"


class Caller:
    """What runs in each worker: the function on one item at a time."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One item in, one result out."""
        return {_COLUMN: [pickle.dumps(self.function(pickle.loads(item))) for item in batch[_COLUMN]]}  # noqa: S301


def spread(function: Callable[[Item], Result], items: Sequence[Item], **options: Any) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order of completion.

    Args:
        function: A plain function; it is sent to the workers.
        items: Small values; one is one task.
        options: For ``ray.data.Dataset.map_batches``, such as ``num_cpus``.
    """
    quiet_ray_data()
    if not items:
        return
    rows = [{_COLUMN: pickle.dumps(item)} for item in items]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for row in dataset.map_batches(Caller(function).__call__, batch_size=1, **options).iter_rows():
        yield pickle.loads(row[_COLUMN])  # noqa: S301 - our own result, from our own task


def quiet_ray_data() -> None:
    """Leave the telling of progress to us: Ray Data's own bars and log lines would mix with it."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
