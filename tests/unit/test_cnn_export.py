import copy
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from cnnjob.errors import ExportError
from cnnjob.models.bundle import GRAPH_INPUT, GRAPH_PREDICTION, GRAPH_PROBABILITIES
from cnnjob.models.cnn import Normalize, build
from cnnjob.models.export import check_parity, export_onnx, weights
from cnnjob.models.spec import Block, Net
from tests.helpers import default_net, rows_of

NET = Net((3, 12, 12), 4, (Block(5, padding=1, pool=2), Block(6, pool=3)), (7,))
STATISTICS = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))


@pytest.fixture(scope="module")
def images(digits) -> np.ndarray:
    """Real rows: the digits' test split."""
    return rows_of(digits.path, digits.manifest, "test").images


@pytest.fixture(scope="module")
def graph(bundle) -> bytes:
    return bundle.files["model.onnx"]


def outputs(graph: bytes, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run([GRAPH_PROBABILITIES, GRAPH_PREDICTION], {GRAPH_INPUT: images})


def relu_before_pool(module: nn.Sequential) -> nn.Sequential:
    """The same layers with each pool after its ReLU, as people draw it."""
    layers = list(module)
    for k in range(len(layers) - 1):
        if isinstance(layers[k], nn.MaxPool2d) and isinstance(layers[k + 1], nn.ReLU):
            layers[k], layers[k + 1] = layers[k + 1], layers[k]
    return nn.Sequential(*layers)


def test_pool_before_relu_changes_nothing():
    """Pooling before the ReLU gives the same values and the same gradients, to the bit."""
    features = build(NET, *STATISTICS, seed=1).features
    drawn = relu_before_pool(features)
    assert [type(layer) for layer in drawn[:3]] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert [type(layer) for layer in features[:3]] == [nn.Conv2d, nn.MaxPool2d, nn.ReLU]
    images = torch.randn((6, 3, 12, 12), generator=torch.Generator().manual_seed(0))
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    found, expected = features(ours), drawn(theirs)
    assert torch.equal(found, expected)
    parameters = list(features.parameters())
    weighting = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((found * weighting).sum(), [ours, *parameters])
    wanted = torch.autograd.grad((expected * weighting).sum(), [theirs, *parameters])
    assert all(torch.equal(a, b) for a, b in zip(grads, wanted, strict=True))


def test_normalization_follows_its_definition():
    """Normalizing is value / 255, minus the mean, over the standard deviation, a channel each."""
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 2, 2) * 10
    mean, std = (np.array(each).reshape(1, 3, 1, 1) for each in STATISTICS)
    expected = (images.numpy() / 255 - mean) / std
    assert np.allclose(Normalize(*STATISTICS)(images).numpy(), expected, atol=1e-6)


def test_channel_without_variation_is_only_centred():
    """A channel whose standard deviation is 0 is centred and stays finite."""
    found = Normalize((0.5,), (0.0,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    assert found.flatten().tolist() == [-0.5, 0.5]


def test_seed_decides_the_weights():
    """The same seed builds the same weights, another seed others; torch's own generator is left alone."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (build(NET, *STATISTICS, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_graph_equals_the_module_on_real_rows(graph, trained, images):
    """On real rows the graph's probabilities differ from the module's by at most 1e-5."""
    with torch.inference_mode():
        expected = torch.softmax(trained(torch.from_numpy(images)), dim=1).numpy()
    found = outputs(graph, images)[0]
    assert len(images) > 100
    assert np.abs(found - expected).max() <= 1e-5
    assert check_parity(graph, trained, images) == np.abs(found - expected).max()


def test_probabilities_sum_to_one(graph, images):
    """Each row's probabilities are between 0 and 1 and sum to 1 within 1e-5."""
    found = outputs(graph, images)[0]
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-5
    assert ((found >= 0) & (found <= 1)).all()


def test_prediction_is_the_name_of_the_likeliest_class(graph, digits, images):
    """The graph's second output is the class name of the largest probability."""
    probabilities, prediction = outputs(graph, images)
    names = np.array(digits.manifest.class_names)
    assert prediction.tolist() == names[probabilities.argmax(axis=1)].tolist()
    assert len(set(prediction.tolist())) > 5


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 151])
def test_batch_is_free(graph, images, rows):
    """A batch of any size gives each row the same bits as a batch of all rows."""
    assert np.array_equal(outputs(graph, images[:rows])[0], outputs(graph, images)[0][:rows])


def test_batch_of_no_rows(graph, images):
    """A batch of no rows has no probabilities."""
    assert outputs(graph, images[:0])[0].shape == (0, 10)


def test_input_is_uint8_images(graph):
    """The graph has one input, uint8, with the batch free and the image's shape fixed."""
    (found,) = onnxruntime.InferenceSession(graph).get_inputs()
    assert (found.name, found.type) == (GRAPH_INPUT, "tensor(uint8)")
    assert isinstance(found.shape[0], str)
    assert found.shape[1:] == [3, 32, 32]


def test_graph_has_no_path_of_this_machine(graph):
    """The file names no folder and no source file: it does not tell where it was made."""
    folders = {str(Path(__file__).parents[2]), str(Path(torch.__file__).parent), str(Path.home())} - {"/"}
    assert not [folder for folder in folders if folder.encode() in graph]
    assert not re.search(rb"\w+\.py\b|site-packages", graph)


def test_two_exports_have_the_same_bytes(graph, trained, digits):
    """Exporting the same module again gives the same bytes."""
    assert export_onnx(trained, digits.manifest.image.shape, digits.manifest.class_names) == graph


def test_export_leaves_the_weights_alone(graph, bundle, trained):
    """After its export a module still has the weights that the bundle holds."""
    exported = load_safetensors(bundle.files["model.safetensors"])
    assert all(torch.equal(exported[name], tensor) for name, tensor in trained.state_dict().items())
    assert trained.features[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_graph_rectifies_where_it_convolves(graph):
    """Each convolution of the graph is followed by its ReLU, and the scale of the normalization is in its weights."""
    nodes = onnx.load_from_string(graph).graph.node
    after = [following.op_type for node, following in pairwise(nodes) if node.op_type == "Conv"]
    assert after == ["Relu", "Relu"]
    assert "Mul" not in {node.op_type for node in nodes}


def test_class_names_may_be_any_text():
    """Class names beyond ASCII come out of the graph as they went in."""
    net = Net((1, 6, 6), 3, (Block(2, kernel=3),))
    names = ("Käfer", "蝶", "a b")
    graph = export_onnx(build(net, (0.5,), (0.2,), seed=0), net.shape, names)
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 6, 6), dtype=np.uint8)
    assert set(outputs(graph, images)[1].tolist()) <= set(names)


def test_graph_of_another_module_is_refused(graph, digits, images):
    """A graph that disagrees with the module on real rows is an ExportError."""
    statistics = digits.manifest.statistics
    other = build(default_net(digits.manifest), statistics.mean, statistics.std, seed=9)
    with pytest.raises(ExportError, match="differ by"):
        check_parity(graph, other, images)


def test_not_a_number_is_refused(graph, trained, images):
    """A module that gives no number at all is refused too."""
    broken = copy.deepcopy(trained)
    with torch.no_grad():
        broken.head[-1].bias[0] = float("nan")
    with pytest.raises(ExportError):
        check_parity(graph, broken, images[:4], batch_size=2)


def test_weights_are_all_there(trained):
    """The safetensors hold every tensor of the module, the normalization's included."""
    found = load_safetensors(weights(trained))
    state = trained.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert {"normalize.mean", "normalize.std"} <= found.keys()


def test_graph_is_one_file(graph):
    """All weights are inside the graph's file: it refers to no other."""
    model = onnx.load_from_string(graph)
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    assert [output.name for output in model.graph.output] == [GRAPH_PROBABILITIES, GRAPH_PREDICTION]
