"""Optimizers, the learning rate as a function of the step, and the moving average of the weights."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from cnnjob.config.train import OptimizerConfig

_SGD_MOMENTUM = 0.9
_WARMUP_SHARES = {"constant": 0.0, "cosine": 0.0, "one_cycle": 0.3}
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 1e4
"""Shape of the one-cycle schedule: the defaults of torch.optim.lr_scheduler.OneCycleLR (Smith and Topin, 2017)."""


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a config over ``parameters``."""
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.learning_rate, momentum=_SGD_MOMENTUM, nesterov=True, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a ``state_dict``, each tensor laid out in memory as its parameter is.

    A checkpoint keeps tensors contiguous. The fused kernels go through parameter and state in the order of memory,
    so a channels_last weight needs its moments channels_last too.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The learning rate of step ``step`` (0 on) of ``total_steps``: nothing to save, nothing to restore."""
    peak = config.learning_rate
    progress = step / max(1, total_steps - 1)
    warmup = _WARMUP_SHARES[config.schedule] if config.warmup_share is None else config.warmup_share
    if progress < warmup:
        if config.schedule == "one_cycle":
            return _cosine(peak * _ONE_CYCLE_START, peak, progress / warmup)
        # The first step moves too: from one step's share of the peak, in a straight line.
        first = 1 / max(1.0, warmup * (total_steps - 1))
        return peak * (first + (1 - first) * progress / warmup)
    rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    match config.schedule:
        case "constant":
            return peak
        case "cosine":
            return _cosine(peak, 0.0, rest)
        case "one_cycle":
            return _cosine(peak, peak * _ONE_CYCLE_START * _ONE_CYCLE_END, rest)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = value


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """A weight for each class in inverse proportion to its rows, 1 on the average of all rows; 0 where it has none.

    Weights of mean 1 leave the scale of the loss, and with it the learning rate, as they are.
    """
    rows = torch.tensor(counts, dtype=torch.float64)
    present = int((rows > 0).sum())
    return torch.where(rows > 0, rows.sum() / (present * rows.clamp(min=1)), 0.0).to(torch.float32)


class Average:
    """Exponential moving average of weights: ``average = decay * average + (1 - decay) * weights`` a step.

    The decay grows with the steps, as ``(1 + step) / (10 + step)``, until it reaches the configured one, so that
    the first steps do not weigh for ever (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, parameters: Iterable[torch.Tensor], decay: float) -> None:
        self.tensors = [parameter.detach().clone() for parameter in parameters]
        self._decay = decay

    def update(self, parameters: Iterable[torch.Tensor], step: int) -> None:
        """Take in the weights after step ``step`` (0 on)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.tensors, [p.detach() for p in parameters], 1 - decay)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
