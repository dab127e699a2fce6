"""The arithmetic of a net is what torch does with it."""

import math
from itertools import pairwise

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnjob.config.train import BlockConfig, NetConfig, least_parameters
from cnnjob.errors import ModelError
from cnnjob.models.cnn import build
from cnnjob.models.inference import Inference
from cnnjob.models.spec import Block, Net, Stage, features_of, stages
from cnnjob.models.trace import trace

blocks = st.builds(
    Block,
    filters=st.integers(1, 9),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    pool=st.integers(1, 3),
)
nets = st.builds(
    Net,
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 24), st.integers(1, 24)),
    num_classes=st.integers(2, 12),
    blocks=st.lists(blocks, min_size=1, max_size=3).map(tuple),
    hidden=st.lists(st.integers(1, 20), max_size=2).map(tuple),
    dropout=st.sampled_from([0.0, 0.5]),
)
KINDS = {nn.Conv2d: "conv", nn.MaxPool2d: "pool", nn.Linear: "linear"}


def possible(net: Net) -> list[Stage]:
    """The stages of a net, if it is one that can be."""
    assume(refused_at(net) is None)
    return stages(net)


def refused_at(net: Net) -> str | None:
    """The layer that a refusal names; None where the net is possible."""
    try:
        stages(net)
    except ModelError as error:
        return str(error).partition(":")[0]
    return None


@given(nets)
def test_no_net_has_fewer_parameters_than_its_config_says(net):
    """What a config is told to have at least is there on any images and with any classes."""
    found = possible(net)
    config = NetConfig(blocks=tuple(BlockConfig(**vars(block)) for block in net.blocks), hidden=net.hidden)
    assert least_parameters(config) <= sum(stage.parameters for stage in found)


def seen_by_hooks(net: Net) -> list[tuple[str, tuple[int, ...], int]]:
    """Kind, output shape of one image and parameters of each layer, as torch runs them."""
    module = build(net, [0.5] * net.shape[0], [0.2] * net.shape[0], seed=0).eval()
    found = []

    def hook(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        parameters = sum(parameter.numel() for parameter in layer.parameters())
        found.append((KINDS[type(layer)], tuple(output.shape[1:]), parameters))

    for layer in module.modules():
        if type(layer) in KINDS:
            layer.register_forward_hook(hook)
    module(torch.zeros((2, *net.shape), dtype=torch.uint8))
    return found


@settings(max_examples=40)
@given(nets)
def test_arithmetic_is_what_torch_does(net):
    """Of any possible net, the shapes and parameters by arithmetic are those that torch's forward hooks see."""
    expected = [(s.kind, s.shape_out, s.parameters) for s in possible(net) if s.kind in KINDS.values()]
    assert seen_by_hooks(net) == expected


@settings(max_examples=25)
@given(nets)
def test_parameters_are_torchs(net):
    """The number of parameters by arithmetic is that of the module, and its buffers are mean and deviation alone."""
    possible(net)
    module = build(net, [0.5] * net.shape[0], [0.2] * net.shape[0], seed=0)
    assert trace(net).parameters == sum(parameter.numel() for parameter in module.parameters())
    assert {name for name, _ in module.named_buffers()} == {"normalize.mean", "normalize.std"}


@settings(max_examples=25)
@given(nets)
def test_flops_are_torchs(net):
    """The operations of convolutions and linear layers by arithmetic are those that torch counts, an image."""
    expected = sum(stage.flops for stage in possible(net) if stage.kind in ("conv", "linear"))
    module = build(net, [0.5] * net.shape[0], [0.2] * net.shape[0], seed=0).eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros((3, *net.shape), dtype=torch.uint8))
    assert counter.get_total_flops() == 3 * expected


@given(nets)
def test_stages_fit_together(net):
    """Each stage begins with the shape that the one before it ended with, and no shape is empty."""
    found = possible(net)
    assert all(before.shape_out == after.shape_in for before, after in pairwise(found))
    assert all(math.prod(stage.shape_out) > 0 for stage in found)
    last = next(stage for stage in reversed(found) if len(stage.shape_out) == 3)
    assert features_of(net) == math.prod(last.shape_out)


@given(nets)
def test_what_is_refused_torch_refuses(net):
    """A net that the arithmetic refuses names its layer, and torch cannot run it to a map that is not empty."""
    assume(refused_at(net) is not None)
    assert refused_at(net).startswith(("conv", "pool"))
    maps = torch.zeros((1, *net.shape))
    try:
        for block in net.blocks:
            maps = nn.Conv2d(maps.shape[1], block.filters, block.kernel, block.stride, block.padding)(maps)
            maps = nn.MaxPool2d(block.pool)(maps)
    except RuntimeError:
        return
    assert maps.numel() == 0


@given(net=nets, seed=st.integers(0, 1000))
def test_form_for_scoring_is_the_same_function(net, seed):
    """The form that is exported gives the trained net's probabilities, borders included; the net stays as it was."""
    possible(net)
    classifier = build(net, [0.4, 0.5, 0.6][: net.shape[0]], [0.2, 0.3, 0.1][: net.shape[0]], seed=seed).eval()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    pixels = torch.randint(0, 256, (8, *net.shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    with torch.inference_mode():
        expected = torch.softmax(classifier(pixels), dim=1)
        assert torch.allclose(Inference(classifier)(pixels), expected, atol=2e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
