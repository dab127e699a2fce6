import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors

from cnnjob import storage
from cnnjob.config.train import OptimizerConfig
from cnnjob.errors import FormatVersionError, IntegrityError, StorageError
from cnnjob.training import checkpoint
from cnnjob.training.checkpoint import DESCRIPTION, FOLDER, Checkpoint, latest, read, save, write
from cnnjob.training.metrics import Tally
from cnnjob.training.worker import TrainJob
from tests.helpers import training_rows
from tests.workers import job_of, worker_of

TENSORS = ("weights", "best", "average", "optimizer", "partial")
FILES = (DESCRIPTION, *(f"{name}.safetensors" for name in TENSORS))


def job_with(dataset, run_folder: Path, optimizer: str, ema: float | None) -> TrainJob:
    """A run of one worker and one epoch of a few steps."""
    moves = OptimizerConfig(name=optimizer, ema_decay=ema)
    return job_of(dataset, run_folder, num_workers=1, num_epochs=1, global_batch_size=4, optimizer=moves)


def trained(job: TrainJob) -> Checkpoint:
    """What the job's worker hands over to be written, after real steps."""
    with mock.patch.object(checkpoint, "save", wraps=save) as saved:
        worker_of(job).run()
    return saved.call_args.args[0]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_rows(tmp_path_factory.mktemp("checkpoint") / "set", 12)


@pytest.fixture(scope="module")
def kept(dataset, tmp_path_factory):
    """A checkpoint of a run of AdamW with a moving average."""
    return trained(job_with(dataset, tmp_path_factory.mktemp("kept"), "adamw", 0.9))


def at(kept, epoch: int, step: int = 0) -> Checkpoint:
    """The checkpoint as if it were of another epoch and step; in an epoch it has what two ranks counted."""
    counted = (Tally(0.5, np.eye(3, dtype=np.int64)), Tally(1 / 3, np.ones((3, 3), dtype=np.int64)))
    progress = dataclasses.replace(kept.progress, epoch=epoch, step=step)
    entries = tuple({"epoch": number, "val_loss": 1 / number} for number in range(1, epoch + 1))
    return dataclasses.replace(kept, progress=progress, partial=counted if step else (), entries=entries)


@pytest.fixture
def run_folder(kept, tmp_path) -> Path:
    """A run's folder with two sound checkpoints, the newer one in the middle of an epoch."""
    save(at(kept, 1), str(tmp_path))
    save(at(kept, 1, step=2), str(tmp_path))
    return tmp_path


@pytest.fixture
def newest(run_folder) -> Path:
    return run_folder / FOLDER / "epoch-00001-step-000000002"


def assert_equal(one: checkpoint.Tensors, other: checkpoint.Tensors) -> None:
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


def assert_same_optimizer(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same moments, of some parameter, and the same settings, be they tuples or lists."""
    assert one["state"].keys() == other["state"].keys() != set()
    for number, moments in one["state"].items():
        assert_equal(moments, other["state"][number])
    assert json.dumps(one["param_groups"]) == json.dumps(other["param_groups"])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_checkpoint_reads_back_equal(dataset, tmp_path, optimizer, ema):
    """Progress, weights, best weights, average and optimizer state come back bit for bit."""
    wrote = trained(job_with(dataset, tmp_path, optimizer, ema))
    found, _ = latest(str(tmp_path))
    assert found.progress == wrote.progress
    assert_equal(found.weights, wrote.weights)
    assert_equal(found.best, wrote.best)
    assert_equal(found.average, wrote.average)
    assert bool(found.average) == (ema is not None)
    assert_same_optimizer(found.optimizer, wrote.optimizer)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_untrained_net_takes_up_all_of_a_checkpoint(dataset, tmp_path, optimizer, ema):
    """Weights, best weights, average, moments and learning rate are those of the trained net, and were not before."""
    job = job_with(dataset, tmp_path, optimizer, ema)
    wrote = trained(job)
    learner = worker_of(job).learner
    assert not any(torch.equal(tensor, wrote.average[name]) for name, tensor in learner.averages().items())
    assert any(not torch.equal(tensor, wrote.weights[name]) for name, tensor in learner.weights().items())
    assert learner.optimizer.param_groups[0]["lr"] != wrote.optimizer["param_groups"][0]["lr"]
    learner.restore(latest(str(tmp_path))[0])
    assert_equal(learner.weights(), wrote.weights)
    assert_equal(learner.best, wrote.best)
    assert_equal(learner.averages(), wrote.average)
    assert_same_optimizer(learner.optimizer.state_dict(), wrote.optimizer)


def test_counts_and_entries_read_back_equal(kept, newest):
    """What ranks counted in an unfinished epoch, and what was reported before, come back to the last bit."""
    found, wrote = read(str(newest)), at(kept, 1, step=2)
    assert found.entries == wrote.entries
    assert [tally.loss_sum for tally in found.partial] == [tally.loss_sum for tally in wrote.partial]
    assert all((a.confusion == b.confusion).all() for a, b in zip(found.partial, wrote.partial, strict=True))


def test_checkpoint_is_json_and_safetensors(newest):
    """A checkpoint is one JSON document and five safetensors, and nothing else."""
    assert {path.name for path in newest.iterdir()} == set(FILES)
    assert json.loads((newest / DESCRIPTION).read_text())
    assert all(load_safetensors(path.read_bytes()) for path in newest.glob("*.safetensors"))


def test_no_pickle_is_used(kept, tmp_path, monkeypatch):
    """A checkpoint is written and read where pickle does not work at all."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    write(kept, str(tmp_path / "fresh"))
    assert read(str(tmp_path / "fresh")).progress == kept.progress


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(run_folder, newest, name):
    """Any byte of any file that changed, in any one bit, is an IntegrityError."""
    content = bytearray((newest / name).read_bytes())
    with (newest / name).open("r+b", buffering=0) as file:
        for position in range(len(content)):
            file.seek(position)
            file.write(bytes([content[position] ^ 1 << position % 8]))
            with pytest.raises(IntegrityError):
                read(str(newest))
            file.seek(position)
            file.write(content[position : position + 1])
    assert latest(str(run_folder))[1] == [], "undone, it is sound"


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_noticed(run_folder, newest, name):
    """A file cut short by any number of bytes, or gone, is an IntegrityError."""
    with (newest / name).open("r+b", buffering=0) as file:
        for length in range((newest / name).stat().st_size - 1, -1, -1):
            file.truncate(length)
            with pytest.raises(IntegrityError):
                read(str(newest))
    (newest / name).unlink()
    with pytest.raises(IntegrityError):
        read(str(newest))


@pytest.mark.parametrize("name", FILES)
def test_the_one_before_a_damaged_checkpoint_is_used(run_folder, newest, name):
    """A damaged checkpoint is passed over, saying which file it is, and the one before is used."""
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found, told = latest(str(run_folder))
    assert found is not None
    assert (found.progress.epoch, found.progress.step) == (1, 0)
    assert len(told) == 1
    assert str(newest / name) in told[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("local", [True, False])
def test_a_store_that_fails_is_no_damage(run_folder, newest, name, local, monkeypatch):
    """A file that a store does not give now ends the attempt, and is passed over on a disk, which will not give it."""
    read_bytes = storage.read_bytes

    def failing(uri: str) -> bytes:
        if uri == str(newest / name):
            raise StorageError(f"{uri}: no answer")
        return read_bytes(uri)

    monkeypatch.setattr(storage, "read_bytes", failing)
    monkeypatch.setattr(storage, "is_local", lambda _: local)
    if local:
        assert latest(str(run_folder))[0].progress.epoch == 1
    else:
        with pytest.raises(StorageError, match="no answer"):
            latest(str(run_folder))


def test_the_same_document_in_another_form_is_noticed(newest):
    """A description that says the same, but is not what was written, is damage."""
    document = json.loads((newest / DESCRIPTION).read_text())
    (newest / DESCRIPTION).write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match=DESCRIPTION):
        read(str(newest))


def test_appended_bytes_are_noticed(newest):
    """A tensor file that grew is an IntegrityError."""
    with (newest / "weights.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(IntegrityError, match="weights"):
        read(str(newest))


def test_files_of_another_checkpoint_are_noticed(newest, dataset, tmp_path):
    """Weights of another checkpoint, sound in themselves, do not pass for this one's."""
    write(trained(job_with(dataset, tmp_path / "run", "sgd", 0.9)), str(tmp_path / "other"))
    shutil.copy(tmp_path / "other" / "weights.safetensors", newest)
    with pytest.raises(IntegrityError, match="weights"):
        read(str(newest))


def test_two_checkpoints_are_kept(kept, tmp_path):
    """After each checkpoint the newest and the one before it lie there, also beyond nine and within an epoch."""
    for epoch, step in [(8, 0), (9, 0), (9, 3), (9, 11), (10, 0)]:
        save(at(kept, epoch, step), str(tmp_path))
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["epoch-00009-step-000000011", "epoch-00010"]
    found, told = latest(str(tmp_path))
    assert (found.progress.epoch, found.progress.step, told) == (10, 0, [])


def test_a_run_that_starts_anew_keeps_what_it_writes(kept, tmp_path):
    """Later checkpoints, which were passed over as damaged, do not push out the one that is written now."""
    for epoch in (4, 5):
        save(at(kept, epoch), str(tmp_path))
        (tmp_path / FOLDER / f"epoch-{epoch:05d}" / "weights.safetensors").write_bytes(b"")
    assert latest(str(tmp_path))[0] is None
    save(at(kept, 1), str(tmp_path))
    assert latest(str(tmp_path))[0].progress.epoch == 1
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["epoch-00001"]


def test_one_that_was_not_written_to_its_end_is_not_there(kept, run_folder):
    """Files without a description are no checkpoint: they are neither used nor told, and are written over."""
    (run_folder / FOLDER / "epoch-00002").mkdir()
    (run_folder / FOLDER / "epoch-00002" / "weights.safetensors").write_bytes(b"half")
    assert latest(str(run_folder))[1] == []
    save(at(kept, 2), str(run_folder))
    assert latest(str(run_folder))[0].progress.epoch == 2


def test_parts_of_a_checkpoint_that_a_kill_has_left_are_removed(kept, run_folder):
    """Also where it never gets its description: within an epoch its name may not come again."""
    (run_folder / FOLDER / "epoch-00001-step-000000003").mkdir()
    (run_folder / FOLDER / "epoch-00001-step-000000003" / "weights.safetensors").write_bytes(b"half")
    save(at(kept, 2), str(run_folder))
    assert not [path for path in (run_folder / FOLDER).iterdir() if not (path / DESCRIPTION).exists()]


def test_no_checkpoint_is_none(tmp_path):
    """A run without a checkpoint, or without a folder, has none."""
    assert latest(str(tmp_path)) == (None, [])
    assert latest(str(tmp_path / "none")) == (None, [])


def test_other_format_version_is_refused(newest):
    """A whole checkpoint of another format version is refused by that, not as damage."""
    document = json.loads((newest / DESCRIPTION).read_text())
    del document["digest"]
    (newest / DESCRIPTION).write_bytes(checkpoint._sealed({**document, "format_version": 99}))
    with pytest.raises(FormatVersionError, match="99"):
        read(str(newest))
