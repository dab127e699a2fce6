"""The workers of a run as one of them sees them: its rank, and what all of them agree on.

``Group`` is all that a worker needs of Ray Train (``ray_group``); tests form groups of bare processes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cnnjob.training.averaging import Averaging, average_bucket, gathered, make_averaging
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


def averaging_of(module: nn.Module, group: Group) -> Averaging | None:
    """What averages the gradients of a module on CPUs; None for a group of one, and on GPUs, where NCCL does."""
    if group.place.world_size == 1 or group.device.type == "cuda":
        return None
    return make_averaging(group.place, sum(parameter.numel() for parameter in module.parameters()))


def distribute(module: nn.Module, group: Group, averaging: Averaging | None) -> nn.Module:
    """The module, wrapped so that a backward pass averages gradients over the group; as it is for a group of one.

    On CPUs ``averaging`` does it, to the same bits wherever the ranks run. On GPUs NCCL does; without
    ``find_unused_parameters`` DDP rebuilds its buckets once in each process then, and with them the order of
    summation: a restarted run would differ in the last bits (DESIGN.md, "Decisions").
    """
    if group.place.world_size == 1:
        return module
    model = DistributedDataParallel(
        module,
        device_ids=None if averaging else [group.device],
        broadcast_buffers=False,
        find_unused_parameters=averaging is None,
        gradient_as_bucket_view=True,
    )
    if averaging:
        model.register_comm_hook(averaging, average_bucket)
    return model


def gather(value: Any, place: Place) -> list[Any]:
    """Every rank's value, in rank order, on every rank; also for a group of one, which has no process group."""
    return [value] if place.world_size == 1 else gathered(value, place)


def agreement(place: Place, ask: Callable[[], bool], averaging: Averaging | None) -> Callable[[], bool]:
    """A function that is called before each step, and says on every rank alike whether what is asked is so on rank 0.

    It makes nobody wait: the answer is that to a question of a step before. So a run that is told to end each time it
    is begun still comes on, by a step.
    """
    if place.world_size == 1:
        return _Alone(ask)
    asked = ask if place.rank == 0 else _nothing
    return _WithGradients(asked, averaging) if averaging else _Beside(asked)


def _nothing() -> bool:
    return False


class _Alone:
    """The question of a rank that is asked by nobody else."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._asked = False

    def __call__(self) -> bool:
        before, self._asked = self._asked, self._ask()
        return before


class _WithGradients:
    """The question travels with the gradients of each step."""

    def __init__(self, ask: Callable[[], bool], averaging: Averaging) -> None:
        self._ask = ask
        self._averaging = averaging

    def __call__(self) -> bool:
        self._averaging.asks = self._ask()
        return self._averaging.asked


EVERY = 4
"""Steps between two questions beside the gradients: one in each step cost some 5 % of the default net's speed."""


class _Beside:
    """Where NCCL averages gradients, the question travels beside a step's arithmetic, every ``EVERY`` steps.

    It has a group of its own on the CPU: no message to a GPU.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._group = dist.new_group(backend="gloo")
        self._steps = 0
        self._travelling: tuple[dist.Work, torch.Tensor] | None = None

    def __call__(self) -> bool:
        before, self._travelling = self._travelling, None if self._steps % EVERY else self._send()
        self._steps += 1
        if before is None:
            return False
        work, answer = before
        work.wait()
        return bool(answer.item())

    def _send(self) -> tuple[dist.Work, torch.Tensor]:
        flag = torch.tensor(int(self._ask()), dtype=torch.int32)
        return dist.broadcast(flag, src=0, group=self._group, async_op=True), flag
