"""Every preset goes the whole way on real images: it learns, is exported as it is, and scores."""

import numpy as np
import pytest
import torch

from cnnjob.config.train import ModelConfig
from cnnjob.data.sources.digits import DigitsSource
from cnnjob.models.export import check_parity, export_onnx
from cnnjob.models.presets import PRESETS, net_for
from cnnjob.scoring.engine import Engine
from cnnjob.training.feed import EvaluationFeed, Place
from cnnjob.training.loop import evaluate
from tests.helpers import Dataset, prepare, prepare_config, rows_of
from tests.workers import job_of, worker_of


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, digits):
    """The digits at the sizes that the presets are drawn with."""
    output = tmp_path_factory.mktemp("large") / "set"
    return {32: digits, 64: Dataset(str(output), prepare(prepare_config(output, size=(64, 64)), DigitsSource()))}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_exports_and_scores(datasets, tmp_path, preset):
    """One epoch lowers the validation loss; the graph is the net within the bound, and scores the test split."""
    dataset = datasets[PRESETS[preset].shape[1]]
    manifest = dataset.manifest
    net = net_for(ModelConfig(preset=preset), manifest.image.shape, len(manifest.class_names))
    worker = worker_of(job_of(dataset, tmp_path, net, num_workers=1, num_epochs=1, global_batch_size=32))
    module = worker.learner.module

    def loss() -> float:
        batches = EvaluationFeed(dataset.path, manifest, "val", Place(0, 1), batch_size=64).batches()
        return evaluate(module, batches, device=torch.device("cpu"), num_classes=10).loss

    before = loss()
    worker.run()
    assert loss() < 0.8 * before
    graph = export_onnx(module, net.shape, manifest.class_names)
    rows = rows_of(dataset.path, manifest, "test")
    check_parity(graph, module, rows.images)
    probabilities = Engine(graph, threads=1, batch_size=64).probabilities(rows.images)
    assert np.mean(probabilities.argmax(axis=1) == rows.labels) > 0.5
