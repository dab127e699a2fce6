"""One picture through a trained net: what every layer makes of it, in the order that people draw it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cnnjob.models.cnn import Classifier


@dataclass(frozen=True)
class Layer:
    """What one layer makes of a picture.

    Attributes:
        name: Such as ``conv1 + ReLU``.
        values: Its output, C x H x W or a vector.
    """

    name: str
    values: np.ndarray


def layers(module: Classifier, image: np.ndarray) -> list[Layer]:
    """Run one picture.

    Args:
        module: The net with its weights.
        image: uint8 C x H x W.

    Returns:
        The input, each convolution with its ReLU, each pool, the vector, each linear layer with its ReLU, and the
        output with softmax: the class probabilities.
    """
    was_training = module.training
    module.eval()
    with torch.inference_mode():
        found = list(_layers(module, torch.from_numpy(image)[None]))
    module.train(was_training)
    return [Layer(name, values[0].contiguous().numpy()) for name, values in found]


def _layers(module: Classifier, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    yield "input", images
    values = module.normalize(images)
    number = 0
    for layer in module.features:
        if isinstance(layer, nn.Conv2d):
            number += 1
            # The module pools before it rectifies, which is the same function; people draw it the other way round.
            values = torch.relu(layer(values))
            yield f"conv{number} + ReLU", values
        elif isinstance(layer, nn.MaxPool2d):
            values = layer(values)
            yield f"pool{number}", values
    values = torch.flatten(values, 1)
    yield "flatten", values
    linear = [layer for layer in module.head if isinstance(layer, nn.Linear)]
    for hidden, layer in enumerate(linear[:-1], start=1):
        values = torch.relu(layer(values))
        yield f"linear{hidden} + ReLU", values
    yield "output + softmax", torch.softmax(linear[-1](values), dim=1)
