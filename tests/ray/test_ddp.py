"""DDP is one process on the same global batch, and two runs are the same bits."""

from pathlib import Path
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
from tests.line import Line

pytestmark = pytest.mark.ray

TOLERANCE = 1e-5
"""Largest difference of any weight after two epochs in float32; sums in another order differ by rounding alone."""


def fit(line: Line, folder: Path, console: Console, *sets: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Train on the line's digits; the last epoch's weights and the result."""
    places = [f"dataset={line.result.dataset}", f"storage={folder / 'runs'}", f"tracking.uri={folder / 'tracking'}"]
    common = [
        "name=ddp",
        "num_epochs=2",
        "optimizer.ema_decay=null",
        "optimizer.name=sgd",
        "optimizer.learning_rate=0.05",
    ]
    config = kinds.load("train", shipped("train/digits.yaml"), [*places, *common, *sets])
    result = train.run(config, console)
    sound, damaged = checkpoints.latest(str(folder / "runs" / "ddp"))
    assert not damaged
    return dict(sound.weights), (config, result)


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
def test_ddp_equals_one_process(line: Line, console: Console, tmp_path: Path, world_size: int, batch: int) -> None:
    """Weights after DDP equal those of one process on the same global batches, last batch uneven or empty on a rank."""
    rows = read_manifest(line.result.dataset).splits["train"].rows
    assert rows % batch % world_size != 0, "the last batch is to be uneven"
    weights, (config, _) = fit(line, tmp_path, console, f"num_workers={world_size}", f"global_batch_size={batch}")
    for name, expected in one_process(config, world_size).items():
        assert (weights[name] - expected).abs().max() <= TOLERANCE, name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_bit_identical(line: Line, console: Console, tmp_path: Path, precision: str) -> None:
    """The same data, config, seed and world size of 3 give the same bits of weights and the same metrics."""
    sets = ["num_workers=3", "global_batch_size=200", "num_epochs=1", "optimizer.name=adamw", f"precision={precision}"]
    first, (_, one) = fit(line, tmp_path / "one", console, *sets)
    second, (_, two) = fit(line, tmp_path / "two", console, *sets)
    assert all(torch.equal(first[name], second[name]) for name in first)
    figures = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    assert [[row[key] for key in figures] for row in one.epochs] == [
        [row[key] for key in figures] for row in two.epochs
    ]
    assert one.test == two.test


def test_every_row_counts_once_at_world_size_3(line: Line, console: Console, tmp_path: Path) -> None:
    """Test rows counted are the split's rows, though 3 divides neither split."""
    _, (_, result) = fit(line, tmp_path, console, "num_workers=3", "num_epochs=1", "global_batch_size=500")
    assert result.test["rows"] == read_manifest(line.result.dataset).splits["test"].rows
