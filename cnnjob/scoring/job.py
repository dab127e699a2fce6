"""Scoring with Ray Data: units go out to worker processes, receipts come back. Images never travel.

The usual read, map, write sends each image through the object store twice; here none crosses it. A process builds
the model's engine once and keeps it for all of its units.
"""

import uuid
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import ray

from cnnjob import storage
from cnnjob.config.score import EngineConfig
from cnnjob.data.attempts import count_attempt
from cnnjob.data.spread import spread
from cnnjob.errors import CnnjobError, JobError
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.plan import Unit
from cnnjob.scoring.work import Desk, Receipt, do_unit, finished


def num_processes(config: EngineConfig, units: int, cpus: int) -> int:
    """How many processes score: as configured, else as many as the CPUs hold, and no more than there are units."""
    fitting = max(1, cpus // config.threads_per_process)
    return max(1, min(units, config.num_processes or fitting))


TASKS_PER_SHARE = 8
MAX_GROUP = 256
"""A task has an eighth of a process's share of the units that are left, and 256 at most: handing one out takes Ray Data
some 10 ms, and the small ones at the end keep all processes busy until then."""


def grouped(units: Sequence[Unit], processes: int) -> list[tuple[Unit, ...]]:
    """Units in order, some to a task: guided self-scheduling (Polychronopoulos and Kuck, 1987)."""
    groups, start = [], 0
    while start < len(units):
        size = (len(units) - start) // (processes * TASKS_PER_SHARE)
        groups.append(tuple(units[start : start + min(MAX_GROUP, max(1, size))]))
        start += len(groups[-1])
    return groups


def run(units: Sequence[Unit], desk: Desk, graph: bytes, config: EngineConfig, processes: int) -> Iterator[Receipt]:
    """Do the units, yielding receipts as they come. A Ray session must be open.

    Raises:
        JobError: A unit failed, or killed its process ``MAX_ATTEMPTS`` times. Finished units keep their parts and
            receipts; the same command goes on from them.
    """
    reference = ray.put(graph)
    task = partial(_score_group, desk=desk, graph=reference, config=config, attempt=uuid.uuid4().hex)
    groups = grouped(units, processes)
    for receipts in spread(task, groups, cpus=config.threads_per_process, processes=config.num_processes):
        yield from receipts


def _score_group(
    units: tuple[Unit, ...], *, desk: Desk, graph: Any, config: EngineConfig, attempt: str
) -> list[Receipt]:
    """Some units in, their receipts out. Where a unit killed the process, those before it are not done again."""
    receipts = []
    for unit in units:
        before = finished(unit, desk.staging) if len(units) > 1 else None
        receipts.append(before or _score_unit(unit, desk=desk, graph=graph, config=config, attempt=attempt))
    return receipts


def _score_unit(unit: Unit, *, desk: Desk, graph: Any, config: EngineConfig, attempt: str) -> Receipt:
    """One unit in, its receipt out."""
    marks = storage.join(desk.staging, "attempts", attempt, unit.name)
    where = f" from {unit.spans[0].shard.path} on" if unit.spans else ""
    count_attempt(marks, f"unit {unit.number} ({unit.rows} rows{where})")
    try:
        engine = _engine(desk.model.digest, graph, config.threads_per_process, config.batch_size_per_process)
        return do_unit(unit, desk, engine)
    except CnnjobError:
        raise
    except Exception as error:
        raise JobError(
            f"unit {unit.number} failed: {type(error).__name__}: {error}. Finished units are kept; "
            f"run the same command again."
        ) from error


@cache
def _engine(digest: str, graph: Any, threads: int, batch_size: int) -> Engine:
    """The engine of this process; ``digest`` tells models apart."""
    del digest
    return Engine(ray.get(graph), threads=threads, batch_size=batch_size)
