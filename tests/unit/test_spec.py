import json
import re
from dataclasses import asdict
from itertools import pairwise

import pytest

from cnnjob.config.train import BlockConfig, ModelConfig, NetConfig
from cnnjob.errors import ModelError
from cnnjob.models.presets import PRESETS, net_for, net_of
from cnnjob.models.spec import Block, Net, features_of, stages
from cnnjob.models.trace import trace

DEFAULT = net_for(ModelConfig(preset="default"), (3, 32, 32), 10)


def test_default_net_has_its_parameters():
    """The default preset on 3x32x32 and 10 classes has 136,874 parameters and flattens to 2048 features."""
    assert trace(DEFAULT).parameters == 136_874
    assert features_of(DEFAULT) == 2048


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
    ("blocks", "layer", "before", "after"),
    [
        ((Block(4, kernel=9),), "conv1", "8x12", "0x4"),
        ((Block(4), Block(4, pool=3), Block(4, kernel=5)), "conv3", "1x2", "0x0"),
        ((Block(4, padding=1), Block(4, kernel=3, stride=4, pool=3)), "pool2", "2x3", "0x1"),
        ((Block(4, kernel=10, padding=0, stride=8),), "conv1", "8x12", "0x1"),
    ],
)
def test_impossible_nets_name_the_layer_and_the_sizes(blocks, layer, before, after):
    """A net whose maps shrink to nothing is refused: the first layer that does it, the sizes before and after it."""
    with pytest.raises(ModelError, match=f"^{layer}: .* makes maps of {after} from maps of {before}; "):
        stages(Net((3, 8, 12), 10, blocks))


@pytest.mark.parametrize(
    ("preset", "shape", "classes", "features", "parameters"),
    [
        ("default", (3, 32, 32), 10, 2048, 136_874),
        ("simple", (3, 32, 32), 10, 8 * 16 * 16, (27 + 1) * 8 + 2049 * 10),
        ("net", (3, 32, 32), 10, 16 * 15 * 15, (27 + 1) * 16 + 3601 * 10),
        ("cnn64", (3, 64, 64), 5, 20 * 13 * 13, 76 * 10 + 251 * 20 + 3381 * 50 + 51 * 5),
    ],
)
def test_presets_have_their_sizes(preset, shape, classes, features, parameters):
    """Each preset on the images it is drawn with has the flatten size and the parameters that follow by hand."""
    assert (PRESETS[preset].shape, PRESETS[preset].num_classes) == (shape, classes)
    net = net_for(ModelConfig(preset=preset), shape, classes)
    assert features_of(net) == features
    assert trace(net).parameters == parameters


@pytest.mark.parametrize(
    ("preset", "shape", "stated", "words"),
    [
        ("cnn64", (3, 64, 64), 20 * 12 * 12, "flatten_features is 2880 (20x12x12), but the maps are 20x13x13 = 3380"),
        ("cnn64", (3, 64, 64), 20 * 14 * 14, "flatten_features is 3920 (20x14x14), but the maps are 20x13x13 = 3380"),
        ("default", (3, 32, 32), 2047, "flatten_features is 2047, but the maps are 32x8x8 = 2048"),
    ],
)
def test_a_wrong_flatten_size_is_told_with_the_right_one(preset, shape, stated, words):
    """A stated flatten size that is not that of the maps is refused with both products."""
    blocks = PRESETS[preset].blocks
    with pytest.raises(ModelError, match=re.escape(words)):
        stages(Net(shape, 5, blocks, flatten_features=stated))
    assert stages(Net(shape, 5, blocks, flatten_features=features_of(Net(shape, 5, blocks))))


def test_a_convolution_without_padding_shrinks_the_maps():
    """Ten maps stated as 32x32 are 31x31 after a 3x3 convolution without padding on 64x64; the error says so."""
    spec = NetConfig(blocks=(BlockConfig(filters=10, pool=2),), flatten_features=10 * 32 * 32)
    with pytest.raises(ModelError, match=r"10240 \(10x32x32\), but the maps are 10x31x31 = 9610"):
        stages(net_for(ModelConfig(spec=spec), (3, 64, 64), 5))


def test_a_described_net_is_the_net():
    """What a bundle keeps of a net, through JSON, is the same net."""
    net = net_for(ModelConfig(preset="cnn64"), (3, 64, 64), 5)
    assert net_of(json.loads(json.dumps(asdict(net)))) == net


@pytest.mark.parametrize(("shape", "classes"), [((0, 8, 8), 10), ((3, 0, 8), 10), ((3, 8, 8), 1)])
def test_impossible_data_are_refused(shape, classes):
    """Images without pixels and a single class are refused."""
    with pytest.raises(ModelError):
        stages(Net(shape, classes, (Block(4, kernel=1),)))
