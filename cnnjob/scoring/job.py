"""Scoring on Ray: units go out to worker processes, receipts come back. Images never travel.

The usual read, map, write sends each image through the object store twice; here none crosses it. A process builds
the model's engine once and keeps it for all of its units. Only where a GPU scores, decoding is a stage of its own, and
Ray Data brings the images.
"""

import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import ray

from cnnjob import storage
from cnnjob.data.attempts import count_attempt
from cnnjob.data.tasks import as_tasks, processes_now
from cnnjob.errors import CnnjobError, JobError
from cnnjob.models.bundle import ONNX, Bundle
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.inputs import Batch, UnitReader
from cnnjob.scoring.plan import Unit
from cnnjob.scoring.sizing import Sizes
from cnnjob.scoring.work import Arithmetic, Desk, Receipt, do_unit, finished, receipt_uri

TASKS_PER_SHARE = 8
MAX_GROUP = 256
"""A task has an eighth of a process's share of the units that are left, and 256 at most: handing one out takes a
millisecond, and the small ones at the end keep all processes busy until then."""


def grouped(units: Sequence[Unit], processes: Callable[[], int]) -> Iterator[tuple[Unit, ...]]:
    """Units in order, some to a task: guided self-scheduling (Polychronopoulos and Kuck, 1987).

    Args:
        units: What is left to do.
        processes: How many there are when a task is cut: a cluster may grow.
    """
    start = 0
    while start < len(units):
        size = min(MAX_GROUP, max(1, (len(units) - start) // (processes() * TASKS_PER_SHARE)))
        yield tuple(units[start : start + size])
        start += size


@dataclass(frozen=True)
class _Task:
    """What every task of a job is given.

    Attributes:
        desk: What every unit shares.
        model: The model, in the object store.
        sizes: Of the arithmetic.
        device: Of torch, where it is not ONNX Runtime's.
        attempt: Of this run, under which units that end an actor are counted.
    """

    desk: Desk
    model: "_Stored"
    sizes: Sizes
    device: str
    attempt: str


@dataclass(frozen=True)
class _Stored:
    """A model in the object store; the same model is equal, whichever job has put it there."""

    digest: str
    bundle: Any = field(compare=False)


@dataclass(frozen=True)
class _Decoded:
    """A unit whose images are in memory; it reads them, and no other."""

    unit: Unit
    batches: list[Batch]
    decodes: bool = False

    def read(self, unit: Unit) -> Iterator[Batch]:
        """The batches."""
        assert unit == self.unit
        return iter(self.batches)


def run(
    units: Sequence[Unit],
    desk: Desk,
    bundle: Bundle,
    sizes: Sizes,
    *,
    num_processes: int | None = None,
    device: str = "cuda",
) -> Iterator[Receipt]:
    """Do the units, yielding receipts as they come. A Ray session must be open.

    Args:
        units: In the order of the plan.
        desk: What they share.
        bundle: The model.
        sizes: Of the arithmetic.
        num_processes: A bound that must not be passed, whatever the cluster grows to; None: there is none.
        device: Where torch calculates, with ``sizes.use_gpu``.

    Raises:
        JobError: A unit failed, or killed its process ``MAX_ATTEMPTS`` times. Finished units keep their parts and
            receipts; the same command goes on from them.
    """
    task = _Task(desk, _Stored(bundle.digest, ray.put(bundle)), sizes, device, uuid.uuid4().hex)
    if sizes.use_gpu:
        # Imported here: Ray Data takes half a second, which scoring on CPUs has no need of.
        from cnnjob.data.spread import spread_over_gpus

        decode = partial(_decode, reader=desk.reader, task=task) if desk.reader.decodes else None
        score = partial(_score_decoded if decode else _score_unit, task=task)
        yield from spread_over_gpus(score, units, processes=sizes.processes, cpus=sizes.threads, before=decode)
        return
    for receipts in as_tasks(
        partial(_score_group, task=task),
        grouped(units, lambda: num_processes or processes_now(sizes.threads)),
        name="cnnjob.score",
        at=partial(_unfinished, staging=desk.staging),
        again=partial(_score_group, task=task, again=True),
        cpus=sizes.threads,
        processes=num_processes,
    ):
        yield from receipts


def _score_group(units: tuple[Unit, ...], *, task: _Task, again: bool = False) -> list[Receipt]:
    """Some units in, their receipts out. Where a process died, what it had finished is not done again."""
    receipts = []
    for unit in units:
        before = finished(unit, task.desk.staging) if again else None
        receipts.append(before or _score(unit, task=task))
    return receipts


def _unfinished(units: tuple[Unit, ...], *, staging: str) -> str:
    """What a process that died was at, in words: the first unit without a receipt, since they are done in order."""
    done = bisect_left(units, True, key=lambda unit: not storage.exists(receipt_uri(staging, unit.name)))
    return _told(units[min(done, len(units) - 1)])


def _decode(unit: Unit, *, reader: UnitReader, task: _Task) -> _Decoded:
    """One unit in, its images out."""
    _count(unit, task, "decoding")
    return _Decoded(unit, list(reader.read(unit)))


def _score_decoded(decoded: _Decoded, *, task: _Task) -> Receipt:
    """One unit with its images in, its receipt out."""
    return _score_unit(decoded.unit, task=replace(task, desk=replace(task.desk, reader=decoded)))


def _score_unit(unit: Unit, *, task: _Task) -> Receipt:
    """One unit in, its receipt out, in an actor."""
    _count(unit, task, "scoring")
    return _score(unit, task=task)


def _score(unit: Unit, *, task: _Task) -> Receipt:
    try:
        return do_unit(unit, task.desk, _engine(task.model, task.sizes, task.device))
    except CnnjobError:
        raise
    except Exception as error:
        raise JobError(
            f"unit {unit.number} failed: {type(error).__name__}: {error}. Finished units are kept; "
            f"run the same command again."
        ) from error


def _count(unit: Unit, task: _Task, what: str) -> None:
    """A unit that takes its process with it does so a few times and no more; Ray Data does not count."""
    count_attempt(storage.join(task.desk.staging, "attempts", task.attempt, what, unit.name), _told(unit))


def _told(unit: Unit) -> str:
    where = f" from {unit.spans[0].shard.path} on" if unit.spans else ""
    return f"unit {unit.number} ({unit.rows} rows{where})"


@lru_cache(maxsize=1)
def _engine(model: _Stored, sizes: Sizes, device: str) -> Arithmetic:
    """The arithmetic of this process, kept for its next units, also those of another date's job."""
    bundle: Bundle = ray.get(model.bundle)
    if sizes.use_gpu:
        # Imported here: torch takes 2 s and 200 MB, which ONNX Runtime has no need of.
        from cnnjob.scoring.torch_engine import TorchEngine

        return TorchEngine(bundle, device=device, bf16=sizes.bf16, batch_size=sizes.batch_size)
    assert sizes.batch_size is not None, "known from the net, on a CPU"
    return Engine(bundle.files[ONNX], threads=sizes.threads, batch_size=sizes.batch_size)
