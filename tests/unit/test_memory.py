"""What a training holds in memory: refused where it cannot fit, and only there."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from cnnjob.cluster import session
from cnnjob.config import kinds
from cnnjob.config.train import MAX_PARAMETERS, ModelConfig, OptimizerConfig
from cnnjob.errors import ConfigError, ResourceError
from cnnjob.models.presets import net_for
from cnnjob.models.spec import Block, Net
from cnnjob.models.trace import trace
from cnnjob.training.memory import check_fits, held
from pipelines import train, train_checks
from pipelines.confs import shipped
from tests.forked import apart
from tests.helpers import Dataset, PictureSource, prepare, prepare_config, train_config
from tests.workers import job_of, worker_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """160 training rows of 3x8x8."""
    output = tmp_path_factory.mktemp("memory") / "set"
    return Dataset(str(output), prepare(prepare_config(output, size=(8, 8)), PictureSource(200)))


def wide(dataset: Dataset, width: int) -> Net:
    """A net with about ``width`` squared parameters."""
    return Net(dataset.manifest.image.shape, 3, (Block(2, padding=1, pool=2),), (width, width))


def deep(dataset: Dataset) -> Net:
    """A net with few parameters and many maps."""
    return Net(dataset.manifest.image.shape, 3, (Block(512, padding=1), Block(2, kernel=1, pool=8)))


@pytest.mark.parametrize(
    ("optimizer", "values", "copies"),
    [
        (OptimizerConfig(), {}, 5),
        (OptimizerConfig(ema_decay=0.9), {}, 6),
        (OptimizerConfig(name="sgd"), {}, 4),
        (OptimizerConfig(name="sgd"), {"num_epochs": 1}, 3),
        (OptimizerConfig(ema_decay=0.9), {"use_gpu": True}, 1),
    ],
)
def test_a_worker_holds_its_net_several_times(dataset, optimizer, values, copies):
    """Weights, gradients, moments, average, best weights; on GPUs only the last are in the machine's memory."""
    net = wide(dataset, 100)
    found = held(train_config(dataset, optimizer=optimizer, **values), dataset.manifest, net)
    assert found.state == copies * 4 * trace(net).parameters


def test_rows_and_maps_are_those_of_the_worker_with_the_most(dataset):
    """Rows that fit are held as pixels; a step has a worker's share of the batch, but not more rows than there are."""
    net, rows = deep(dataset), dataset.manifest.splits["train"].rows
    config = train_config(dataset, num_workers=2, global_batch_size=100_000)
    found = held(config, dataset.manifest, net)
    most = -(-rows // 2) + -(-dataset.manifest.splits["val"].rows // 2)
    assert abs(found.rows - most * 192) <= 192
    assert found.maps == -(-rows // 2) * 4 * (192 + 512 * 64 + 2 * 64)
    assert held(config.model_copy(update={"precision": "bf16"}), dataset.manifest, net).maps == found.maps // 2


@pytest.mark.parametrize(
    ("net", "values", "words"),
    [
        (wide, {}, ["parameters x 4 bytes x (1 weights + 1 gradients + 2 adamw's moments", "fewer parameters"]),
        (deep, {"global_batch_size": 100_000}, ["of maps", "Lower global_batch_size"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(dataset, net, values, words):
    """With what is there, what is needed and of what, and with what takes most; a byte more, and it is taken."""
    made = wide(dataset, 2000) if net is wide else deep(dataset)
    config = train_config(dataset, num_workers=2, **values)
    needed = held(config, dataset.manifest, made).at_once
    check_fits(config, dataset.manifest, made, needed)
    with pytest.raises(ResourceError) as told:
        check_fits(config, dataset.manifest, made, needed - 1)
    assert all(word in str(told.value) for word in ["2 workers x (", "lower num_workers", *words])


def measured(job: Any, told: Any) -> None:
    """The most memory that a training took beyond what its process had before."""

    def memory(name: str) -> int:
        (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name))
        return int(line.split()[1]) * 1024

    before = memory("VmRSS")
    worker_of(job).run()
    told.send(memory("VmHWM") - before)


@pytest.mark.parametrize("optimizer", [OptimizerConfig(ema_decay=0.9), OptimizerConfig(name="sgd")])
@pytest.mark.parametrize("net", [wide, deep])
def test_nothing_that_fits_is_refused(dataset, tmp_path, net, optimizer):
    """A real training takes more than what is counted, whether its net or its maps are large."""
    made = wide(dataset, 2500) if net is wide else deep(dataset)
    job = job_of(
        dataset, tmp_path / "run", made, num_workers=1, global_batch_size=160, num_epochs=2, optimizer=optimizer
    )
    with apart(measured, job) as (_, said):
        assert said.recv() > held(job.config, dataset.manifest, made).at_once


def config_of(dataset: Dataset, folder: Path, *more: str):
    places = [f"dataset={dataset.path}", f"storage={folder / 'runs'}", f"tracking.uri={folder / 'mlflow'}"]
    return kinds.load("train", shipped("train/digits.yaml"), [*places, "global_batch_size=16", *more])


def test_a_training_is_refused_before_anything_is_started_or_written(dataset, tmp_path, monkeypatch):
    """A net that is too large for this machine is told at once; on a cluster its nodes have their own memory."""
    monkeypatch.setattr(train, "session", mock.Mock(side_effect=AssertionError("no Ray is started")))
    config = config_of(dataset, tmp_path, "model={spec: {blocks: [{filters: 4}], hidden: [20_000, 20_000]}}")
    monkeypatch.setattr(train_checks, "own_memory", lambda: 8 * 10**9)
    with pytest.raises(ResourceError, match=r"takes at least .* GB of memory, and this machine has 8\.00 GB"):
        train.run(config, mock.Mock())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(train_checks, "own_memory", lambda: None)
    with pytest.raises(AssertionError, match="no Ray is started"):
        train.run(config, mock.Mock())


def test_a_finished_run_needs_no_memory(dataset, tmp_path, monkeypatch):
    """What is done is done on a smaller machine too."""
    monkeypatch.setattr(train_checks, "own_memory", lambda: 1)
    monkeypatch.setattr(train, "_finished", lambda *_: "done")
    assert train.run(config_of(dataset, tmp_path), mock.Mock()) == "done"


def test_a_net_beyond_the_bound_is_refused_with_its_data(dataset, tmp_path, monkeypatch):
    """Where only the data set's images make it so large: the layer that has most of it is named."""
    monkeypatch.setattr(train, "session", mock.Mock(side_effect=AssertionError("no Ray is started")))
    spec = "model={spec: {blocks: [{filters: 4096, kernel: 1}], hidden: [4096]}}"
    with pytest.raises(ConfigError, match=r"model: 1,073,.* parameters on images of 3x8x8, .*; linear1 has"):
        train.run(config_of(dataset, tmp_path, spec), mock.Mock())
    assert list(tmp_path.iterdir()) == []
    assert trace(net_for(ModelConfig(preset="default"), (3, 1024, 1024), 10)).parameters < MAX_PARAMETERS


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, 64_000),
        ({"/sys/fs/cgroup/memory.max": "max\n"}, 64_000),
        ({"/sys/fs/cgroup/memory.max": "4096\n"}, 4096),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 64_000),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "8192\n"}, 8192),
    ],
)
def test_a_container_has_the_memory_that_it_is_given(monkeypatch, files, memory):
    """The machine's, or what bounds the container, in both versions of cgroups."""

    def read_text(path: Path) -> str:
        if str(path) in files:
            return files[str(path)]
        raise FileNotFoundError

    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 64}.__getitem__)
    monkeypatch.setattr(session, "Path", lambda path: SimpleNamespace(read_text=lambda: read_text(path)))
    monkeypatch.delenv(session.CLUSTER_ENV, raising=False)
    assert session.own_memory() == memory
    monkeypatch.setenv(session.CLUSTER_ENV, "10.0.0.1:6379")
    assert session.own_memory() is None
