"""What a run has read, as MLflow's own datasets: the column "Dataset" of its UI, by which runs are filtered too.

MLflow knows a dataset by name and digest within an experiment, and a run has each once, with one context: the splits
of a data set are three.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from cnnjob.errors import TrackingError
from cnnjob.tracking.server import Server, asking

_MAX_NAME_CHARACTERS = 500
_MAX_DIGEST_CHARACTERS = 36


@dataclass(frozen=True)
class ReadSplit:
    """A split that a run reads.

    Attributes:
        name: Of the data set.
        digest: Tells it from all others of that name; 36 characters at most.
        uri: Of the data set.
        context: What it is read for: ``training``, ``validation`` or ``test``.
        rows: How many it has.
        classes: The same.
        shape: Channels, height, width of an image.
    """

    name: str
    digest: str
    uri: str
    context: str
    rows: int
    classes: int
    shape: tuple[int, int, int]


def log_inputs(server: Server, run_id: str, splits: Sequence[ReadSplit]) -> None:
    """Log what a run reads. What is there already stays as it is, so the same again changes nothing."""
    inputs = [_input(split) for split in splits]
    what = f"log the data set of the run {run_id}"
    try:
        with asking(server, what):
            server.client.log_inputs(run_id, inputs)
    except TrackingError:
        # Another run may have logged the same data set in between, which MLflow takes for a failure.
        with asking(server, what):
            server.client.log_inputs(run_id, inputs)


def _input(split: ReadSplit) -> DatasetInput:
    scheme, separator, _ = split.uri.partition("://")
    form = TensorDatasetSchema(
        features=Schema([TensorSpec(np.dtype(np.uint8), (-1, *split.shape), "image")]),
        targets=Schema([TensorSpec(np.dtype(np.int32), (-1,), "label")]),
    )
    # The UI does not show a schema of arrays, but all that stands here.
    profile = {"rows": split.rows, "classes": split.classes, "image": "x".join(map(str, split.shape)) + " uint8"}
    return DatasetInput(
        Dataset(
            name=split.name[:_MAX_NAME_CHARACTERS],
            digest=split.digest[:_MAX_DIGEST_CHARACTERS],
            # By these names the UI knows how to show a source.
            source_type=scheme if separator else "local",
            source=json.dumps({"uri": split.uri}, ensure_ascii=False),
            schema=json.dumps(form.to_dict()),
            profile=json.dumps(profile),
        ),
        [InputTag(MLFLOW_DATASET_CONTEXT, split.context)],
    )
