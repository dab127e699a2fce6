"""Runs whose workers are killed, stopped or find damage end with the bits of a run that nothing happened to."""

import dataclasses
import shutil
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch

from cnnjob.config.train import AugmentConfig, OptimizerConfig
from cnnjob.errors import IntegrityError
from cnnjob.training import checkpoint, journal, worker
from cnnjob.training.stop import ask_to_stop
from tests import workers
from tests.helpers import Dataset, PictureSource, prepare, prepare_config
from tests.instants import kill
from tests.workers import Ended, job_of, left_by, worker_of

EPOCHS = 3
STEPS = 4
CONFIG = {
    "num_epochs": EPOCHS,
    "global_batch_size": 8,
    "augment": AugmentConfig(flip=True, shift=1, cutout=2),
    "optimizer": OptimizerConfig(ema_decay=0.9),
}
GROUPS = [(2, "fp32"), (2, "bf16"), (3, "fp32"), (3, "bf16")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Rows whose last batch of 8 leaves ranks with unequally many."""
    output = tmp_path_factory.mktemp("survival") / "set"
    config = prepare_config(output, size=(8, 8), resize="exact", rows_per_shard=10, rows_per_group=4, val=0.2, test=0.2)
    found = Dataset(str(output), prepare(config, PictureSource(44)))
    assert 24 < found.manifest.splits["train"].rows < 32
    return found


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """A run that nothing happens to, once for each group."""

    @cache
    def run(world_size: int, precision: str) -> Ended:
        folder = tmp_path_factory.mktemp("undisturbed")
        return workers.run(job_of(dataset, folder, num_workers=world_size, precision=precision, **CONFIG))

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "precision"), GROUPS)
def test_a_worker_killed_at_every_step(dataset, undisturbed, tmp_path, world_size, precision):
    """A worker that dies at each step of each epoch, once, changes no bit of weights and metrics."""
    faults = [
        kill("step", tmp_path, rank=(epoch + step) % world_size, epoch=epoch, step=step)
        for epoch in range(1, EPOCHS + 1)
        for step in range(STEPS)
    ]
    job = job_of(dataset, tmp_path / "run", num_workers=world_size, precision=precision, **CONFIG)
    ended = workers.run(job, faults)
    assert all(Path(fault["mark"]).exists() for fault in faults), "each step is to be reached"
    assert ended.starts == len(faults) + 1
    assert ended.same_as(undisturbed(world_size, precision))


@pytest.mark.slow
def test_a_worker_killed_around_its_checkpoint(dataset, undisturbed, tmp_path):
    """A death between any two files of a checkpoint, after it, and before its report loses no epoch's report."""
    files = ("weights", "best", "average", "optimizer", "partial")
    faults = [
        *(kill("checkpoint file", tmp_path, file=f"{name}.safetensors", epoch=2) for name in files),
        kill("checkpoint", tmp_path, epoch=2),
        kill("report", tmp_path, rank=0, key="epoch-00001"),
        kill("report", tmp_path, rank=1, key="epoch-00003"),
        kill("report", tmp_path, rank=0, key="test"),
    ]
    ended = workers.run(job_of(dataset, tmp_path / "run", num_workers=3, **CONFIG), faults)
    assert all(Path(fault["mark"]).exists() for fault in faults), "each instant is to be reached"
    assert ended.same_as(undisturbed(3, "fp32"))
    epochs = [entry["epoch"] for entry in ended.entries if entry["kind"] == "epoch"]
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_run_stopped_at_every_step(dataset, undisturbed, tmp_path, world_size):
    """A run that is asked to leave as soon as it begins, again and again, keeps each step it made, and its bits."""
    run_folder = tmp_path / "run"
    job = job_of(dataset, run_folder, num_workers=world_size, **CONFIG)
    for attempt in range(EPOCHS * STEPS):
        ask_to_stop(str(run_folder), str(attempt))
        left = workers.run(dataclasses.replace(job, attempt=str(attempt)))
        progress = left.checkpoint.progress
        assert progress.epoch * STEPS + progress.step == attempt + 1
        assert left.entries[-1]["kind"] == "stopped" or progress.epoch == EPOCHS
    assert workers.run(job).same_as(undisturbed(world_size, "fp32"))


def test_a_damaged_checkpoint_is_passed_over(dataset, undisturbed, tmp_path):
    """A run whose newest checkpoint is damaged goes on from the one before, says so, and ends with the same bits."""
    run_folder = tmp_path / "run"
    job = job_of(dataset, run_folder, num_workers=2, **CONFIG)
    fault = kill("step", tmp_path, rank=0, epoch=3, step=2)
    assert not workers._run_once(job, [fault])
    newest = run_folder / checkpoint.FOLDER / "epoch-00002" / checkpoint.WEIGHTS
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    ended = workers.run(job)
    (resumed,) = [entry for entry in ended.entries if entry["kind"] == "resumed"]
    assert resumed["epoch"] == 1
    assert "epoch-00002" in resumed["damaged"][0]
    assert ended.same_as(undisturbed(2, "fp32"))


def test_the_test_split_is_not_looked_at_before_the_end(dataset, undisturbed, tmp_path):
    """Where the test split cannot be read, training still comes to its end, with the same best epoch and weights."""
    torn = tmp_path / "set"
    shutil.copytree(dataset.path, torn)
    shutil.rmtree(torn / "test")
    job = job_of(Dataset(str(torn), dataset.manifest), tmp_path / "run", num_workers=1, **CONFIG)
    with pytest.raises(IntegrityError, match="test"):
        worker_of(job).run()
    found, _ = checkpoint.latest(job.run_folder)
    whole = undisturbed(1, "fp32").checkpoint
    assert found.progress == whole.progress
    assert found.progress.epoch == EPOCHS
    assert all(torch.equal(found.best[name], whole.best[name]) for name in whole.best)


@pytest.mark.parametrize(("looks", "kept"), [(1, 1), (EPOCHS, EPOCHS)], ids=["in an epoch", "in the test"])
def test_nothing_is_kept_of_a_data_set_that_was_replaced(dataset, undisturbed, tmp_path, monkeypatch, looks, kept):
    """A run whose data set is prepared anew keeps what it had before, and once that is undone ends with its bits."""
    job = job_of(dataset, tmp_path, num_workers=1, **CONFIG)
    other = job.manifest.model_copy(update={"splits": {}})
    with monkeypatch.context() as patch:
        patch.setattr(worker, "read_manifest", mock.Mock(side_effect=[job.manifest] * looks + [other]))
        worker_of(job).run()
    found, _ = checkpoint.latest(job.run_folder)
    assert (found.progress.epoch, found.progress.step) == (kept, 0)
    kinds = [entry["kind"] for entry in journal.read(job.run_folder, set())]
    assert sorted(kinds) == sorted([journal.EPOCH] * kept + ["replaced"])
    journal.clear_events(job.run_folder)
    worker_of(job).run()
    assert left_by(job.run_folder).same_as(undisturbed(1, "fp32"))
