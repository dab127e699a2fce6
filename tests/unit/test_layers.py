import io

import numpy as np
import torch
from PIL import Image

from cnnjob.models.feature_maps import draw_feature_maps
from cnnjob.models.layers import layers
from tests.helpers import rows_of


def test_a_picture_has_its_eight_layers(digits, trained):
    """The default net makes of one picture: input, conv + ReLU, pool, twice, the vector, linear + ReLU, the output."""
    image = rows_of(digits.path, digits.manifest, "test").images[0]
    found = [(layer.name, layer.values.shape) for layer in layers(trained, image)]
    assert found == [
        ("input", (3, 32, 32)),
        ("conv1 + ReLU", (16, 32, 32)),
        ("pool1", (16, 16, 16)),
        ("conv2 + ReLU", (32, 16, 16)),
        ("pool2", (32, 8, 8)),
        ("flatten", (2048,)),
        ("linear1 + ReLU", (64,)),
        ("output + softmax", (10,)),
    ]


def test_the_last_layer_is_what_the_net_says(digits, trained):
    """The layers end in the probabilities of the net itself, which pools before it rectifies."""
    image = rows_of(digits.path, digits.manifest, "test").images[3]
    with torch.inference_mode():
        expected = torch.softmax(trained(torch.from_numpy(image)[None]), dim=1)[0].numpy()
    assert np.abs(layers(trained, image)[-1].values - expected).max() < 1e-6


def test_no_layer_after_a_relu_is_negative(digits, trained):
    """What has gone through a ReLU is never below 0, and the probabilities sum to 1."""
    found = layers(trained, rows_of(digits.path, digits.manifest, "test").images[1])
    assert all(layer.values.min() >= 0 for layer in found)
    assert abs(found[-1].values.sum() - 1) < 1e-5


def test_the_maps_are_drawn(digits, trained):
    """The feature maps are a PNG with a row of tiles for each layer that has maps."""
    image = rows_of(digits.path, digits.manifest, "test").images[0]
    picture = Image.open(io.BytesIO(draw_feature_maps(layers(trained, image), [str(k) for k in range(10)])))
    assert picture.format == "PNG"
    assert picture.height > 5 * 72
    assert len(picture.getcolors(1 << 20)) > 50
