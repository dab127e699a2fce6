"""A training on a real Ray whose workers die and hang, and whose command is told to end and is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cnnjob import phases
from cnnjob.config import kinds
from cnnjob.config.load import dump_config
from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import read_manifest
from cnnjob.models.presets import net_for
from cnnjob.training import checkpoint, journal
from cnnjob.training.worker import TrainJob
from pipelines import train
from pipelines.confs import shipped
from pipelines.console import Console
from tests import workers
from tests.line import ROOT, Line
from tests.workers import Ended

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS = 4
WAIT_S = 120


def config_of(line: Line, folder: Path, world_size: int) -> TrainConfig:
    """The shipped training of the digits, short, into a folder of the test's own."""
    places = [f"dataset={line.result.dataset}", f"storage={folder / 'runs'}", f"tracking.uri={folder / 'tracking'}"]
    workers_of = [f"num_workers={world_size}", f"num_epochs={EPOCHS}", "augment.shift=1", "augment.flip=true"]
    config: TrainConfig = kinds.load("train", shipped("train/digits.yaml"), [*places, *workers_of])
    return config


def undisturbed(config: TrainConfig, folder: Path) -> Ended:
    """The same training, by bare processes that nothing happens to."""
    manifest = read_manifest(config.dataset)
    net = net_for(config.model, manifest.image.shape, len(manifest.class_names))
    return workers.run(TrainJob(config, manifest, net, str(folder), "run", 1, 0.0, "attempt"))


def left_by(config: TrainConfig) -> Ended:
    """What the run of a config has left."""
    run_folder = f"{config.storage}/{config.name}"
    found, damaged = checkpoint.latest(run_folder)
    assert found is not None
    assert not damaged
    return Ended(1, found, list(journal.read(run_folder, set())))


def run_in_mlflow(config: TrainConfig) -> tuple[MlflowClient, Any]:
    """The one run that MLflow has."""
    client = MlflowClient(f"sqlite:///{Path(config.tracking.uri) / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("cnnjob").experiment_id])
    return client, run


def assert_one_point_a_step(config: TrainConfig) -> None:
    """Each metric has one point for each epoch, and those of the test split one in all."""
    client, run = run_in_mlflow(config)
    assert run.info.status == "FINISHED"
    for name in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert steps == ([EPOCHS] if name.startswith("test") else list(range(1, EPOCHS + 1))), name


def test_a_worker_that_dies_and_one_that_hangs(
    line: Line, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are started again by themselves; weights and metrics are those of an undisturbed run, bit for bit."""
    config = config_of(line, tmp_path, 2)
    faults = [
        workers.kill("step", tmp_path, rank=1, epoch=2, step=3),
        {**workers.kill("step", tmp_path, rank=0, epoch=4, step=5), "signal": "SIGSTOP"},
    ]
    monkeypatch.setattr(train, "worker_environment", lambda: {phases.ENVIRONMENT: json.dumps(faults)})
    train.run(config, console)
    assert all(Path(fault["mark"]).exists() for fault in faults), "each instant is to be reached"
    assert left_by(config).same_as(undisturbed(config, tmp_path / "undisturbed"))
    assert_one_point_a_step(config)


def test_a_command_that_is_told_to_end_and_one_that_is_killed(line: Line, tmp_path: Path) -> None:
    """SIGTERM ends it by 143 with a checkpoint, after SIGKILL it goes on, and the end is that of an undisturbed run."""
    config = config_of(line, tmp_path, 2)
    conf = tmp_path / "train.yaml"
    conf.write_text(dump_config(config))
    run_folder = tmp_path / "runs" / config.name

    told = begin(conf)
    wait_for(run_folder / "journal" / "epoch-00001.json", told)
    told.send_signal(signal.SIGTERM)
    _, err = told.communicate(timeout=WAIT_S)
    assert told.returncode == 128 + signal.SIGTERM, err
    assert "run the same command again to go on" in err
    kept, _ = checkpoint.latest(str(run_folder))
    assert kept is not None
    assert run_in_mlflow(config)[1].info.status == "KILLED"
    assert run_in_mlflow(config)[1].data.tags["cnnjob.ended_because"] == "SIGTERM"

    killed = begin(conf)
    wait_for(run_folder / "journal" / f"epoch-{kept.progress.epoch + 1:05d}.json", killed)
    killed.kill()
    killed.communicate(timeout=WAIT_S)

    last = begin(conf)
    _, err = last.communicate(timeout=WAIT_S)
    assert last.returncode == 0, err
    assert "Going on after epoch" in err
    assert left_by(config).same_as(undisturbed(config, tmp_path / "undisturbed"))
    assert_one_point_a_step(config)


def begin(conf: Path) -> subprocess.Popen[str]:
    """`cnnjob train` in a process of its own, on a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", "train", str(conf)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there, while the process lives."""
    until = time.monotonic() + WAIT_S
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.05)
