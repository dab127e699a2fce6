"""From a trained module to the ONNX graph of a bundle, refused where the two disagree.

The graph takes uint8 images and gives ``probabilities`` (normalization and softmax inside) and ``prediction``, the
class name as a string, so that any ONNX runtime serves it without a line of ours.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from safetensors.torch import save as save_safetensors

from cnnjob.errors import ExportError
from cnnjob.models.bundle import GRAPH_INPUT, GRAPH_PREDICTION, GRAPH_PROBABILITIES
from cnnjob.models.cnn import Classifier
from cnnjob.models.inference import Inference
from cnnjob.models.spec import EVALUATION_ROWS

PARITY_BOUND = 1e-5
"""Largest difference of any probability between the graph and the module on real rows."""


def export_onnx(classifier: Classifier, shape: tuple[int, int, int], class_names: Sequence[str]) -> bytes:
    """The graph as bytes: input ``image`` uint8 N x C x H x W, N free; outputs as in the module's docstring."""
    module = Inference(classifier)
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=[GRAPH_INPUT],
            output_names=[GRAPH_PROBABILITIES],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None, "dynamo=True returns a program"
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        # The exporter writes where each node came from in the source, paths of this machine included.
        del node.metadata_props[:]
        node.doc_string = ""
    _add_class_names(model, class_names)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def weights(classifier: Classifier) -> bytes:
    """All weights and the normalization's buffers as safetensors."""
    content: bytes = save_safetensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    )
    return content


def check_parity(graph: bytes, classifier: Classifier, images: np.ndarray, batch_size: int = EVALUATION_ROWS) -> float:
    """Run the graph and the module on real rows.

    Args:
        graph: The exported graph.
        classifier: The module it came from.
        images: uint8 N x C x H x W, real rows.
        batch_size: Images that are run at once.

    Returns:
        The largest difference of any probability.

    Raises:
        ExportError: It is above ``PARITY_BOUND``; such a graph must not be registered.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    difference = 0.0
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        exported = session.run([GRAPH_PROBABILITIES], {GRAPH_INPUT: batch})[0]
        with torch.inference_mode():
            trained = torch.softmax(classifier.eval()(torch.from_numpy(batch)), dim=1).numpy()
        # Of what is no number too, since it is never within the bound.
        difference = float(np.max(np.abs(exported - trained), initial=difference))
    if not difference <= PARITY_BOUND:
        raise ExportError(
            f"the exported graph and the trained net differ by {difference:.2e} in a probability; at most "
            f"{PARITY_BOUND:.0e} is allowed. Nothing was registered; please report this with the net's spec."
        )
    return difference


def _add_class_names(model: onnx.ModelProto, class_names: Sequence[str]) -> None:
    """Append argmax and a look-up of the class names to the graph."""
    graph = model.graph
    names = helper.make_tensor("class_names", TensorProto.STRING, [len(class_names)], [n.encode() for n in class_names])
    graph.initializer.append(names)
    graph.node.append(
        helper.make_node("ArgMax", [GRAPH_PROBABILITIES], ["class_index"], axis=1, keepdims=0, name="argmax")
    )
    graph.node.append(
        helper.make_node("Gather", ["class_names", "class_index"], [GRAPH_PREDICTION], axis=0, name="class_name")
    )
    graph.output.append(helper.make_tensor_value_info(GRAPH_PREDICTION, TensorProto.STRING, ["batch"]))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
