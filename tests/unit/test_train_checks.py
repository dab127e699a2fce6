"""What a training refuses before it starts and at its end, and what it evaluates with."""

from unittest import mock

import pytest
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from cnnjob.config import kinds
from cnnjob.errors import DatasetError, IntegrityError, ModelError, TrackingError, TrainingError
from cnnjob.models.presets import net_for
from cnnjob.models.spec import evaluation_batch, largest_map
from cnnjob.tracking.registry import promote
from cnnjob.tracking.server import Server
from cnnjob.training import worker
from cnnjob.training.feed import Place
from pipelines import register, train
from pipelines.confs import shipped
from tests.helpers import PictureSource, prepare, prepare_config


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_model_is_chosen_and_told_by_rows(tmp_path, split):
    """A data set without validation or test rows is refused before anything is written or started."""
    prepare(prepare_config(tmp_path / "set", **{split: 0.0}), PictureSource(40))
    places = [f"dataset={tmp_path / 'set'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'mlflow'}"]
    config = kinds.load("train", shipped("train/digits.yaml"), places)
    with pytest.raises(DatasetError, match=f"has no {split} rows"):
        train.run(config, mock.Mock())
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(("side", "rows"), [(8, 512), (32, 512), (64, 256), (224, 16), (4096, 1)])
def test_large_images_are_evaluated_a_few_at_a_time(tmp_path, side, rows):
    """An evaluation's largest map has 64 MiB at most, where an image alone has not more."""
    config = kinds.load("train", shipped("train/digits.yaml"), [f"dataset={tmp_path}"])
    net = net_for(config.model, (3, side, side), 10)
    assert evaluation_batch(net) == rows
    assert rows == 1 or rows * largest_map(net) * 4 <= 64 << 20


def test_ranks_that_read_different_checkpoints_stop(tmp_path, monkeypatch):
    """Where one rank cannot read the newest checkpoint, none goes on: their gradients would be of different weights."""
    rank = object.__new__(worker.Worker)
    rank.job, rank.place = mock.Mock(run_folder=str(tmp_path)), Place(0, 2)
    monkeypatch.setattr(worker, "gather", lambda name, _: [name, "epoch-00004"])
    with pytest.raises(IntegrityError, match="different checkpoints: None, epoch-00004"):
        rank._restore()


def test_only_the_weights_that_were_tested_are_registered(monkeypatch):
    """Where the checkpoint with the best weights cannot be read at the end, the one before it is not taken for it."""
    found = mock.Mock(), mock.Mock(best_epoch=3)
    monkeypatch.setattr(register.driver, "best_model", lambda _: found)
    monkeypatch.setattr(register, "export_onnx", mock.Mock(side_effect=AssertionError("nothing is exported")))
    with pytest.raises(TrainingError, match="epoch 3 as the best and not 5"):
        register._bundle(mock.Mock(), {"best_epoch": 5})


def test_a_data_set_that_was_prepared_anew_is_not_registered_for(digits, tmp_path):
    """What was trained on a data set that has been exchanged meanwhile registers nothing."""
    config = kinds.load("train", shipped("train/digits.yaml"), [f"dataset={digits.path}"])
    train._check_unchanged(config, digits.manifest)
    other = prepare(prepare_config(tmp_path / "set"), PictureSource(40))
    with pytest.raises(TrainingError, match="prepared anew while digits was trained"):
        train._check_unchanged(config, other)


def test_an_alias_that_is_reserved_is_the_users_mistake():
    """MLflow's refusal of a name is told as such, and any other failure of its server as the server's."""
    version = mock.Mock(version="1")
    refusal = MlflowException("'latest' alias name is reserved.", error_code=INVALID_PARAMETER_VALUE)
    for error, told in ((refusal, ModelError), (MlflowException("away"), TrackingError)):
        client = mock.Mock(
            **{"get_model_version.return_value": version, "set_registered_model_alias.side_effect": error}
        )
        with pytest.raises(told):
            promote(Server("sqlite:///x", None, client), "digits", "1", "latest")
