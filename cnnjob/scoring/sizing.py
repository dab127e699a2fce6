"""How many processes score, and how many images go into one call of the graph: by the hardware, by one rule.

On CPUs a process has one thread, since two processes of one are faster than one of two, and there are as many as the
CPUs hold. A batch is the largest power of two whose largest map fits in ``CACHE_BYTES``: larger ones wait for memory
(with images of 224 x 224, batches of 128 ran at a third of the speed of batches of 4), smaller ones pay for each call.
On GPUs there is a process for each, and a batch is as large as its memory bears. The config may say otherwise.
"""

from dataclasses import dataclass
from math import prod

from cnnjob.config.score import EngineConfig
from cnnjob.models.spec import FLOAT_BYTES, Net, batch_within, largest_map, stages

CACHE_BYTES = 1 << 20
"""What a batch's largest map should fit into, on a CPU: a core's own cache; measured, see DESIGN.md."""

CPU_BATCHES = (4, 64)
"""Least and most images in a batch on a CPU. With 8 at least, images of 64 to 96 pixels a side would be 5 % faster, and
large ones take twice the memory."""

GPU_BATCHES = (1, 4096)
GPU_SHARE = 1 / 8
"""Of a GPU's memory, for one batch's input and output of its largest stage; convolutions need room to work."""


@dataclass(frozen=True)
class Sizes:
    """What a job's arithmetic takes.

    Attributes:
        processes: That score at once.
        threads: Of each.
        batch_size: Images in one call; None: by the memory of the GPU, which only its process sees.
        use_gpu: Whether each has a GPU.
        bf16: Whether it calculates in bfloat16.
    """

    processes: int
    threads: int
    batch_size: int | None
    use_gpu: bool
    bf16: bool

    def __str__(self) -> str:
        """As people are told."""
        batch = f"batches of {self.batch_size}" if self.batch_size else "batches by its memory"
        precision = "bf16" if self.bf16 else "fp32"
        each = f"with a GPU each, {precision}" if self.use_gpu else f"of {_of(self.threads, 'thread')}"
        return f"{_of(self.processes, 'process')} {each}, {batch}"


def sizes_of(config: EngineConfig, net: Net, *, units: int, cpus: int, gpus: int) -> Sizes:
    """What the config says, and for the rest what the hardware holds: no more processes than there are units."""
    fitting = max(1, gpus if config.use_gpu else cpus // config.threads_per_process)
    return Sizes(
        processes=max(1, min(units, config.num_processes or fitting)),
        threads=config.threads_per_process,
        batch_size=config.batch_size_per_process or (None if config.use_gpu else cpu_batch_size(net)),
        use_gpu=config.use_gpu,
        bf16=config.precision == "bf16",
    )


def cpu_batch_size(net: Net) -> int:
    """Images in a batch on a CPU: a power of two."""
    return batch_within(CACHE_BYTES, FLOAT_BYTES * largest_map(net), CPU_BATCHES)


def gpu_batch_size(net: Net, memory_bytes: int) -> int:
    """Images in a batch on a GPU with so much memory: a power of two."""
    largest = max(prod(stage.shape_in) + prod(stage.shape_out) for stage in stages(net))
    return batch_within(int(memory_bytes * GPU_SHARE), FLOAT_BYTES * largest, GPU_BATCHES)


def _of(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"
