"""DDP is one process on the same global batches, whatever the number of ranks and the rest in the last batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnnjob.data.manifest import read_manifest
from cnnjob.data.rows import read_rows
from cnnjob.models.cnn import build
from cnnjob.models.presets import net_for
from cnnjob.training.optim import learning_rate, make_optimizer, set_learning_rate
from cnnjob.training.order import epoch_order, num_steps, rank_range, step_slices
from tests import runs
from tests.helpers import Dataset

TOLERANCE = 1e-5
"""Largest difference of any weight after two epochs in float32; sums in another order differ by rounding alone."""


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


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "batch"), [(2, 201), (3, 723)])
def test_ddp_equals_one_process(digits: Dataset, tmp_path: Path, world_size: int, batch: int) -> None:
    """Weights after DDP equal those of one process on the same global batches, the last one uneven over the ranks.

    In validation and test every row counts once, though the ranks do not divide them.
    """
    more = ["optimizer.name=sgd", "optimizer.learning_rate=0.05", f"global_batch_size={batch}", "num_epochs=2"]
    plain = ["optimizer.ema_decay=null", "augment.flip=false", "augment.shift=0"]
    config = runs.config_of(digits.path, tmp_path, world_size, *more, *plain)
    splits = digits.manifest.splits
    assert splits["train"].rows % batch % world_size != 0, "the last batch is to be uneven"
    done = runs.undisturbed(config, tmp_path / "run")
    for name, expected in one_process(config, world_size).items():
        assert (done.checkpoint.weights[name] - expected).abs().max() <= TOLERANCE, name
    tested = done.entries[-1]["evaluation"]
    assert np.sum(tested["confusion"]) == splits["test"].rows
