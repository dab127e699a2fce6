from itertools import pairwise

import pytest

from cnnjob.config.train import BlockConfig, ModelConfig, NetConfig
from cnnjob.errors import ModelError
from cnnjob.models.presets import net_for
from cnnjob.models.spec import Block, Net, flatten_features, stages
from cnnjob.models.trace import trace

DEFAULT = net_for(ModelConfig(preset="default"), (3, 32, 32), 10)


def test_default_net_has_its_parameters():
    """The default preset on 3x32x32 and 10 classes has 136,874 parameters and flattens to 2048 features."""
    assert trace(DEFAULT).parameters == 136_874
    assert flatten_features(DEFAULT) == 2048


def test_default_net_has_its_shapes():
    """The default preset's stages have the shapes that people draw, ReLU before the pool."""
    found = [(stage.kind, stage.shape_out) for stage in stages(DEFAULT)]
    assert found == [
        ("input", (3, 32, 32)),
        ("normalize", (3, 32, 32)),
        ("conv", (16, 32, 32)),
        ("relu", (16, 32, 32)),
        ("pool", (16, 16, 16)),
        ("conv", (32, 16, 16)),
        ("relu", (32, 16, 16)),
        ("pool", (32, 8, 8)),
        ("flatten", (2048,)),
        ("linear", (64,)),
        ("relu", (64,)),
        ("linear", (10,)),
        ("softmax", (10,)),
    ]


def test_default_net_has_its_work():
    """The default preset takes about 3.5 million floating point operations an image."""
    assert 3.4e6 < trace(DEFAULT).flops < 3.7e6


def test_stages_have_names_of_their_own():
    """No two stages of a net share a name, and each begins with the shape the one before ended with."""
    found = stages(DEFAULT)
    assert len({stage.name for stage in found}) == len(found)
    assert all(before.shape_out == after.shape_in for before, after in pairwise(found))


def test_trace_adds_up():
    """A trace's sums are those of its stages."""
    found = trace(DEFAULT)
    assert found.parameters == sum(stage.parameters for stage in found.stages)
    assert found.flops == sum(stage.flops for stage in found.stages)


def test_written_out_spec_is_the_preset():
    """The preset written out as a spec is the same net."""
    blocks = (BlockConfig(filters=16, padding=1, pool=2), BlockConfig(filters=32, padding=1, pool=2))
    config = ModelConfig(spec=NetConfig(blocks=blocks, hidden=(64,)))
    assert net_for(config, (3, 32, 32), 10) == DEFAULT


@pytest.mark.parametrize(
    ("blocks", "layer"),
    [
        ((Block(4, kernel=9),), "conv1"),
        ((Block(4), Block(4, pool=3), Block(4, kernel=5)), "conv3"),
        ((Block(4, padding=1), Block(4, kernel=3, stride=4, pool=4)), "pool2"),
        ((Block(4, kernel=10, padding=0, stride=8),), "conv1"),
    ],
)
def test_impossible_nets_name_the_layer(blocks, layer):
    """A net whose maps shrink to nothing is refused, naming the first layer that does not fit."""
    with pytest.raises(ModelError, match=f"^{layer}: "):
        stages(Net((3, 8, 8), 10, blocks))


@pytest.mark.parametrize(("shape", "classes"), [((0, 8, 8), 10), ((3, 0, 8), 10), ((3, 8, 8), 1)])
def test_impossible_data_are_refused(shape, classes):
    """Images without pixels and a single class are refused."""
    with pytest.raises(ModelError):
        stages(Net(shape, classes, (Block(4, kernel=1),)))
