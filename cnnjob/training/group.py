"""The workers of a run as one of them sees them: its rank, and what all of them agree on.

``Group`` is all that a worker needs of Ray Train (``ray_group``); tests form groups of bare processes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cnnjob.training.averaging import average_bucket, averaging, gathered
from cnnjob.training.feed import Place


class Group(Protocol):
    """A group of workers, with torch's process group set up where there is more than one."""

    @property
    def place(self) -> Place:
        """Where this worker stands."""

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""

    def spread(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """A function over items on CPUs that were reserved beside the workers; results in the order of the items."""


def distribute(module: nn.Module, group: Group) -> nn.Module:
    """The module, wrapped so that a backward pass averages gradients over the group; as it is for a group of one.

    On CPUs ``averaging`` does it, to the same bits wherever the ranks run. On GPUs NCCL does; without
    ``find_unused_parameters`` DDP rebuilds its buckets once in each process then, and with them the order of
    summation: a restarted run would differ in the last bits (DESIGN.md, "Decisions").
    """
    if group.place.world_size == 1:
        return module
    on_gpu = group.device.type == "cuda"
    model = DistributedDataParallel(
        module,
        device_ids=[group.device] if on_gpu else None,
        broadcast_buffers=False,
        find_unused_parameters=on_gpu,
        gradient_as_bucket_view=True,
    )
    if not on_gpu:
        numbers = sum(parameter.numel() for parameter in module.parameters())
        model.register_comm_hook(averaging(group.place, numbers), average_bucket)
    return model


def gather(value: Any, place: Place) -> list[Any]:
    """Every rank's value, in rank order, on every rank; also for a group of one, which has no process group."""
    return [value] if place.world_size == 1 else gathered(value, place)


EVERY = 4
"""Steps between two questions: one in each step cost some 5 % of the default net's speed."""


class Agreement:
    """Asks on rank 0 and answers alike on every rank, every ``EVERY`` steps, without making anyone wait.

    A question travels beside a step's arithmetic and is answered at the next step, so all ranks leave at the same one.
    It has a group of its own on the CPU: no message to a GPU.
    """

    def __init__(self, place: Place, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._is_asker = place.rank == 0
        self._group = dist.new_group(backend="gloo") if place.world_size > 1 else None
        self._steps = 0
        self._travelling: tuple[dist.Work | None, torch.Tensor] | None = None

    def __call__(self) -> bool:
        """Whether what is asked was so on rank 0, some steps ago."""
        before, self._travelling = self._travelling, None if self._steps % EVERY else self._send()
        self._steps += 1
        if before is None:
            return False
        work, answer = before
        if work is not None:
            work.wait()
        return bool(answer.item())

    def _send(self) -> tuple[dist.Work | None, torch.Tensor]:
        flag = torch.tensor(int(self._is_asker and self._ask()), dtype=torch.int32)
        return (dist.broadcast(flag, src=0, group=self._group, async_op=True) if self._group else None), flag
