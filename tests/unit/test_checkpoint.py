import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_safetensors

from cnnjob import storage
from cnnjob.config.train import OptimizerConfig
from cnnjob.errors import FormatVersionError, IntegrityError
from cnnjob.training import checkpoint
from cnnjob.training.checkpoint import DESCRIPTION, folder_name, latest, read, write
from tests.helpers import TrainingRun, small_net, train_config, training_rows

FILES = ("checkpoint.json", "weights.safetensors", "best.safetensors", "average.safetensors", "optimizer.safetensors")
FLIPS = 60


def run_of(dataset, optimizer: str, ema: float | None) -> TrainingRun:
    moves = OptimizerConfig(name=optimizer, ema_decay=ema)
    run = TrainingRun(dataset, train_config(dataset, optimizer=moves), small_net(dataset.manifest))
    run.train_epoch(1)
    return run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_rows(tmp_path_factory.mktemp("checkpoint") / "set", 12)


@pytest.fixture(scope="module")
def kept(dataset):
    """A checkpoint of a run of AdamW with a moving average, after real steps."""
    return run_of(dataset, "adamw", 0.9).checkpoint()


@pytest.fixture
def folder(kept, tmp_path) -> Path:
    """A run's folder with two sound checkpoints."""
    for epoch in (1, 2):
        target = tmp_path / folder_name(epoch)
        target.mkdir()
        write(kept, target)
    return tmp_path


def assert_equal(one: checkpoint.Tensors, other: checkpoint.Tensors) -> None:
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_checkpoint_reads_back_equal(dataset, tmp_path, optimizer, ema):
    """Progress, weights, best weights, average and optimizer state come back bit for bit."""
    run = run_of(dataset, optimizer, ema)
    wrote = run.checkpoint()
    write(wrote, tmp_path)
    found = read(str(tmp_path))
    assert found.progress == wrote.progress
    assert_equal(found.weights, wrote.weights)
    assert_equal(found.best, wrote.best)
    assert_equal(found.average, wrote.average)
    assert bool(found.average) == (ema is not None)
    assert found.optimizer["state"].keys() == wrote.optimizer["state"].keys()
    for number, values in wrote.optimizer["state"].items():
        assert_equal(found.optimizer["state"][number], values)
    restored = run_of(dataset, optimizer, ema)
    restored.restore(found)
    assert restored.optimizer.state_dict()["param_groups"][0]["lr"] == wrote.optimizer["param_groups"][0]["lr"]


def test_checkpoint_is_json_and_safetensors(folder):
    """A checkpoint is one JSON document and four safetensors, and nothing else."""
    target = folder / folder_name(1)
    assert {path.name for path in target.iterdir()} == set(FILES)
    assert json.loads((target / DESCRIPTION).read_text())
    assert all(load_safetensors(path.read_bytes()) for path in target.glob("*.safetensors"))


def test_no_pickle_is_used(folder, kept, tmp_path, monkeypatch):
    """A checkpoint is written and read where pickle does not work at all."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    target = tmp_path / "fresh"
    target.mkdir()
    write(kept, target)
    assert read(str(target)).progress == kept.progress


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(folder, name):
    """A byte that changed anywhere in any file is an IntegrityError, and the checkpoint before is used."""
    target = folder / folder_name(2) / name
    content = target.read_bytes()
    for number in range(FLIPS):
        position = number * (len(content) - 1) // (FLIPS - 1)
        damaged = bytearray(content)
        damaged[position] ^= 1
        target.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            read(str(target.parent))
        found, told = latest(str(folder))
        assert found is not None
        assert len(told) == 1


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_noticed(folder, name):
    """A file cut short anywhere, or gone, is an IntegrityError, and the checkpoint before is used."""
    target = folder / folder_name(2) / name
    content = target.read_bytes()
    for length in sorted({0, 1, 7, 8, 9, len(content) - 1, *range(0, len(content), max(1, len(content) // 20))}):
        target.write_bytes(content[:length])
        with pytest.raises(IntegrityError):
            read(str(target.parent))
    target.unlink()
    with pytest.raises(IntegrityError):
        read(str(target.parent))
    assert latest(str(folder))[0] is not None


def test_appended_bytes_are_noticed(folder):
    """A tensor file that grew is an IntegrityError."""
    with (folder / folder_name(2) / "weights.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(IntegrityError, match="weights"):
        read(str(folder / folder_name(2)))


def test_files_of_another_checkpoint_are_noticed(folder, dataset):
    """Weights of another checkpoint, sound in themselves, do not pass for this one's."""
    other = run_of(dataset, "sgd", 0.9).checkpoint()
    strange = folder / "other"
    strange.mkdir()
    write(other, strange)
    shutil.copy(strange / "weights.safetensors", folder / folder_name(2))
    with pytest.raises(IntegrityError, match="weights"):
        read(str(folder / folder_name(2)))


def test_latest_is_the_newest(folder, kept, dataset):
    """The newest of several sound checkpoints is taken, also beyond nine and among other folders."""
    newest = folder / folder_name(10)
    newest.mkdir()
    run = run_of(dataset, "adamw", 0.9)
    run.epoch = 10
    write(run.checkpoint(), newest)
    (folder / "journal").mkdir()
    (folder / "journal" / "epoch-00011.json").write_text("{}")
    found, told = latest(str(folder))
    assert (found.progress.epoch, told) == (10, [])


def test_no_checkpoint_is_none(tmp_path):
    """A run without a checkpoint, or without a folder, has none."""
    assert latest(str(tmp_path)) == (None, [])
    assert latest(str(tmp_path / "none")) == (None, [])


def test_other_format_version_is_refused(folder):
    """A whole checkpoint of another format version is refused by that, not as damage."""
    path = folder / folder_name(2) / DESCRIPTION
    document = json.loads(path.read_text())
    del document["digest"]
    document["format_version"] = 99
    document["digest"] = storage.digest_of(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FormatVersionError, match="99"):
        read(str(path.parent))
