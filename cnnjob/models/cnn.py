"""From a spec to a torch module.

The module takes uint8 images and returns logits; it normalizes by itself, so that training, evaluation and the
exported graph share one truth about preprocessing.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cnnjob.models.spec import Net, features_of

PIXEL_MAX = 255.0


class Normalize(nn.Module):
    """uint8 N x C x H x W -> float32, scaled to 0..1, minus the mean, over the standard deviation.

    Mean and standard deviation are those of the training split, a channel each, on the 0..1 scale. A channel
    without variation is only centred.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        safe_std = [value if value > 0 else 1.0 for value in std]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(safe_std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize a batch on the device it is on: one subtraction and one multiplication a pixel."""
        centre, scale = PIXEL_MAX * self.mean, 1 / (PIXEL_MAX * self.std)
        if not images.is_contiguous():
            # channels_last: with a number a channel the innermost loop would be as short as there are channels.
            centre, scale = (_channels_last(each.expand(1, *images.shape[1:])) for each in (centre, scale))
        return (images.to(torch.float32) - centre) * scale


class Classifier(nn.Module):
    """uint8 images N x C x H x W -> logits N x classes."""

    def __init__(self, net: Net, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.features = nn.Sequential(*_features(net))
        self.head = nn.Sequential(*_head(net))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        normalized = _channels_last(self.normalize(images))
        features = self.features(normalized)
        if features.requires_grad:
            # Flatten's gradient is not channels_last: without this copy ReLU's backward pass took 25 times as long.
            features.register_hook(_channels_last)
        logits: torch.Tensor = self.head(torch.flatten(features, 1))
        return logits


def build(net: Net, mean: Sequence[float], std: Sequence[float], *, seed: int) -> Classifier:
    """A classifier with torch's own initialization, the same for the same seed; channels_last in memory.

    channels_last is the layout that the CPU convolutions are fastest in.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Classifier(net, mean, std)
    return module.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _features(net: Net) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = net.shape[0]
    for block in net.blocks:
        layers.append(nn.Conv2d(channels, block.filters, block.kernel, block.stride, block.padding))
        if block.pool > 1:
            # Max-pool and ReLU commute: pooling first leaves ReLU 1/pool^2 of the work, same values and gradients.
            layers.append(nn.MaxPool2d(block.pool))
        layers.append(nn.ReLU())
        channels = block.filters
    return layers


def _head(net: Net) -> list[nn.Module]:
    layers: list[nn.Module] = []
    features = features_of(net)
    for width in net.hidden:
        layers += [nn.Linear(features, width), nn.ReLU()]
        if net.dropout > 0:
            layers.append(nn.Dropout(net.dropout))
        features = width
    return [*layers, nn.Linear(features, net.num_classes)]
