"""What needs a GPU: run where there is one."""

import numpy as np
import pytest
import torch

from cnnjob.models.bundle import ONNX
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.torch_engine import TorchEngine
from cnnjob.training.feed import Place
from cnnjob.training.worker import Worker
from tests.helpers import training_rows
from tests.workers import BareGroup, job_of

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


class CudaGroup(BareGroup):
    """One worker on the first GPU."""

    @property
    def device(self) -> torch.device:
        """The first GPU."""
        return torch.device("cuda:0")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_worker_trains_on_a_gpu(tmp_path, precision, compiled):
    """A run on a GPU comes to its end, as it is and compiled, in both precisions."""
    dataset = training_rows(tmp_path / "set", 23)
    config = {"num_workers": 1, "num_epochs": 2, "global_batch_size": 8, "precision": precision}
    job = job_of(dataset, tmp_path / "run", use_gpu=True, compile=compiled, **config)
    worker = Worker(job, CudaGroup(Place(0, 1)))
    worker.run()
    assert worker.progress.epoch == 2


@pytest.mark.parametrize(("bf16", "bound"), [(False, 1e-5), (True, 0.05)])
def test_a_gpu_scores_like_a_cpu(bundle, digits_rows, bf16, bound):
    """A GPU's probabilities are those of ONNX Runtime, within rounding; its memory says how many images it takes."""
    expected = Engine(bundle.files[ONNX], threads=1, batch_size=32).probabilities(digits_rows.images)
    engine = TorchEngine(bundle, device="cuda", bf16=bf16, batch_size=None)
    assert np.abs(engine.probabilities(digits_rows.images) - expected).max() < bound
