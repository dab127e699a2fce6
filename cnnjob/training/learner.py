"""What is being trained, in one worker: the net, its optimizer, the moving average, the best weights so far."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest
from cnnjob.models.cnn import build
from cnnjob.models.spec import Net
from cnnjob.training.checkpoint import Checkpoint
from cnnjob.training.group import Group, averaging_of, distribute
from cnnjob.training.optim import Average, learning_rate, make_optimizer, restore, set_learning_rate

Weights = dict[str, torch.Tensor]


class Learner:
    """The net and all that moves its weights.

    Attributes:
        module: The net.
        model: The net as it is trained: averaging gradients over the group, compiled where configured.
        averaging: What averages them on CPUs; None for a group of one, and on GPUs.
        optimizer: Over its parameters.
        average: The moving average of its weights; None without one.
        best: Weights of the best epoch; empty before the first.
    """

    def __init__(self, config: TrainConfig, net: Net, manifest: Manifest, group: Group) -> None:
        statistics = manifest.statistics
        self._config = config.optimizer
        self.module = build(net, statistics.mean, statistics.std, seed=config.seed).to(group.device)
        self._parameters = list(self.module.parameters())
        self.averaging = averaging_of(self.module, group)
        self.model = distribute(self.module, group, self.averaging)
        if config.compile:
            self.model.compile(dynamic=False)
        self.optimizer = make_optimizer(config.optimizer, self._parameters)
        decay = config.optimizer.ema_decay
        self.average = Average(self._parameters, decay) if decay else None
        self.best: Weights = {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint."""
        self.module.load_state_dict(dict(checkpoint.weights))
        restore(self.optimizer, checkpoint.optimizer)
        if self.average:
            _copy(
                [checkpoint.average[str(number)] for number in range(len(self.average.tensors))], self.average.tensors
            )
        self.best = dict(checkpoint.best)

    def before_step(self, step: int, total_steps: int) -> None:
        """Set the learning rate of step ``step`` (0 on) of the run's ``total_steps``."""
        set_learning_rate(self.optimizer, learning_rate(self._config, step, total_steps))

    def after_step(self, step: int) -> None:
        """Take the weights after step ``step`` into the average."""
        if self.average:
            self.average.update(self._parameters, step)

    def weights(self) -> Weights:
        """A copy of the net's weights and buffers."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def averages(self) -> Weights:
        """The moving average as a checkpoint keeps it, by number of the parameter."""
        return {str(number): tensor for number, tensor in enumerate(self.average.tensors)} if self.average else {}

    @contextmanager
    def registrable(self) -> Iterator[None]:
        """The weights that would be registered, in the net: the moving average, where there is one."""
        if self.average is None:
            yield
            return
        kept = [parameter.detach().clone() for parameter in self._parameters]
        _copy(self.average.tensors, self._parameters)
        try:
            yield
        finally:
            _copy(kept, self._parameters)


def _copy(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
