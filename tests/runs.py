"""Whole trainings: a short one on the digits, what it leaves in its folder and in MLflow, and what it should leave."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from cnnjob.config import kinds
from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import read_manifest
from cnnjob.models.presets import net_for
from cnnjob.training.worker import TrainJob
from pipelines.confs import shipped
from tests import workers
from tests.workers import Ended

EPOCHS = 4


def config_of(dataset: str, folder: Path, world_size: int, *more: str) -> TrainConfig:
    """The shipped training of the digits, short and augmented, into a folder of the test's own; ``more`` overrides."""
    places = [f"dataset={dataset}", f"storage={folder / 'runs'}", f"tracking.uri={folder / 'tracking'}"]
    workers_of = [f"num_workers={world_size}", f"num_epochs={EPOCHS}", "augment.shift=1", "augment.flip=true"]
    config: TrainConfig = kinds.load("train", shipped("train/digits.yaml"), [*places, *workers_of, *more])
    return config


def undisturbed(config: TrainConfig, folder: Path) -> Ended:
    """The same training, by bare processes that nothing happens to."""
    manifest = read_manifest(config.dataset)
    net = net_for(config.model, manifest.image.shape, len(manifest.class_names))
    return workers.run(TrainJob(config, manifest, net, str(folder), "run", 1, 0.0, {}, "attempt"))


def left_by(config: TrainConfig) -> Ended:
    """What the run of a config has left."""
    return workers.left_by(f"{config.storage}/{config.name}")


def run_in_mlflow(config: TrainConfig) -> tuple[MlflowClient, Any]:
    """The one run that MLflow has."""
    client = MlflowClient(f"sqlite:///{Path(config.tracking.uri) / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("cnnjob").experiment_id])
    return client, run


def assert_one_point_a_step(config: TrainConfig) -> None:
    """Each metric has one point for each epoch, and what is told at the end one in all."""
    client, run = run_in_mlflow(config)
    epochs = config.num_epochs
    assert run.info.status == "FINISHED"
    for name in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        once = name.startswith("test") or name == "best_epoch"
        assert steps == ([epochs] if once else list(range(1, epochs + 1))), name
