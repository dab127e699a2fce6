"""Groups of bare worker processes: the product's worker without Ray, and what Ray Train does when one of them dies.

Processes are forked from a server that has imported torch, and the compiler that its optimizers import. So a group
starts in a fraction of a second, and a test can kill one at every step of a run.
"""

import dataclasses
import json
import os
import signal
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch._inductor
import torch.distributed as dist

from cnnjob import phases
from cnnjob.models.spec import Net
from cnnjob.training import checkpoint, feed, journal
from cnnjob.training.checkpoint import Checkpoint
from cnnjob.training.feed import Place
from cnnjob.training.order import WINDOW_BYTES
from cnnjob.training.worker import TrainJob, Worker
from tests.forked import PROCESSES
from tests.helpers import Dataset, small_net, train_config

MAX_STARTS = 60
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class BareGroup:
    """A group of processes that nobody but the test has started."""

    place: Place

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def spread(self, function: Any, items: Any) -> Any:
        """Here, one after another."""
        return map(function, items)


@dataclass(frozen=True)
class Ended:
    """A run that came to its end, or was stopped: how often it was started, and what it left."""

    starts: int
    checkpoint: Checkpoint
    entries: list[dict[str, Any]]

    @property
    def figures(self) -> list[Any]:
        """What was counted in each epoch, and on the test split: all that must not depend on what happened."""
        epochs = [[entry[name] for name in FIGURES] for entry in self.entries if entry["kind"] == journal.EPOCH]
        return [*epochs, *[e["evaluation"] for e in self.entries if e["kind"] == journal.TEST]]

    @property
    def tensors(self) -> dict[tuple[str | int, str], torch.Tensor]:
        """All that was trained: weights, those of the best epoch, moving average, and what the optimizer keeps."""
        kept = self.checkpoint
        groups = {"weights": kept.weights, "best": kept.best, "average": kept.average, **kept.optimizer["state"]}
        return {(group, name): tensor for group, tensors in groups.items() for name, tensor in tensors.items()}

    def same_as(self, other: "Ended") -> bool:
        """Whether the two left the same bits."""
        mine, theirs = self.tensors, other.tensors
        equal = mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        progress = dataclasses.replace(self.checkpoint.progress, run_id=other.checkpoint.progress.run_id)
        return equal and self.figures == other.figures and progress == other.checkpoint.progress


def job_of(dataset: Dataset, run_folder: Path, net: Net | None = None, **config: Any) -> TrainJob:
    """A job of a net, by default a small one, on a data set."""
    net = net or small_net(dataset.manifest, dropout=0.25)
    return TrainJob(
        train_config(dataset, **config), dataset.manifest, net, str(run_folder), "run", 1, 0.0, {}, "attempt"
    )


def worker_of(job: TrainJob) -> Worker:
    """The one worker of a job, in this process."""
    assert job.config.num_workers == 1
    return Worker(job, BareGroup(Place(0, 1)))


def left_by(run_folder: str, starts: int = 1) -> Ended:
    """What a run has left."""
    found, damaged = checkpoint.latest(run_folder)
    assert found is not None, damaged
    assert not damaged
    return Ended(starts, found, list(journal.read(run_folder, set())))


def run(job: TrainJob, faults: list[dict[str, Any]] | None = None, *, window_bytes: int = WINDOW_BYTES) -> Ended:
    """Run a job on a group of processes; where one dies, all are started again.

    Args:
        job: The job.
        faults: Where processes are killed.
        window_bytes: Of pixels in a window: with few of them a small data set has many windows.
    """
    for starts in range(1, MAX_STARTS + 1):
        if _run_once(job, faults or [], window_bytes):
            return left_by(job.run_folder, starts)
    raise AssertionError(f"the run was started {MAX_STARTS} times and did not end")


def _run_once(job: TrainJob, faults: list[dict[str, Any]], window_bytes: int = WINDOW_BYTES) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        processes = [
            PROCESSES.Process(target=_work, args=(job, rank, store, json.dumps(faults), window_bytes), daemon=True)
            for rank in range(job.config.num_workers)
        ]
        for process in processes:
            process.start()
        waiting = {process.sentinel: process for process in processes}
        while waiting:
            for sentinel in wait(list(waiting)):
                ended = waiting.pop(sentinel)  # type: ignore[arg-type]
                ended.join()
                if ended.exitcode:
                    for other in waiting.values():
                        other.kill()
        codes = [process.exitcode for process in processes]
        # The others fail because one was killed, or are killed first.
        assert not any(codes) or -signal.SIGKILL in codes, "a worker failed by itself"
        return not any(codes)


def _work(job: TrainJob, rank: int, store: str, faults: str, window_bytes: int) -> None:
    feed.WINDOW_BYTES, feed.ARROW_BYTES = window_bytes, 0
    os.environ[phases.ENVIRONMENT] = faults
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    place = Place(rank, job.config.num_workers)
    if place.world_size > 1:
        dist.init_process_group(
            "gloo", f"file://{store}", rank=rank, world_size=place.world_size, timeout=timedelta(seconds=60)
        )
    Worker(job, BareGroup(place)).run()
    if place.world_size > 1:
        dist.destroy_process_group()
