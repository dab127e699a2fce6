"""Two commands at one run, as on an object store: what the earlier one leaves to the later one."""

import dataclasses
import shutil
from unittest import mock

import pytest

from cnnjob.errors import OvertakenError, StorageError, TrainingError
from cnnjob.training import checkpoint, driver, journal
from cnnjob.training.state import begun, save_run
from cnnjob.training.stop import take_up
from pipelines import train
from tests.helpers import manifest_of, train_config
from tests.workers import job_of, left_by, worker_of

CONFIG = {"global_batch_size": 16, "num_epochs": 3}


@pytest.fixture
def job(digits, tmp_path):
    """A job whose run lies in MLflow as "run"."""
    made = job_of(digits, tmp_path / "run", num_workers=1, **CONFIG)
    save_run(made.run_folder, begun("run", train_config(digits), manifest_of([1, 2])))
    take_up(made.run_folder, made.attempt)
    return made


def fails_with(job, error):
    """A command that ends by an error; what it told MLflow."""
    with mock.patch.object(train.runs, "end_run") as told, pytest.raises(type(error)) as raised:
        with_mlflow(job, error)
    return [call.args[2] for call in told.call_args_list], raised.value


def with_mlflow(job, error):
    with train._told_to_mlflow(mock.Mock(), job):
        raise error


def test_the_run_of_a_command_that_ends_is_ended(job):
    """Where nobody else has the run, MLflow is told how it ended, and the error stays what it is."""
    assert fails_with(job, TrainingError("why"))[0] == ["FAILED"]
    assert fails_with(job, KeyboardInterrupt())[0] == ["KILLED"]


def test_the_run_of_another_command_is_left_alone(job):
    """One that is told to end leaves the other's run alone; one that fails says that it was overtaken."""
    take_up(job.run_folder, "later")
    assert fails_with(job, KeyboardInterrupt())[0] == []
    with mock.patch.object(train.runs, "end_run") as told, pytest.raises(OvertakenError):
        with_mlflow(job, StorageError("a checkpoint is gone"))
    assert not told.called


def test_a_run_that_nobody_else_knows_is_ended(job):
    """Where two began a run at once, each with a run of its own in MLflow, the one that leaves ends its own."""
    take_up(job.run_folder, "later")
    assert fails_with(dataclasses.replace(job, run_id="own"), KeyboardInterrupt())[0] == ["KILLED"]


def test_an_overtaken_worker_keeps_the_other_ones_checkpoints(job, tmp_path):
    """It writes none, and puts none away for its own."""
    worker_of(job).run()
    before = left_by(job.run_folder)
    shutil.move(tmp_path / "run" / checkpoint.FOLDER, tmp_path / "kept")
    slow = worker_of(job)
    slow._restore()
    take_up(job.run_folder, "later")
    shutil.move(tmp_path / "kept", tmp_path / "run" / checkpoint.FOLDER)
    slow._save()
    assert left_by(job.run_folder).same_as(before)


def test_events_are_told_by_the_try_that_they_happened_to(job, monkeypatch):
    """Epochs count whoever trained them; that another try stopped, or failed, does not."""
    told = []
    monkeypatch.setattr(driver, "_trainer", mock.Mock())
    training = mock.Mock(**{"wait.return_value": True})
    monkeypatch.setattr(driver, "_Training", lambda _: training)
    monkeypatch.setattr(driver.journal, "clear_events", lambda _: None)
    for attempt in (job.attempt, "other"):
        journal.append(job.run_folder, {**journal.event("stopped"), "attempt": attempt})
    journal.append(job.run_folder, {"key": "epoch-00001", "kind": journal.EPOCH, "attempt": "other"})
    driver.fit(job, {}, told.append)
    assert [(entry["kind"], entry["attempt"]) for entry in told] == [(journal.EPOCH, "other"), ("stopped", job.attempt)]


@pytest.mark.parametrize(("status", "ended"), [("KILLED", True), ("RUNNING", True), ("FINISHED", False)])
def test_a_finished_run_is_finished_in_mlflow_too(status, ended):
    """What a later command that was ended has left of its status is put right; one that is right keeps its time."""
    server = mock.Mock()
    server.client.get_run.return_value.info.status = status
    train.runs.end_as_finished(server, "run")
    assert server.client.set_terminated.called is ended
