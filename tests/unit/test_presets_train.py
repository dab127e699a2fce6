"""Every preset goes the whole way on real images: it learns, is exported as it is, and scores."""

import numpy as np
import pytest
import torch

from cnnjob.config.train import ModelConfig, OptimizerConfig
from cnnjob.data.sources.digits import DigitsSource
from cnnjob.models.export import check_parity, export_onnx
from cnnjob.models.presets import PRESETS, net_for
from cnnjob.scoring.engine import Engine
from cnnjob.training.feed import EvaluationFeed, Place
from cnnjob.training.loop import evaluate
from tests.helpers import Dataset, TrainingRun, prepare, prepare_config, rows_of, train_config


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, digits):
    """The digits at the sizes that the presets are drawn with."""
    output = tmp_path_factory.mktemp("large") / "set"
    return {32: digits, 64: Dataset(str(output), prepare(prepare_config(output, size=(64, 64)), DigitsSource()))}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_exports_and_scores(datasets, preset):
    """One epoch lowers the validation loss; the graph is the net within the bound, and scores the test split."""
    dataset = datasets[PRESETS[preset].shape[1]]
    manifest = dataset.manifest
    net = net_for(ModelConfig(preset=preset), manifest.image.shape, len(manifest.class_names))
    config = train_config(dataset, num_epochs=1, global_batch_size=32, optimizer=OptimizerConfig(ema_decay=None))
    run = TrainingRun(dataset, config, net)

    def loss() -> float:
        batches = EvaluationFeed(dataset.path, manifest, "val", Place(0, 1), batch_size=64).batches()
        return evaluate(run.module, batches, device=torch.device("cpu"), num_classes=10).loss

    before = loss()
    run.train_epoch(1)
    assert loss() < 0.8 * before
    graph = export_onnx(run.module, net.shape, manifest.class_names)
    rows = rows_of(dataset.path, manifest, "test")
    check_parity(graph, run.module, rows.images)
    probabilities = Engine(graph, threads=1, batch_size=64).probabilities(rows.images)
    assert np.mean(probabilities.argmax(axis=1) == rows.labels) > 0.5
