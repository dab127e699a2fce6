"""What a training holds in memory at least, by arithmetic: one that cannot fit is refused before any work.

Counted is what is there for certain, without what Python, torch and Ray take themselves: nothing that fits is refused.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest
from cnnjob.errors import ResourceError
from cnnjob.models.spec import FLOAT_BYTES, Net, stages
from cnnjob.models.trace import trace
from cnnjob.training.feed import feed_of
from cnnjob.training.order import share

_GB = 1e9
_HALF_BYTES = 2
"""Of a bfloat16 number."""


@dataclass(frozen=True)
class Held:
    """Bytes of a run's processes.

    Attributes:
        parameters: Of the net, a number and not bytes.
        copies: What of the size of the net a worker holds all the time: what it is, and how many copies.
        rows: Of a worker: its rows, or what streaming them holds.
        maps: Of a worker in a step: the input and the maps of its pictures, which the backward pass needs.
        checkpoint: Of rank 0 while it writes a checkpoint: a copy of the weights, and the largest file.
        workers: How many there are.
    """

    parameters: int
    copies: dict[str, int]
    rows: int
    maps: int
    checkpoint: int
    workers: int

    @property
    def state(self) -> int:
        """Of a worker: all that is trained."""
        return self.parameters * FLOAT_BYTES * sum(self.copies.values())

    @property
    def at_once(self) -> int:
        """Of all workers together. No step is done while a checkpoint is written."""
        return self.workers * (self.state + self.rows) + max(self.workers * self.maps, self.checkpoint)


def held(config: TrainConfig, manifest: Manifest, net: Net) -> Held:
    """What the processes of a run hold in the memory of their machines; with GPUs, most is in theirs."""
    parameters = trace(net).parameters
    moments = 1 if config.optimizer.name == "sgd" else 2
    best = {"best epoch's weights": 1} if config.num_epochs > 1 else {}
    copies = {
        "weights": 1,
        "gradients": 1,
        f"{config.optimizer.name}'s moments": moments,
        **({"moving average": 1} if config.optimizer.ema_decay else {}),
    }
    rows = share(min(config.global_batch_size, manifest.splits["train"].rows), 0, config.num_workers)
    number = _HALF_BYTES if config.precision == "bf16" else FLOAT_BYTES
    return Held(
        parameters=parameters,
        copies=best if config.use_gpu else copies | best,
        rows=feed_of(config, manifest).held,
        maps=0 if config.use_gpu else rows * number * _kept_numbers(net),
        checkpoint=parameters * FLOAT_BYTES * (1 + moments),
        workers=config.num_workers,
    )


def check_fits(config: TrainConfig, manifest: Manifest, net: Net, memory: int) -> None:
    """Compare what a run holds with the memory of the machine that all of its workers run on.

    Args:
        config: The run's config.
        manifest: The data set's.
        net: The net.
        memory: In bytes.

    Raises:
        ResourceError: There is less than the run holds at least; with the arithmetic.
    """
    needed = held(config, manifest, net)
    if needed.at_once > memory:
        raise ResourceError(
            f"training {config.name} takes at least {_gb(needed.at_once)} of memory, and this machine has "
            f"{_gb(memory)}: {'; '.join(_told(needed))}. {_advice(needed)}."
        )


def _kept_numbers(net: Net) -> int:
    """Numbers that a picture leaves for the backward pass: the input, and of each block a map before its pool."""
    return sum(math.prod(stage.shape_out) for stage in stages(net) if stage.kind in ("normalize", "conv"))


def _told(needed: Held) -> Iterator[str]:
    copies = " + ".join(f"{count} {what}" for what, count in needed.copies.items())
    each = [f"{_gb(needed.rows)} of rows"]
    if copies:
        each.insert(0, f"{needed.parameters:,} parameters x {FLOAT_BYTES} bytes x ({copies}) = {_gb(needed.state)}")
    yield f"{needed.workers} worker{'s' * (needed.workers > 1)} x ({' + '.join(each)})"
    if needed.workers * needed.maps > needed.checkpoint:
        yield f"in a step {needed.workers} x {_gb(needed.maps)} of maps"
    else:
        yield f"while a checkpoint is written {_gb(needed.checkpoint)} more"


def _advice(needed: Held) -> str:
    """What to change first: what takes most."""
    net = "Use a net with fewer parameters (narrower hidden layers, more pooling before them)"
    parts = {
        net: needed.state,
        "Lower cache_bytes_per_worker": needed.rows,
        "Lower global_batch_size": needed.maps,
    }
    fewer = ", lower num_workers" if needed.workers > 1 else ""
    return f"{max(parts, key=lambda key: parts[key])}{fewer}, or train on a machine with more memory"


def _gb(size: int) -> str:
    return f"{size / _GB:,.2f} GB"
