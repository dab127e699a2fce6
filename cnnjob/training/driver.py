"""Ray Train, as thin as it goes: start the workers, follow the journal, pass on a signal, hand back the best weights.

Ray Train keeps nothing of ours: checkpoints are the workers' (``checkpoint``), reports the journal's. So a run goes on
from what is in its folder, whatever Ray knew of it.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import ray.train
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from cnnjob import interrupt, storage
from cnnjob.errors import CnnjobError, IntegrityError, StorageError, TrainingError, UserError
from cnnjob.models.cnn import Classifier, build
from cnnjob.training import checkpoint as checkpoints
from cnnjob.training import journal, ray_group
from cnnjob.training.checkpoint import Progress
from cnnjob.training.stop import ask_to_stop, forget, forget_all
from cnnjob.training.trainer import OwnRayTrainer
from cnnjob.training.worker import TrainJob

JOURNAL_POLL_S = 0.5
OnEntry = Callable[[dict[str, Any]], None]


def threads_of(cpus_per_worker: float) -> int:
    """Threads of a worker that reserves so many CPUs: whole ones, at least one."""
    return max(1, math.floor(cpus_per_worker))


def fit(job: TrainJob, environment: Mapping[str, str], on_entry: OnEntry, *, own_ray: bool = False) -> None:
    """Train to the last epoch, going on from the newest checkpoint. A Ray session must be open.

    Told to end by a signal, the workers finish their step, write a checkpoint and leave; if they have not within
    ``grace_s``, the run ends without, and goes on from the checkpoint before.

    Args:
        job: What to train.
        environment: Variables that the workers need beside those they have.
        on_entry: Called with each entry of the journal, once, in the order they are found.
        own_ray: Whether the Ray session was started for this job and ends with it.

    Raises:
        TrainingError: Workers failed more often than ``max_failures``.
        EndedBySignalError: A signal came.
    """
    _clear(job.run_folder)
    training = _Training(_trainer(job, environment, own_ray=own_ray))
    seen: set[str] = set()

    def hand_over() -> None:
        for entry in journal.read(job.run_folder, seen):
            # What happened to another try at the run is nothing that happens to this one.
            if entry["kind"] in journal.KEPT or entry.get("attempt") == job.attempt:
                on_entry(entry)

    try:
        with interrupt.deferred() as asked:
            leave_by = math.inf
            while not training.wait(JOURNAL_POLL_S) and time.monotonic() < leave_by:
                # A store that does not answer now may at the next look; the workers have no need of it until then.
                with suppress(StorageError, OSError):
                    hand_over()
                if asked and leave_by == math.inf:
                    ask_to_stop(job.run_folder, job.attempt)
                    leave_by = time.monotonic() + job.config.grace_s
        hand_over()
        if asked.signal is not None:
            interrupt.end(asked.signal)
        training.result(job)
    finally:
        # What stays is small, and why the training ended counts.
        with suppress(CnnjobError, OSError):
            forget(job.run_folder, job.attempt)
            storage.remove(_scratch(job))


def best_model(job: TrainJob) -> tuple[Classifier, Progress]:
    """The best epoch's weights in a module on the CPU, in evaluation mode, and the run's progress.

    Raises:
        TrainingError: The run has no sound checkpoint.
    """
    sound, damaged = checkpoints.latest(job.run_folder)
    if sound is None:
        reasons = "; ".join(damaged) or "there is none"
        raise TrainingError(f"the run {job.config.name} has no sound checkpoint: {reasons}. Run the command again.")
    statistics = job.manifest.statistics
    module = build(job.net, statistics.mean, statistics.std, seed=job.config.seed)
    module.load_state_dict(dict(sound.best))
    return module.to(torch.device("cpu")).eval(), sound.progress


class _Failures(UserCallback):  # type: ignore[misc]
    """Tells the journal of workers that failed, in the controller's process, which outlives them."""

    def __init__(self, job: TrainJob) -> None:
        self._run_folder = job.run_folder
        self._attempt = job.attempt

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Append that workers failed; Ray Train decides whether they are started again.

        Raises:
            UserError, IntegrityError: A worker raised it, and would again: what a callback raises ends a training.
        """
        del run_context
        ours = _one_of_ours(worker_exceptions.values())
        if isinstance(ours, UserError | IntegrityError):
            raise ours
        said = {str(rank): what for rank, what in _said(worker_exceptions).items()}
        journal.append(self._run_folder, {**journal.event("failed"), "ranks": said, "attempt": self._attempt})


class _Training:
    """``trainer.fit()`` beside the main thread, which keeps its signals: Ray Train would take Ctrl-C for itself."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            self._error = error

    def wait(self, timeout_s: float) -> bool:
        """Whether it is over within ``timeout_s``."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self, job: TrainJob) -> None:
        """Raise what it raised."""
        if isinstance(self._error, ray.train.TrainingFailedError):
            raise _failure(job, self._error) from self._error
        if self._error is not None:
            raise self._error


def _trainer(job: TrainJob, environment: Mapping[str, str], *, own_ray: bool) -> TorchTrainer:
    config = job.config
    # Workers that decode with Ray Data share the CPUs by what its autoscaler's books say.
    is_plain = own_ray and job.manifest.image.storage != "encoded"
    return (OwnRayTrainer if is_plain else TorchTrainer)(
        ray_group.run,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            # Never a name it has seen: it would go on, without a word, from what it knows of that name.
            name=job.attempt,
            storage_path=storage.parent(_scratch(job)),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[_Failures(job)],
            worker_runtime_env={"env_vars": dict(environment)} if environment else None,
        ),
    )


_SCRATCH = "ray"


def _scratch(job: TrainJob) -> str:
    """Where Ray Train writes; nothing of it is read again."""
    return storage.join(job.run_folder, _SCRATCH, job.attempt)


def _clear(run_folder: str) -> None:
    """Remove what earlier tries at the run have left beside their results; one that was killed has removed nothing."""
    journal.clear_events(run_folder)
    forget_all(run_folder)
    storage.remove(storage.join(run_folder, _SCRATCH))


def _failure(job: TrainJob, error: Exception) -> CnnjobError:
    """The error for people: ours where a worker raised one of ours, else what the ranks failed with."""
    by_rank: dict[int, Exception] = getattr(error, "worker_failures", {})
    if ours := _one_of_ours([*by_rank.values(), getattr(error, "controller_failure", None)]):
        return ours
    said = "; ".join(f"rank {rank}: {what.rstrip('.')}" for rank, what in _said(by_rank).items())
    likely = _OF_MEMORY if any(_has_died(each) and _NODE_DIED not in str(each) for each in by_rank.values()) else ""
    return TrainingError(
        f"training of {job.config.name} failed: {said or error}. {likely}"
        f"Run the same command again to go on from the last checkpoint in {job.run_folder}."
    )


_NODE_DIED = "its node has died"
"""What Ray says of a worker's process where the whole machine is gone."""
_OF_MEMORY = (
    "A process that dies without a word has most likely been ended for want of memory (the system's log, dmesg, says "
    "so). Lower cache_bytes_per_worker, which this run may go on with; else, under another name, global_batch_size or "
    "num_workers, or the size of the net. "
)


def _said(by_rank: Mapping[int, Exception]) -> dict[int, str]:
    """What the ranks failed with; where processes have died, of those alone: the others fail because they have."""
    died = {rank: error for rank, error in by_rank.items() if _has_died(error)}
    return {rank: _told(error) for rank, error in sorted((died or by_rank).items())}


def _has_died(error: Exception) -> bool:
    """Whether a worker's process is gone; Ray Train, which looks after it, wraps what it finds then."""
    return isinstance(_found(error), ActorDiedError | OutOfMemoryError)


def _found(error: Exception) -> Exception:
    found: Exception = getattr(error, "health_check_failure", error)
    return found


def _told(error: Exception) -> str:
    if isinstance(_found(error), OutOfMemoryError):
        return "Ray ended its process, since the memory of its machine ran out"
    if not _has_died(error):
        return _last_line(error)
    # Ray's own words are a page on what may have been.
    return _NODE_DIED if _NODE_DIED in str(error) else "its process died"


def _one_of_ours(errors: Iterable[BaseException | None]) -> CnnjobError | None:
    """The first error of our family among some, or among what they were raised from."""
    for error in errors:
        inner = error
        while inner is not None:
            if isinstance(inner, CnnjobError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    return None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
