"""Ray Train, as thin as it goes: start the workers, follow the journal, hand back the best weights."""

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cnnjob.errors import CnnjobError, TrainingError
from cnnjob.models.cnn import Classifier, build
from cnnjob.training import checkpoint as checkpoints
from cnnjob.training import worker
from cnnjob.training.checkpoint import Progress
from cnnjob.training.journal import JournalCallback, read_journal
from cnnjob.training.worker import TrainJob

JOURNAL_POLL_S = 0.2


def threads_of(cpus_per_worker: float) -> int:
    """Threads of a worker that reserves so many CPUs: whole ones, at least one."""
    return max(1, math.floor(cpus_per_worker))


def fit(job: TrainJob, environment: Mapping[str, str], on_entry: Callable[[dict[str, Any]], None]) -> None:
    """Train to the last epoch, going on from the newest checkpoint. A Ray session must be open.

    Args:
        job: What to train.
        environment: Variables that the workers need beside those they have.
        on_entry: Called with each entry of the journal, once, in order, from another thread.

    Raises:
        TrainingError: Workers failed more often than ``max_failures``.
    """
    config = job.config
    trainer = TorchTrainer(
        worker.run,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=config.storage,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[JournalCallback(job.run_folder)],
            worker_runtime_env={"env_vars": dict(environment)} if environment else None,
        ),
    )
    with _Follower(job.run_folder, on_entry):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _failure(job, error) from error


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


class _Follower:
    """Hands over the journal's entries while training runs, and what is left of them when it ends."""

    def __init__(self, run_folder: str, on_entry: Callable[[dict[str, Any]], None]) -> None:
        self._run_folder = run_folder
        self._on_entry = on_entry
        self._seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="journal", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._hand_over()

    def _follow(self) -> None:
        while not self._stop.wait(JOURNAL_POLL_S):
            self._hand_over()

    def _hand_over(self) -> None:
        for entry in read_journal(self._run_folder, self._seen):
            self._on_entry(entry)


def _failure(job: TrainJob, error: Exception) -> CnnjobError:
    """The error for people: ours where a worker raised one of ours, else what the first rank said."""
    by_rank: dict[int, Exception] = getattr(error, "worker_failures", {})
    for cause in by_rank.values():
        inner: BaseException | None = cause
        while inner is not None:
            if isinstance(inner, CnnjobError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    said = "; ".join(f"rank {rank}: {str(cause).strip().splitlines()[-1]}" for rank, cause in sorted(by_rank.items()))
    return TrainingError(
        f"training of {job.config.name} failed: {said or error}. "
        f"Run the same command again to go on from the last checkpoint in {job.run_folder}."
    )
