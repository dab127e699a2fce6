"""Scoring with Ray Data: units go out to worker processes, receipts come back. Images never travel.

The usual read, map, write sends each image through the object store twice; here none crosses it. A process builds
the model's engine once and keeps it for all of its units.
"""

import uuid
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import ray
from ray.data import TaskPoolStrategy

from cnnjob import storage
from cnnjob.config.score import EngineConfig
from cnnjob.data.spread import spread
from cnnjob.errors import CnnjobError, JobError
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.plan import Unit
from cnnjob.scoring.work import Desk, Receipt, do_unit

MAX_ATTEMPTS = 3
"""How often a unit may kill its process. Ray Data itself would start it again without end."""


def num_processes(config: EngineConfig, units: int, cpus: int) -> int:
    """How many processes score: as configured, else as many as the CPUs hold, and no more than there are units."""
    fitting = max(1, cpus // config.threads_per_process)
    return max(1, min(units, config.num_processes or fitting))


def run(units: Sequence[Unit], desk: Desk, graph: bytes, config: EngineConfig, processes: int) -> Iterator[Receipt]:
    """Do the units, yielding receipts as they come. A Ray session must be open.

    Raises:
        JobError: A unit failed, or killed its process ``MAX_ATTEMPTS`` times. Finished units keep their parts and
            receipts; the same command goes on from them.
    """
    reference = ray.put(graph)
    task = partial(_score_unit, desk=desk, graph=reference, config=config, attempt=uuid.uuid4().hex)
    try:
        outcomes = spread(task, units, num_cpus=config.threads_per_process, compute=TaskPoolStrategy(size=processes))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome
    except ray.exceptions.RayError as error:
        raise JobError(
            f"scoring stopped: {str(error).splitlines()[0]}. Finished units are kept; run the same command again."
        ) from error


def _score_unit(unit: Unit, *, desk: Desk, graph: Any, config: EngineConfig, attempt: str) -> Receipt | Exception:
    """One unit in, its receipt (or what went wrong) out: an exception here would end the whole job."""
    try:
        _count_attempt(unit, desk, attempt)
        engine = _engine(desk.model.digest, graph, config.threads_per_process, config.batch_size_per_process)
        return do_unit(unit, desk, engine)
    except CnnjobError as error:
        return error
    except Exception as error:  # noqa: BLE001 - told with the unit's number by the driver
        return JobError(f"unit {unit.number} failed: {type(error).__name__}: {error}")


def _count_attempt(unit: Unit, desk: Desk, attempt: str) -> None:
    """Leave a mark for each try of this run, and refuse the unit that has killed its process too often."""
    folder = storage.join(desk.staging, "attempts", attempt, unit.name)
    before = len(storage.list_files(folder))
    if before >= MAX_ATTEMPTS:
        raise JobError(
            f"unit {unit.number} killed its process {before} times ({unit.rows} rows from "
            f"{unit.spans[0].shard.path} on). The other units are kept; look at its input, then run the command again."
        )
    storage.write_bytes(storage.join(folder, str(before)), b"")


@cache
def _engine(digest: str, graph: Any, threads: int, batch_size: int) -> Engine:
    """The engine of this process; ``digest`` tells models apart."""
    del digest
    return Engine(ray.get(graph), threads=threads, batch_size=batch_size)
