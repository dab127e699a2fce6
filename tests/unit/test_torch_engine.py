"""The arithmetic of a GPU, run on a CPU: the same as ONNX Runtime's within rounding."""

import numpy as np
import pytest

from cnnjob.models.bundle import ONNX
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.torch_engine import TorchEngine


@pytest.mark.parametrize(("bf16", "bound"), [(False, 1e-5), (True, 0.05)])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_probabilities_are_those_of_the_graph(bundle, digits_rows, bf16, bound, batch_size):
    """In float32 they differ by less than the export's own bound; in bfloat16 they are near, and still sum to 1."""
    expected = Engine(bundle.files[ONNX], threads=1, batch_size=32).probabilities(digits_rows.images)
    engine = TorchEngine(bundle, device="cpu", bf16=bf16, batch_size=batch_size)
    found = engine.probabilities(digits_rows.images)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert np.abs(found - expected).max() < bound
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-5


def test_bfloat16_is_another_arithmetic(bundle, digits_rows):
    """What bfloat16 gives is not what float32 gives: the setting does something."""
    engines = [TorchEngine(bundle, device="cpu", bf16=bf16, batch_size=None) for bf16 in (False, True)]
    first, second = (engine.probabilities(digits_rows.images) for engine in engines)
    assert np.abs(first - second).max() > 1e-5


def test_images_that_may_not_be_written_to_are_read(bundle, digits_rows):
    """Images are views of Arrow's memory, which nobody may write to."""
    images = digits_rows.images.copy()
    images.flags.writeable = False
    engine = TorchEngine(bundle, device="cpu", bf16=False, batch_size=None)
    assert np.array_equal(engine.probabilities(images), engine.probabilities(digits_rows.images))
