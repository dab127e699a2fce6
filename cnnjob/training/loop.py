"""The training loop: torch and iterables only. What runs it (Ray Train, one process, a test) it does not know."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cnnjob.training.feed import Batch
from cnnjob.training.metrics import Tally


@dataclass(frozen=True)
class EpochSums:
    """What one rank counted in one epoch.

    Attributes:
        tally: Over the rows this rank saw, as predicted before each step's update.
        seconds: Wall time of the epoch's training part.
        first_batch_s: Wall time until the first batch was there.
    """

    tally: Tally
    seconds: float
    first_batch_s: float


@dataclass(frozen=True)
class Trainer:
    """What an epoch needs beside its batches.

    Attributes:
        model: uint8 images to logits; maybe wrapped in DDP.
        optimizer: Over its parameters.
        world_size: Ranks whose gradients are averaged.
        before_step: Called with the step's number in the run (0 on), such as to set the learning rate.
        after_step: Called after the update, such as for the moving average.
        device: Where batches go.
        bf16: Forward and loss in bfloat16 where torch holds it safe.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    world_size: int
    before_step: Callable[[int], None]
    after_step: Callable[[int], None]
    device: torch.device
    bf16: bool = False


def train_epoch(trainer: Trainer, batches: Iterable[Batch], *, first_step: int, num_classes: int) -> EpochSums:
    """One pass over the batches.

    The loss of a step is the sum over this rank's rows x world size / rows of all ranks. DDP averages gradients
    over ranks, so what is applied is exactly the gradient of the mean over the global batch, also where ranks
    have unequally many rows, or none.
    """
    trainer.model.train()
    began = time.perf_counter()
    first_batch_s = 0.0
    correct = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=trainer.device)
    loss_sum = torch.zeros((), dtype=torch.float64, device=trainer.device)
    for number, batch in enumerate(batches):
        if number == 0:
            first_batch_s = time.perf_counter() - began
        trainer.before_step(first_step + number)
        images = batch.images.to(trainer.device, non_blocking=True)
        labels = batch.labels.to(trainer.device, non_blocking=True)
        with torch.autocast(trainer.device.type, dtype=torch.bfloat16, enabled=trainer.bf16):
            logits = trainer.model(images)
        row_loss_sum = F.cross_entropy(logits.float(), labels, reduction="sum")
        trainer.optimizer.zero_grad(set_to_none=True)
        (row_loss_sum * (trainer.world_size / batch.global_rows)).backward()  # type: ignore[no-untyped-call]
        trainer.optimizer.step()
        trainer.after_step(first_step + number)
        cells = labels * num_classes + logits.detach().argmax(dim=1)
        correct += torch.bincount(cells, minlength=num_classes * num_classes)
        loss_sum += row_loss_sum.detach()
    confusion = correct.reshape(num_classes, num_classes).cpu().numpy()
    tally = Tally(float(loss_sum), confusion)
    return EpochSums(tally, time.perf_counter() - began, first_batch_s)


def evaluate(model: nn.Module, batches: Iterable[Batch], *, device: torch.device, num_classes: int) -> Tally:
    """Loss and confusion over the batches, in float32, without gradients."""
    model.eval()
    tally = Tally.zero(num_classes)
    with torch.inference_mode():
        for batch in batches:
            logits = model(batch.images.to(device)).float()
            labels = batch.labels.to(device)
            loss = float(F.cross_entropy(logits, labels, reduction="sum"))
            tally = tally.count(loss, batch.labels.numpy(), logits.argmax(dim=1).cpu().numpy())
    return tally
