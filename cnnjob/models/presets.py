"""Nets by name. A preset leaves the image's shape and the number of classes to the data set."""

from cnnjob.config.train import ModelConfig
from cnnjob.models.spec import Block, Net

_BLOCKS = {"default": (Block(16, padding=1, pool=2), Block(32, padding=1, pool=2))}
_HIDDEN: dict[str, tuple[int, ...]] = {"default": (64,)}


def net_for(config: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> Net:
    """The net that ``config`` asks for, on images of ``shape`` (channels, height, width)."""
    if config.spec is None:
        assert config.preset is not None, "config.train.one_net lets exactly one through"
        return Net(shape, num_classes, _BLOCKS[config.preset], _HIDDEN[config.preset])
    blocks = tuple(Block(**block.model_dump()) for block in config.spec.blocks)
    return Net(shape, num_classes, blocks, config.spec.hidden, config.spec.dropout)
