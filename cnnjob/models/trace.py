"""What a net does, stage by stage, as values that a command can print."""

from dataclasses import dataclass

from cnnjob.models.spec import Net, Stage, stages


@dataclass(frozen=True)
class Trace:
    """The stages of a net in logical order, with their sums."""

    stages: tuple[Stage, ...]
    parameters: int
    flops: int


def trace(net: Net) -> Trace:
    """Trace a net by arithmetic alone; no weights are needed.

    Raises:
        ModelError: The net is impossible; the message names the layer.
    """
    found = tuple(stages(net))
    return Trace(found, sum(stage.parameters for stage in found), sum(stage.flops for stage in found))
