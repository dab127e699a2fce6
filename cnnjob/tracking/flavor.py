"""A bundle as an MLflow model: MLflow's ONNX flavor, with our three files in the same folder.

``mlflow.pyfunc.load_model`` and ``mlflow models serve`` see a plain ONNX model with a signature; cnnjob finds its
bundle, byte for byte.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from cnnjob.models.bundle import GRAPH_INPUT, GRAPH_PREDICTION, GRAPH_PROBABILITIES, ONNX, Bundle

PIP_REQUIREMENTS = tuple(f"{name}=={version(name)}" for name in ("mlflow", "onnx", "onnxruntime", "numpy"))
"""Given explicitly: MLflow's inference would start a process and load the model to find them."""


def save_model(path: str, mlflow_model: Model, bundle: Bundle, example: np.ndarray, **_: Any) -> None:
    """Write a bundle as an MLflow model; called by ``mlflow.models.Model.log``.

    Args:
        path: Folder to be created.
        mlflow_model: The model's metadata, filled in here.
        bundle: The model.
        example: uint8 N x C x H x W, real rows.
    """
    description = bundle.description
    mlflow.onnx.save_model(
        onnx.load_from_string(bundle.files[ONNX]),
        path,
        mlflow_model=mlflow_model,
        signature=_signature(description.shape, len(description.class_names)),
        input_example=example,
        pip_requirements=list(PIP_REQUIREMENTS),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    bundle.write(Path(path))


def _signature(shape: tuple[int, int, int], num_classes: int) -> ModelSignature:
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape), GRAPH_INPUT)]),
        outputs=Schema(
            [
                TensorSpec(np.dtype(np.float32), (-1, num_classes), GRAPH_PROBABILITIES),
                TensorSpec(np.dtype(np.str_), (-1,), GRAPH_PREDICTION),
            ]
        ),
    )
