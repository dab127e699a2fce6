"""What a training refuses before it starts and at its end, and what it evaluates with."""

import dataclasses
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from cnnjob import storage
from cnnjob.config import kinds
from cnnjob.config.train import TrainConfig
from cnnjob.errors import ConfigError, JobError, ModelError, StorageError, TrackingError, TrainingError
from cnnjob.models.presets import PRESETS
from cnnjob.models.spec import Net, evaluation_batch, largest_map
from cnnjob.tracking.registry import promote
from cnnjob.tracking.server import Server, resolved_uri
from cnnjob.training import driver, journal, worker
from cnnjob.training.feed import Place
from cnnjob.training.worker import TrainJob
from pipelines import register, train
from pipelines.confs import shipped
from tests.forked import apart
from tests.helpers import PictureSource, prepare, prepare_config


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_model_is_chosen_and_told_by_rows(tmp_path, split):
    """A data set without validation or test rows is refused before anything is written or started."""
    prepare(prepare_config(tmp_path / "set", **{split: 0.0}), PictureSource(40))
    places = [f"dataset={tmp_path / 'set'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'mlflow'}"]
    config = kinds.load("train", shipped("train/digits.yaml"), places)
    with pytest.raises(ConfigError, match=f"has no {split} rows"):
        train.run(config, mock.Mock())
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_augmentation_leaves_something_of_a_picture(tmp_path):
    """A shift or a cutout as large as a picture is refused before anything is written, with all else that is wrong."""
    prepare(prepare_config(tmp_path / "set", val=0.0), PictureSource(60))
    places = [f"dataset={tmp_path / 'set'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'mlflow'}"]
    wrong = [
        "augment={shift: 64, cutout: 64}",
        "model={spec: {blocks: [{filters: 4, pool: 8}, {filters: 4, pool: 8}]}}",
    ]
    config = kinds.load("train", shipped("train/digits.yaml"), [*places, *wrong])
    told = r"(?s)4 mistakes.*no val rows.*augment\.shift.*augment\.cutout.*pixels on a side.*model: pool2"
    with pytest.raises(ConfigError, match=told):
        train.run(config, mock.Mock())
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(("side", "rows"), [(8, 512), (32, 512), (64, 256), (224, 16), (4096, 1)])
def test_large_images_are_evaluated_a_few_at_a_time(side, rows):
    """An evaluation's largest map has 64 MiB at most, where an image alone has not more."""
    net = Net((3, side, side), 10, PRESETS["default"].blocks)
    assert evaluation_batch(net) == rows
    assert rows == 1 or rows * largest_map(net) * 4 <= 64 << 20


def test_ranks_that_read_different_checkpoints_stop(tmp_path, monkeypatch):
    """Where one rank cannot read the newest checkpoint, none goes on: their gradients would be of different weights."""
    rank = object.__new__(worker.Worker)
    rank.job, rank.place = mock.Mock(run_folder=str(tmp_path)), Place(0, 2)
    monkeypatch.setattr(worker, "gather", lambda name, _: [name, "epoch-00004"])
    with pytest.raises(StorageError, match="different checkpoints: None, epoch-00004"):
        rank._restore()


def test_only_the_weights_that_were_tested_are_registered(monkeypatch):
    """Where the checkpoint with the best weights cannot be read at the end, the one before it is not taken for it."""
    found = mock.Mock(), mock.Mock(best_epoch=3)
    monkeypatch.setattr(register.driver, "best_model", lambda _: found)
    monkeypatch.setattr(register, "export_onnx", mock.Mock(side_effect=AssertionError("nothing is exported")))
    with pytest.raises(TrainingError, match="epoch 3 as the best and not 5"):
        register._bundle(mock.Mock(), {"best_epoch": 5})


def test_a_data_set_that_was_prepared_anew_is_told():
    """A run whose data set has been exchanged meanwhile ends with what to do, and registers nothing."""
    job = mock.Mock()
    train._check_ended(job, [{"kind": "resumed"}])
    with pytest.raises(TrainingError, match=r"prepared anew while .* in epoch 3 or just before"):
        train._check_ended(job, [{"kind": "resumed"}, {"kind": "replaced", "epoch": 3}])


def test_a_net_that_cannot_be_built_is_refused_before_anything_is_written(digits, tmp_path):
    """A net for larger images is the user's mistake, told before Ray starts and before anything is written."""
    places = [f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'mlflow'}"]
    net = "model={spec: {blocks: [{filters: 4, pool: 8}, {filters: 4, pool: 8}]}}"
    config = kinds.load("train", shipped("train/digits.yaml"), [f"dataset={digits.path}", *places, net])
    with pytest.raises(ConfigError, match=r"model: pool2: .* larger images"):
        train.run(config, mock.Mock())
    assert list(tmp_path.iterdir()) == []


def train_until_killed(config: TrainConfig, told: Any) -> None:
    """The command without Ray; it says which run it is at, and stays there."""

    def fit(job: TrainJob, *_: object, **__: object) -> None:
        told.send(job.run_id)
        signal.pause()

    with mock.patch.object(train, "session", return_value=nullcontext()), mock.patch.object(train.driver, "fit", fit):
        train.run(config, mock.Mock())


def test_one_command_at_a_time_trains_a_run(digits, tmp_path, monkeypatch):
    """A second command is refused and changes nothing; once the first was killed, it goes on with the same run."""
    places = [f"dataset={digits.path}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'mlflow'}"]
    config = kinds.load("train", shipped("train/digits.yaml"), places)
    fit = mock.Mock(side_effect=TrainingError("far enough"))
    monkeypatch.setattr(train, "session", lambda *_: nullcontext())
    monkeypatch.setattr(train.driver, "fit", fit)
    with apart(train_until_killed, config) as (first, said):
        run_id = said.recv()
        before = contents(tmp_path / "runs")
        with pytest.raises(JobError, match="right now; wait for it, or stop it first"):
            train.run(config, mock.Mock())
        assert not fit.called
        assert contents(tmp_path / "runs") == before
        assert first.is_alive()
    assert first.exitcode == -signal.SIGKILL
    with pytest.raises(TrainingError, match="far enough"):
        train.run(config, mock.Mock())
    assert fit.call_args.args[0].run_id == run_id


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_a_store_that_does_not_answer_for_a_moment_ends_no_training(tmp_path, monkeypatch):
    """What the journal has is handed over at the next look, once each; why a training ends is what counts then."""
    job = mock.Mock(run_folder=str(tmp_path), attempt="one")
    journal.append(job.run_folder, {"key": "epoch-00001", "kind": journal.EPOCH})
    training = mock.Mock(
        **{"wait.side_effect": [False, False, False, True], "result.side_effect": TrainingError("why")}
    )
    monkeypatch.setattr(driver, "_trainer", mock.Mock())
    monkeypatch.setattr(driver, "_Training", lambda _: training)
    away = StorageError("no answer")
    read_json, answers = storage.read_json, iter([away, away])
    monkeypatch.setattr(storage, "read_json", lambda uri: _raise(next(answers, None)) or read_json(uri))
    monkeypatch.setattr(driver, "forget", mock.Mock(side_effect=away))
    told = []
    with pytest.raises(TrainingError, match="why"):
        driver.fit(job, {}, told.append)
    assert [entry["key"] for entry in told] == ["epoch-00001"]


def _raise(error):
    if error is not None:
        raise error


@pytest.mark.parametrize(
    ("asked", "there", "done"),
    [
        ({}, lambda *_: True, True),
        ({"model_name": "b"}, lambda *_: True, False),
        ({"uri": "other"}, lambda *_: True, False),
        ({}, lambda *_: False, False),
        ({}, mock.Mock(side_effect=TrackingError("no answer")), True),
        ({}, mock.Mock(side_effect=ModelError("there is no store")), False),
    ],
)
def test_a_finished_run_is_done_for_its_model_in_its_mlflow(tmp_path, monkeypatch, asked, there, done):
    """Another name or another MLflow has no model of the run yet, and what was deleted is none; no answer is no no."""
    uri = str(tmp_path / "mlflow")
    monkeypatch.setattr(train, "connect", lambda *_: None)
    monkeypatch.setattr(train.runs, "end_as_finished", lambda *_: None)
    monkeypatch.setattr(train.runs, "is_there", lambda *_: True)
    monkeypatch.setattr(train, "is_registered", there)
    result = {field.name: None for field in dataclasses.fields(train.TrainResult)}
    state = mock.Mock(result={**result, "model_name": "a", "tracking_uri": resolved_uri(uri)})
    config = mock.Mock(model_name=asked.get("model_name", "a"), tracking=mock.Mock(uri=asked.get("uri", uri)))
    found = train._finished(state, config)
    assert (found is not None) == done
    assert not done or found.created is False
