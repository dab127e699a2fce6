"""``cnnjob trace``: a net, stage by stage, by arithmetic alone."""

import math

from cnnjob.config.train import ModelConfig
from cnnjob.models.presets import net_for
from cnnjob.models.trace import Trace, trace
from pipelines.console import Console

BATCH = 1000


def run(model: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> Trace:
    """Trace the net of a config on images of ``shape``."""
    return trace(net_for(model, shape, num_classes))


def show(result: Trace, console: Console) -> None:
    """The stages as a table, shapes for a batch of 1000."""
    rows = [
        [
            stage.name,
            _shape((BATCH, *stage.shape_in)),
            _shape((BATCH, *stage.shape_out)),
            stage.parameters,
            f"{stage.flops / 1e6:.3f}",
        ]
        for stage in result.stages
    ]
    console.table(["stage", "in", "out", "parameters", "MFLOP an image"], rows)
    largest = max(math.prod(stage.shape_out) for stage in result.stages)
    console.say(f"{result.parameters:,} parameters, {result.flops / 1e6:.2f} MFLOP an image, largest map {largest:,}")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
