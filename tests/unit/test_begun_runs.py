"""The run that a training works on: begun, gone on with, and one where two commands begin at once."""

import dataclasses
from unittest import mock

import pytest

from cnnjob import storage
from cnnjob.config import kinds
from cnnjob.errors import TrackingError, UserError
from cnnjob.tracking import runs
from cnnjob.tracking.server import connect
from cnnjob.training.feed import feed_of
from cnnjob.training.state import open_run, run_id_of, save_run
from pipelines import train
from pipelines.confs import shipped


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """MLflow in a folder."""
    return connect(str(tmp_path_factory.mktemp("mlflow")), create=True)


def config_of(digits, server, folder, experiment: str, *more: str):
    places = [f"dataset={digits.path}", f"storage={folder}/runs", f"tracking.uri={server.uri}"]
    return kinds.load("train", shipped("train/digits.yaml"), [*places, f"tracking.experiment={experiment}", *more])


def entered(server, config, digits, notes=None):
    """The run that a command at this config works on."""
    console = mock.Mock(note=[].append if notes is None else notes.append)
    return train._entered(server, config, digits.manifest, feed_of(config, digits.manifest), console)


def listed(server, experiment: str):
    return server.client.search_runs([runs.ensure_experiment(server, experiment)])


def test_a_run_goes_on_with_its_data_set(digits, server, tmp_path):
    """The second command works on the first one's run, which has each split once."""
    config = config_of(digits, server, tmp_path, "goes on")
    first = entered(server, config, digits)
    assert entered(server, config, digits) == first
    (run,) = listed(server, "goes on")
    inputs = run.inputs.dataset_inputs
    assert {(each.dataset.name, each.dataset.digest) for each in inputs} == {
        ("dataset", f"{digits.manifest.fingerprint[:12]}-{split}") for split in ("train", "val", "test")
    }
    assert run.data.tags["cnnjob.data_fingerprint"].startswith(inputs[0].dataset.digest.partition("-")[0])


def test_a_data_set_that_is_not_logged_ends_no_run(digits, server, tmp_path, monkeypatch):
    """Also an MLflow too old for data sets has the rest of a run; the next command at it tries again."""
    config = config_of(digits, server, tmp_path, "old server")
    monkeypatch.setattr(train, "log_inputs", mock.Mock(side_effect=TrackingError("no such endpoint.")))
    notes: list[str] = []
    state = entered(server, config, digits, notes)
    assert run_id_of(f"{config.storage}/{config.name}") == state.run_id
    assert notes == ["no such endpoint. Training goes on; its run has no data set in MLflow's column of that name."]
    monkeypatch.undo()
    entered(server, config, digits)
    assert len(listed(server, "old server")[0].inputs.dataset_inputs) == 3


@pytest.fixture
def beaten(monkeypatch):
    """Let another command begin a run, once, while this one asks MLflow for one."""

    def during(begin) -> None:
        start, waiting = runs.start_run, [begin]

        def slow(*arguments) -> str:
            run_id = start(*arguments)
            if waiting:
                waiting.pop()()
            return run_id

        monkeypatch.setattr(train.runs, "start_run", slow)

    return during


@pytest.mark.slow
def test_of_two_commands_that_begin_at_once_one_begins_the_run(digits, server, s3_folder, beaten):
    """The slower one goes on with the run of the faster; its own in MLflow is gone, so one is listed."""
    config = config_of(digits, server, s3_folder, "at once")
    others = []
    beaten(lambda: others.append(entered(server, config, digits)))
    mine = entered(server, config, digits)
    assert [mine] == others
    assert [run.info.run_id for run in listed(server, "at once")] == [mine.run_id]
    assert run_id_of(f"{config.storage}/{config.name}") == mine.run_id


@pytest.mark.slow
def test_a_run_that_is_gone_in_mlflow_is_begun_again_by_one(digits, server, s3_folder, beaten):
    """The same where a run's own was deleted in MLflow, and two commands find that out at once."""
    config = config_of(digits, server, s3_folder, "deleted")
    first = entered(server, config, digits)
    runs.discard(server, first.run_id)
    others = []
    beaten(lambda: others.append(entered(server, config, digits)))
    assert [entered(server, config, digits)] == others
    assert [run.info.run_id for run in listed(server, "deleted")] == [others[0].run_id]


@pytest.mark.slow
def test_of_two_other_configs_that_begin_at_once_one_is_refused(digits, server, s3_folder, beaten):
    """The slower one is told the difference, as a later one would be, and leaves nothing in MLflow."""
    config = config_of(digits, server, s3_folder, "differ")
    other = config_of(digits, server, s3_folder, "differ", "seed=7")
    beaten(lambda: entered(server, other, digits))
    with pytest.raises(UserError, match="seed: was 7, is 0"):
        entered(server, config, digits)
    assert len(listed(server, "differ")) == 1


def test_a_finished_run_is_ended_as_finished(digits, server, tmp_path, monkeypatch):
    """One that a later command has left as killed is put right once it is found to be done, and only then."""
    config = config_of(digits, server, tmp_path, "finished")
    folder = storage.join(config.storage, config.name)
    result = {field.name: None for field in dataclasses.fields(train.TrainResult)}
    result |= {"model_name": config.model_name, "model_version": "1", "tracking_uri": server.uri}
    state = entered(server, config, digits)
    save_run(folder, dataclasses.replace(state, result={**result, "run_id": state.run_id}))
    runs.end_run(server, state.run_id, "KILLED")
    for there, status in ((False, "KILLED"), (True, "FINISHED")):
        monkeypatch.setattr(train, "is_registered", lambda *_, there=there: there)
        assert (train._finished(open_run(folder, config, digits.manifest), config) is not None) == there
        assert server.client.get_run(state.run_id).info.status == status
