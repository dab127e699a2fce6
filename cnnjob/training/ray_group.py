"""The function that Ray Train calls on every worker: a ``Group`` made of Ray Train's context."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import ray.train
import ray.train.torch
import torch

from cnnjob.data.spread import spread
from cnnjob.training.feed import Place
from cnnjob.training.worker import TrainJob, Worker


class RayGroup:
    """The workers that Ray Train started; it has set up torch's process group (Gloo on CPUs, NCCL on GPUs)."""

    @cached_property
    def place(self) -> Place:
        """Where this worker stands."""
        context = ray.train.get_context()
        return Place(context.get_world_rank(), context.get_world_size())

    @cached_property
    def device(self) -> torch.device:
        """Where this worker computes."""
        device: torch.device = ray.train.torch.get_device()
        return device

    def spread(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """With Ray Data, on the CPUs of ``data_cpus``; the ranks' tasks take turns on them."""
        return spread(function, list(items), ordered=True)


def run(loop_config: dict[str, TrainJob]) -> None:
    """Train the job on this worker."""
    Worker(loop_config["job"], RayGroup()).run()
