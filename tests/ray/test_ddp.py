"""DDP is one process on the same global batch, and two runs are the same bits."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnnjob.config import kinds
from cnnjob.data.manifest import read_manifest
from cnnjob.data.rows import read_rows
from cnnjob.models.cnn import build
from cnnjob.models.presets import net_for
from cnnjob.training import checkpoint as checkpoints
from cnnjob.training.optim import learning_rate, make_optimizer, set_learning_rate
from cnnjob.training.order import epoch_order, num_steps, rank_range, step_slices
from pipelines import train
from pipelines.confs import shipped
from pipelines.console import Console
from pipelines.train import TrainResult
from tests.line import Line

pytestmark = pytest.mark.ray

TOLERANCE = 1e-5
"""Largest difference of any weight after two epochs in float32; sums in another order differ by rounding alone."""


@dataclass(frozen=True)
class Fit:
    """A training: its config, its result, and the weights of its last epoch."""

    config: Any
    result: TrainResult
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def fit(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Fit]:
    """Train on the line's digits, once for each set of arguments."""
    tracking = tmp_path_factory.mktemp("tracking")

    @cache
    def run(world_size: int, batch: int, repetition: int = 1) -> Fit:
        folder = tmp_path_factory.mktemp(f"fit{repetition}")
        places = [f"dataset={line.result.dataset}", f"storage={folder / 'runs'}", f"tracking.uri={tracking}"]
        optimizer = ["optimizer.ema_decay=null", "optimizer.name=sgd", "optimizer.learning_rate=0.05"]
        workers = [f"num_workers={world_size}", f"global_batch_size={batch}"]
        sets = [*places, *optimizer, *workers, "name=ddp", "num_epochs=2"]
        config = kinds.load("train", shipped("train/digits.yaml"), sets)
        result = train.run(config, Console(as_json=False, out=io.StringIO(), err=io.StringIO()))
        sound, damaged = checkpoints.latest(str(folder / "runs" / "ddp"))
        assert sound is not None
        assert not damaged
        return Fit(config, result, dict(sound.weights))

    return run


def one_process(config: Any, world_size: int) -> dict[str, torch.Tensor]:
    """The same global batches, one after the other, in one process with plain torch."""
    manifest = read_manifest(config.dataset)
    split, shape = manifest.splits["train"], manifest.image.shape
    size, seed = config.global_batch_size, config.seed
    net = net_for(config.model, shape, len(manifest.class_names))
    module = build(net, manifest.statistics.mean, manifest.statistics.std, seed=seed).train()
    optimizer = make_optimizer(config.optimizer, module.parameters())
    ranges = [rank_range(split.rows, size, rank, world_size) for rank in range(world_size)]
    parts = [read_rows(config.dataset, split, start, stop, shape) for start, stop in ranges]
    steps = num_steps(split.rows, size)
    for epoch in range(1, config.num_epochs + 1):
        orders = [epoch_order(len(p.labels), seed=seed, epoch=epoch, rank=rank) for rank, p in enumerate(parts)]
        slices = [list(step_slices(split.rows, size, rank, world_size)) for rank in range(world_size)]
        for step in range(steps):
            chosen = [order[slices[rank][step][0]] for rank, order in enumerate(orders)]
            images = np.concatenate([p.images[c] for p, c in zip(parts, chosen, strict=True)])
            labels = np.concatenate([p.labels[c] for p, c in zip(parts, chosen, strict=True)])
            set_learning_rate(
                optimizer, learning_rate(config.optimizer, (epoch - 1) * steps + step, steps * config.num_epochs)
            )
            optimizer.zero_grad()
            F.cross_entropy(module(torch.from_numpy(images)), torch.from_numpy(labels).long()).backward()
            optimizer.step()
    return dict(module.state_dict())


@pytest.mark.parametrize(("world_size", "batch"), [(2, 201), (3, 723)])
def test_ddp_equals_one_process(fit: Callable[..., Fit], world_size: int, batch: int) -> None:
    """Weights after DDP equal those of one process on the same global batches, the last one uneven over the ranks."""
    done = fit(world_size, batch)
    rows = read_manifest(done.config.dataset).splits["train"].rows
    assert rows % batch % world_size != 0, "the last batch is to be uneven"
    for name, expected in one_process(done.config, world_size).items():
        assert (done.weights[name] - expected).abs().max() <= TOLERANCE, name


def test_two_runs_are_bit_identical(fit: Callable[..., Fit]) -> None:
    """The same data, config, seed and world size of 3 give the same bits of weights and the same metrics."""
    one, two = (fit(3, 723, repetition) for repetition in (1, 2))
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    figures = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    assert [[row[k] for k in figures] for row in one.result.epochs] == [
        [row[k] for k in figures] for row in two.result.epochs
    ]
    assert one.result.test == two.result.test


def test_every_row_counts_once_at_world_size_3(fit: Callable[..., Fit]) -> None:
    """Test rows counted are the split's rows, though 3 does not divide them."""
    done = fit(3, 723)
    rows = read_manifest(done.config.dataset).splits["test"].rows
    assert rows % 3 != 0
    assert done.result.test["rows"] == rows
