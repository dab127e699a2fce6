"""Nets by name. A preset leaves the image's shape and the number of classes to the data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnnjob.config.train import MAX_PARAMETERS, ModelConfig
from cnnjob.errors import ModelError
from cnnjob.models.spec import Block, Net
from cnnjob.models.trace import trace


@dataclass(frozen=True)
class Preset:
    """A net by name.

    Attributes:
        blocks: The convolutional part.
        hidden: Widths of the hidden layers.
        shape: Channels, height, width of the images it is usually drawn with.
        num_classes: Classes it is usually drawn with.
    """

    blocks: tuple[Block, ...]
    hidden: tuple[int, ...] = ()
    shape: tuple[int, int, int] = (3, 32, 32)
    num_classes: int = 10


PRESETS = {
    "default": Preset((Block(16, padding=1, pool=2), Block(32, padding=1, pool=2)), (64,)),
    "simple": Preset((Block(8, padding=1, pool=2),)),
    "net": Preset((Block(16, pool=2),)),
    "cnn64": Preset((Block(10, kernel=5, pool=2), Block(20, kernel=5, pool=2)), (50,), (3, 64, 64), 5),
}


def net_for(config: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> Net:
    """The net that ``config`` asks for, on images of ``shape`` (channels, height, width).

    Raises:
        ModelError: It cannot be built for such images, or has more than ``MAX_PARAMETERS`` with them.
    """
    if config.spec is None:
        assert config.preset is not None, "config.train.one_net lets exactly one through"
        preset = PRESETS[config.preset]
        net = Net(shape, num_classes, preset.blocks, preset.hidden)
    else:
        spec = config.spec
        blocks = tuple(Block(**block.model_dump()) for block in spec.blocks)
        net = Net(shape, num_classes, blocks, spec.hidden, spec.dropout, spec.flatten_features)
    found = trace(net)
    if found.parameters > MAX_PARAMETERS:
        largest = max(found.stages, key=lambda stage: stage.parameters)
        raise ModelError(
            f"{found.parameters:,} parameters on images of {'x'.join(map(str, shape))}, and a net may have "
            f"{MAX_PARAMETERS:,}; {largest.name} has {largest.parameters:,} of them, for {largest.does}. Use more "
            f"pooling before it, fewer filters or narrower hidden layers, or prepare smaller images"
        )
    return net


def net_of(architecture: Mapping[str, Any]) -> Net:
    """The net that ``model.json`` describes: a ``Net`` as plain values."""
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in architecture.items()}
    return Net(**{**plain, "blocks": tuple(Block(**block) for block in architecture["blocks"])})
