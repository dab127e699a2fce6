"""One worker in this process: the bits that it leaves, and that whoever compares them sees what is missing."""

import dataclasses
from pathlib import Path

import pytest
import torch

from cnnjob.config.train import OptimizerConfig
from cnnjob.training import worker
from cnnjob.training.worker import TrainJob
from tests.helpers import training_rows
from tests.workers import Ended, job_of, left_by, worker_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Rows whose last batch of 8 has 7."""
    return training_rows(tmp_path_factory.mktemp("worker") / "set", 23)


def job_with(dataset, run_folder: Path, precision: str = "fp32", optimizer: str = "adamw") -> TrainJob:
    """Two epochs of a net with dropout, with a moving average."""
    moves = OptimizerConfig(name=optimizer, learning_rate=0.01, ema_decay=0.9)
    options = {"num_workers": 1, "num_epochs": 2, "global_batch_size": 8, "precision": precision}
    return job_of(dataset, run_folder, optimizer=moves, **options)


def ended(job: TrainJob) -> Ended:
    """The job's one worker, run to its end."""
    worker_of(job).run()
    return left_by(job.run_folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_have_the_same_bits(dataset, tmp_path, precision):
    """The same config trains to bit-identical weights, averages and figures; weights are not those it began with."""
    one, other = (ended(job_with(dataset, tmp_path / name, precision)) for name in ("one", "other"))
    assert one.same_as(other)
    begun = worker_of(job_with(dataset, tmp_path / "begun", precision)).learner.weights()
    trained = {name for name, tensor in begun.items() if not torch.equal(tensor, one.checkpoint.weights[name])}
    assert trained == {name for name in begun if not name.startswith("normalize")}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_that_goes_on_has_the_same_bits(dataset, tmp_path, monkeypatch, precision, optimizer):
    """A run that dies in its second epoch goes on after the first one, and ends with the undisturbed run's bits."""
    job = job_with(dataset, tmp_path / "run", precision, optimizer)

    def die(phase: str, **where: int | str) -> None:
        if phase == "step" and (where["epoch"], where["step"]) == (2, 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "reached", die)
        with pytest.raises(KeyboardInterrupt):
            worker_of(job).run()
    assert left_by(job.run_folder).checkpoint.progress.epoch == 1
    assert ended(job).same_as(ended(job_with(dataset, tmp_path / "undisturbed", precision, optimizer)))


def test_bf16_is_not_fp32(dataset, tmp_path):
    """The two precisions compute differently, and both keep float32 weights."""
    one, other = (ended(job_with(dataset, tmp_path / name, name)).checkpoint.weights for name in ("fp32", "bf16"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert {tensor.dtype for weights in (one, other) for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize("lost", ["weights", "best", "average", "optimizer"])
def test_what_is_missing_is_no_match(dataset, tmp_path, lost):
    """A run that lost weights, best weights, average or moments is not the same as one with them, either way round."""
    whole = ended(job_with(dataset, tmp_path))
    empty = {**whole.checkpoint.optimizer, "state": {}} if lost == "optimizer" else {}
    less = dataclasses.replace(whole, checkpoint=dataclasses.replace(whole.checkpoint, **{lost: empty}))
    assert whole.same_as(whole)
    assert not whole.same_as(less)
    assert not less.same_as(whole)
