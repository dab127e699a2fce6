"""The training loop: torch and iterables only. What runs it (Ray Train, one process, a test) it does not know."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cnnjob.training.evaluation import Evaluation, count, merge_evaluations, nothing
from cnnjob.training.feed import Batch
from cnnjob.training.metrics import Tally


@dataclass(frozen=True)
class EpochSums:
    """What one rank counted in one epoch.

    Attributes:
        tally: Over the rows this rank saw, as predicted before each step's update.
        steps: Steps done, fewer than there are batches where it was stopped.
        seconds: Wall time of the epoch's training part.
        first_batch_s: Wall time until the first batch was there.
    """

    tally: Tally
    steps: int
    seconds: float
    first_batch_s: float


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of labels that may be smoothed and of classes that may be weighted.

    Attributes:
        label_smoothing: Share of each label that is spread over all classes.
        class_weights: float32, one a class, of mean 1 over the training rows; None: all alike.
    """

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is the cross-entropy that is counted anyway."""
        return self.label_smoothing == 0 and self.class_weights is None

    def row_sum(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum over rows of weight x cross-entropy. A row's smoothed label weighs as its class does."""
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return losses.sum() if self.class_weights is None else (losses * self.class_weights[labels]).sum()


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
        loss: What is minimized; what is counted is the plain cross-entropy.
        gradient_clip: Largest norm of a step's gradient; None: any.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    world_size: int
    before_step: Callable[[int], None]
    after_step: Callable[[int], None]
    device: torch.device
    bf16: bool = False
    loss: Loss = Loss()
    gradient_clip: float | None = None


class NotFiniteError(Exception):
    """A step's gradient is not finite; every rank raises it at the same step, since all have the same gradient.

    Attributes:
        step: Of those done here, 0 on.
        loss_is_finite: Whether this rank's own loss was.
    """

    def __init__(self, step: int, *, loss_is_finite: bool) -> None:
        super().__init__(f"the gradient of step {step} is not finite")
        self.step = step
        self.loss_is_finite = loss_is_finite


def never() -> bool:
    """No stop."""
    return False


def train_epoch(
    trainer: Trainer,
    batches: Iterable[Batch],
    *,
    first_step: int,
    tally: Tally,
    should_stop: Callable[[], bool] = never,
) -> EpochSums:
    """One pass over the batches, or over what is left of them.

    The loss of a step is the sum over this rank's rows x world size / rows of all ranks. DDP averages gradients
    over ranks, so what is applied is exactly the gradient of the mean over the global batch, also where ranks
    have unequally many rows, or none.

    Args:
        trainer: What to train, and how.
        batches: Of an epoch, or the rest of it.
        first_step: Number in the run of the first of them, 0 on.
        tally: What this rank has counted in the epoch before; the sums go on from it, to the same bits.
        should_stop: Asked before each step; the same on all ranks.

    Raises:
        NotFiniteError: A gradient has an infinite or undefined number; the weights are those before the step.
    """
    trainer.model.train()
    began = time.perf_counter()
    first_batch_s = 0.0
    # Once: to look for them goes through all modules.
    parameters = list(trainer.model.parameters())
    num_classes = len(tally.confusion)
    cells_seen = torch.from_numpy(tally.confusion.reshape(-1)).to(trainer.device, copy=True)
    loss_sum = torch.tensor(tally.loss_sum, dtype=torch.float64, device=trainer.device)
    steps = 0
    for number, batch in enumerate(batches):
        if number == 0:
            first_batch_s = time.perf_counter() - began
        if should_stop():
            break
        trainer.before_step(first_step + number)
        images, labels = _to(batch.images, trainer.device), _to(batch.labels, trainer.device)
        with torch.autocast(trainer.device.type, dtype=torch.bfloat16, enabled=trainer.bf16):
            logits = trainer.model(images)
        row_loss_sum = F.cross_entropy(logits.float(), labels, reduction="sum")
        minimized = row_loss_sum if trainer.loss.is_plain else trainer.loss.row_sum(logits.float(), labels)
        trainer.optimizer.zero_grad(set_to_none=True)
        (minimized * (trainer.world_size / batch.global_rows)).backward()  # type: ignore[no-untyped-call]
        # After DDP's averaging every rank has the gradient of the global batch, so all clip, and stop, alike.
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not bool(torch.isfinite(norm)):
            raise NotFiniteError(number, loss_is_finite=bool(torch.isfinite(row_loss_sum)))
        if trainer.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, trainer.gradient_clip, norm)
        trainer.optimizer.step()
        trainer.after_step(first_step + number)
        cells = labels * num_classes + logits.detach().argmax(dim=1)
        cells_seen += torch.bincount(cells, minlength=num_classes * num_classes)
        loss_sum += row_loss_sum.detach()
        steps += 1
    confusion = cells_seen.reshape(num_classes, num_classes).cpu().numpy()
    return EpochSums(Tally(float(loss_sum), confusion), steps, time.perf_counter() - began, first_batch_s)


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


def examine(
    model: nn.Module, batches: Iterable[Batch], *, device: torch.device, num_classes: int, first_row: int
) -> Evaluation:
    """All that is told of a split at the end, over a rank's batches; their first row is the split's ``first_row``."""
    model.eval()
    parts = [nothing(num_classes)]
    with torch.inference_mode():
        for batch in batches:
            logits = model(batch.images.to(device)).float()
            parts.append(count(batch.labels.numpy(), F.log_softmax(logits, dim=1).cpu().numpy(), first_row))
            first_row += len(batch.labels)
    return merge_evaluations(parts)


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On a GPU through pinned memory, so that the copy runs beside the arithmetic; on the CPU as it is."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
