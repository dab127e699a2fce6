"""How a training ends that does not reach its last epoch."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray.train.torch import TorchTrainer

from cnnjob.config import kinds
from cnnjob.errors import IntegrityError, TrainingError, UserError
from pipelines import train
from pipelines.confs import shipped
from pipelines.console import Console
from tests.helpers import PictureSource, prepare, prepare_config
from tests.line import Line

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def sets(line: Line, folder: Path, *more: str) -> list[str]:
    """Overrides that train on the line's digits into a folder of the test's own."""
    places = [f"dataset={line.result.dataset}", f"storage={folder / 'runs'}", f"tracking.uri={folder / 'tracking'}"]
    return [*places, *more]


def test_a_loss_that_is_not_finite_ends_the_run(line: Line, console: Console, tmp_path: Path) -> None:
    """A training that diverges is ended by name of epoch, step and rank, is not tried again, and registers nothing."""
    wild = (
        "optimizer.name=sgd",
        "optimizer.learning_rate=10",
        "optimizer.schedule=constant",
        "optimizer.ema_decay=null",
    )
    config = kinds.load("train", shipped("train/digits.yaml"), sets(line, tmp_path, *wild))
    with pytest.raises(TrainingError, match=r"not finite in epoch 1, step \d+\. Nothing was registered"):
        train.run(config, console)
    client = MlflowClient(f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("cnnjob").experiment_id])
    assert run.info.status == "FAILED"
    assert "not finite" in run.data.tags["cnnjob.ended_because"]
    assert not list(client.search_registered_models())


def test_what_no_try_will_mend_is_not_tried_again(shared_ray: str, console: Console, tmp_path: Path) -> None:
    """A shard that only workers find missing ends the training with what to do about it, and no worker starts twice."""
    prepare(prepare_config(tmp_path / "set"), PictureSource(60))
    next((tmp_path / "set" / "train").iterdir()).unlink()
    places = [f"dataset={tmp_path / 'set'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'tracking'}"]
    config = kinds.load("train", shipped("train/digits.yaml"), [*places, "max_failures=3", "global_batch_size=8"])
    with pytest.raises(IntegrityError, match="Prepare the data set again"):
        train.run(config, console)
    assert not list((tmp_path / "runs" / config.name).glob("journal/**/*.json"))


def test_ray_train_starts_its_controller_with_what_a_job_needs_alone(
    shared_ray: str, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place where ``OwnRayTrainer`` takes actors away is one that Ray Train passes."""
    started = []
    start = TorchTrainer._initialize_and_run_controller
    monkeypatch.setattr(
        TorchTrainer,
        "_initialize_and_run_controller",
        lambda self, **given: (
            started.append([type(each).__name__ for each in given["callbacks"]]),
            start(self, **given),
        )[1],
    )
    prepare(prepare_config(tmp_path / "set"), PictureSource(60))
    places = [f"dataset={tmp_path / 'set'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'tracking'}"]
    train.run(
        kinds.load("train", shipped("train/digits.yaml"), [*places, "num_epochs=1", "global_batch_size=8"]), console
    )
    (callbacks,) = started
    assert "BackendSetupCallback" in callbacks
    assert not {"PlacementGroupCleanerCallback", "DatasetsCallback"} & set(callbacks)


def test_few_images_are_enough(shared_ray: str, console: Console, tmp_path: Path) -> None:
    """A data set of 60 rows is trained on, checked and registered; under another name only that is done again.

    So it is where the model, or the run, was deleted in MLflow since: nothing is trained twice.
    """
    prepare(prepare_config(tmp_path / "set"), PictureSource(60))
    places = [f"dataset={tmp_path / 'set'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'tracking'}"]
    few = [*places, "num_epochs=1", "global_batch_size=8"]
    first = train.run(kinds.load("train", shipped("train/digits.yaml"), few), console)
    again = train.run(kinds.load("train", shipped("train/digits.yaml"), few), console)
    other = train.run(kinds.load("train", shipped("train/digits.yaml"), [*few, "register_as=other"]), console)
    assert (first.created, again.created, other.created) == (True, False, True)
    assert (other.model_name, other.run_id, other.test) == ("other", first.run_id, first.test)
    client = MlflowClient(f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}")
    assert {model.name for model in client.search_registered_models()} == {first.model_name, "other"}
    run = client.get_run(first.run_id)
    assert (run.info.status, run.data.metrics["best_epoch"]) == ("FINISHED", 1)
    assert {point.step for point in client.get_metric_history(first.run_id, "test_loss")} == {1}
    client.delete_registered_model("other")
    assert train.run(kinds.load("train", shipped("train/digits.yaml"), [*few, "register_as=other"]), console).created
    client.delete_run(first.run_id)
    anew = train.run(kinds.load("train", shipped("train/digits.yaml"), few), console)
    assert anew.created
    assert anew.run_id != first.run_id
    assert (anew.epochs, anew.test) == (first.epochs, first.test)


def test_an_address_that_is_no_store_leaves_nothing(shared_ray: str, console: Console, tmp_path: Path) -> None:
    """A tracking.uri at which MLflow can keep nothing is the user's mistake, and no run is begun in the storage."""
    prepare(prepare_config(tmp_path / "set"), PictureSource(60))
    (tmp_path / "file").touch()
    places = [f"dataset={tmp_path / 'set'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'file'}"]
    config = kinds.load("train", shipped("train/digits.yaml"), [*places, "global_batch_size=8"])
    with pytest.raises(UserError, match="cannot keep its store"):
        train.run(config, console)
    assert not (tmp_path / "runs").exists()
