"""Where MLflow is, what its errors become, and what somebody deleted in it."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from cnnjob.config.base import TRACKING_DATABASES, TRACKING_SERVERS
from cnnjob.errors import ModelError, TrackingError, UserError
from cnnjob.tracking import registry, runs
from cnnjob.tracking import server as servers
from cnnjob.tracking.inputs import ReadSplit, log_inputs
from cnnjob.tracking.server import asking, connect, resolved_uri, shown
from tests.mlflow_server import end, free_port, serve
from tests.servers import serving

NOBODY = 65534
SECRETS = ("postgresql://me:s3cret@db/mlflow", "postgresql://db/mlflow?sslmode=off&password=s3cret")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store that was made once: MLflow takes seconds for its tables."""
    folder = tmp_path_factory.mktemp("made")
    connect(str(folder), create=True)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A folder with a store of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "my store"))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A real MLflow server that keeps artifacts below a file, where it cannot."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "full").write_bytes(b"")
    port = free_port()
    process = serve(folder, port, "--artifacts-destination", str(folder / "full"))
    yield f"http://127.0.0.1:{port}"
    end(process)


@pytest.fixture(params=["folder", pytest.param("server", marks=pytest.mark.slow)])
def server(request, folder):
    """MLflow in a folder, and as a real server."""
    return connect(request.getfixturevalue("address") if request.param == "server" else str(folder), create=True)


def test_a_run_goes_on_unless_it_is_gone_or_deleted(server):
    """A run that ended is resumed; one that was deleted, or that this server never had, is not."""
    run_id = runs.start_run(server, "resumed", "run", {}, {})
    runs.end_run(server, run_id, "FAILED", reason="a worker died")
    assert runs.resume_run(server, run_id)
    assert server.client.get_run(run_id).info.status == "RUNNING"
    server.client.delete_run(run_id)
    assert not runs.resume_run(server, run_id)
    assert not runs.resume_run(server, "0" * 32)


def test_a_deleted_experiment_is_told_by_its_name(server):
    """No run begins in a deleted experiment, and its own run does not go on; restored, it takes runs as before."""
    run_id = runs.start_run(server, "deleted", "run", {}, {})
    experiment_id = runs.ensure_experiment(server, "deleted")
    server.client.delete_experiment(experiment_id)
    assert not runs.resume_run(server, run_id)
    with pytest.raises(UserError, match=rf"experiment deleted at .*-id {experiment_id}.*set tracking\.experiment"):
        runs.start_run(server, "deleted", "run", {}, {})
    assert runs.start_run(server, "another", "run", {}, {})
    server.client.restore_experiment(experiment_id)
    assert runs.ensure_experiment(server, "deleted") == experiment_id
    assert runs.resume_run(server, run_id)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("config.yaml", 500), ("a%23b.yaml", 400)])
def test_an_upload_that_a_server_refuses_is_a_tracking_error(address, monkeypatch, name, status):
    """An artifact that a server cannot store, or whose name it does not take, is told with its answer."""
    server = connect(address)
    run_id = runs.start_run(server, "uploads", "run", {}, {})
    if status >= 500:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=rf"MLflow at {address} could not store artifacts: .*{status}"):
        runs.log_files(server, run_id, {name: b"seed: 0"})


def test_artifacts_that_a_disk_does_not_take_are_a_tracking_error(folder):
    """Artifacts in a folder that cannot be written are told with the system's reason."""
    server = connect(str(folder), create=True)
    run_id = runs.start_run(server, "experiment", "run", {}, {})
    (folder / "artifacts").write_bytes(b"")
    with pytest.raises(TrackingError, match=r"could not store artifacts: .*artifacts"):
        runs.log_files(server, run_id, {"config.yaml": b"seed: 0"})


def test_a_database_that_fails_is_told_in_a_line(folder, capfd):
    """MLflow's traceback of it is not printed: it is that of the error, which --debug shows."""
    server = connect(str(folder), create=True)
    run_id = runs.start_run(server, "experiment", "run", {}, {})
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("DROP TABLE metrics")
    with pytest.raises(TrackingError, match="no such table: metrics") as told:
        runs.log_metrics(server, run_id, [Metric("loss", 1.0, 0, 0)])
    assert "\n" not in str(told.value)
    assert isinstance(told.value.__cause__.__cause__, OperationalError)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_asks_for_a_password_is_told_as_that(status):
    """The end names the variables that a name and a password are read from."""
    with serving((status, b"You are not authenticated.")) as (url, _), pytest.raises(TrackingError) as told:
        registry.promote(connect(url), "digits", None, "champion")
    assert "MLFLOW_TRACKING_USERNAME" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [MlflowException(""), OSError(), ConnectionResetError()])
def test_an_error_without_a_word_is_told_by_its_kind(folder, error):
    """An error that says nothing is told by its type."""
    server = connect(str(folder))
    with pytest.raises(TrackingError, match=f"could not answer: {type(error).__name__}"), asking(server, "answer"):
        raise error


def test_a_fault_of_our_own_is_not_one_of_mlflow(folder):
    """What is neither of MLflow nor of the world passes unchanged."""
    server = connect(str(folder))
    with pytest.raises(ZeroDivisionError), asking(server, "divide"):
        raise ZeroDivisionError


@pytest.mark.parametrize("uri", ["htp://server", "file:///data", "sqlite://", "http://", "/a%20b"])
def test_an_address_that_mlflow_does_not_open_is_refused(uri):
    """An address given on the command line is held to the rule of a config's."""
    with pytest.raises(UserError, match=r"tracking\.uri: "):
        connect(uri, create=True)


def test_the_addresses_are_those_of_mlflow():
    """All that MLflow opens is taken, but neither its folders of files nor Unity Catalog's: it refuses both."""
    with pytest.raises(MlflowException) as told:
        MlflowClient("htp://server")
    refused = {"file": "file:///data", "databricks-uc": "databricks-uc://profile", "uc": "uc:http://localhost"}
    assert {*TRACKING_SERVERS, *TRACKING_DATABASES, "", *refused} == set(told.value.supported_uri_schemes)
    for uri in refused.values():
        with pytest.raises(MlflowException, match=r"maintenance mode|Unity Catalog"):
            MlflowClient(uri)


def unfit(tmp_path: Path, kind: str) -> str:
    """A tracking address at which there can be no SQLite file."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / "mlflow.db").mkdir(parents=True)
    return {
        "file": f"{tmp_path}/file",
        "below a file": f"{tmp_path}/file/tracking",
        "folder": f"{tmp_path}/folder",
        "sqlite": f"sqlite:///{tmp_path}/file/mlflow.db",
        "driver": f"sqlite+pysqlite:///{tmp_path}/file/mlflow.db?timeout=5",
    }[kind]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["file", "below a file", "folder", "sqlite", "driver"])
def test_a_place_where_no_store_can_be_is_refused(tmp_path, kind):
    """A file in the place of the folder, or a folder in that of the file: told at once with the key and the path."""
    with pytest.raises(UserError, match=rf"tracking\.uri: .* {tmp_path}/f"):
        connect(unfit(tmp_path, kind), create=True)


def drop_rights() -> None:
    """Become nobody, where one is root, who may write everywhere."""
    if os.geteuid() == 0:
        os.setuid(NOBODY)


def failure_of_nobody(folder: Path, create: bool) -> BaseException | None:
    """What connecting ends with for a user without rights."""
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=fork, initializer=drop_rights) as pool:
        return pool.submit(connect, str(folder), create=create).exception()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_that_may_not_be_written_is_refused(made, existing):
    """Without the right to write the folder, with or without a store in it, it is named with the key at once."""
    # Not below pytest's own folder, which nobody may enter.
    folder = Path(tempfile.mkdtemp())
    try:
        if existing:
            shutil.copytree(made, folder, dirs_exist_ok=True)
        folder.chmod(0o555)
        error = failure_of_nobody(folder, create=True)
        assert isinstance(error, UserError)
        assert f"tracking.uri: MLflow cannot keep its store at {folder}: you have no right" in str(error)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}/mlflow.db", "sqlite+pysqlite:///{}/mlflow.db"])
def test_who_reads_makes_no_store(tmp_path, form):
    """Reading at a mistyped address is told, and makes no database and no folder."""
    with pytest.raises(ModelError, match=f"no MLflow store at {tmp_path}/elsewhere"):
        connect(form.format(tmp_path / "elsewhere"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_a_tracking_error(tmp_path):
    """A database that is damaged is told, with what SQLite says of it."""
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(TrackingError, match=r"could not open its store: .*file is not a database"):
        connect(str(tmp_path))


@pytest.mark.parametrize("changes", [[], ["DROP TABLE webhook_events"]], ids=["older", "newer"])
def test_a_database_of_another_mlflow_is_told_with_the_command(folder, changes):
    """A database with the tables of another version: `mlflow db upgrade` with its address, ready to be run."""
    database = sqlite3.connect(folder / "mlflow.db")
    for change in ["UPDATE alembic_version SET version_num = 'another'", *changes]:
        database.execute(change)
    database.commit()
    database.close()
    with pytest.raises(UserError, match=rf"mlflow db upgrade 'sqlite:///{folder}/mlflow\.db'`"):
        connect(str(folder), create=True)


@pytest.mark.parametrize("uri", SECRETS)
def test_the_command_for_another_database_has_no_password(monkeypatch, uri):
    """A password in the address is in no message, also where a library says the address again."""
    for said in (f"Detected out-of-date database schema of {uri}", f"cannot reach {uri.replace('db/', 'db:5432/')}"):
        monkeypatch.setattr(servers, "MlflowClient", lambda said=said, **_: _raise(MlflowException(said)))
        with pytest.raises((UserError, TrackingError), match=r"\*\*\*") as told:
            connect(uri)
        assert "s3cret" not in str(told.value)


def _raise(error: Exception) -> None:
    raise error


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    """A database whose driver is missing is the user's to mend, and the driver is named."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"tracking\.uri: postgresql:// needs a driver .*psycopg"):
        connect("postgresql://127.0.0.1/mlflow")


@pytest.mark.parametrize(
    "form", ["{}/tracking", "sqlite:///{}/a.db", "sqlite+pysqlite:///{}/a.db?timeout=5", "http://127.0.0.1:1/"]
)
def test_an_address_is_known_without_connecting(tmp_path, form):
    """``resolved_uri`` is what a connection would have, and makes nothing."""
    uri = form.format(tmp_path)
    found = resolved_uri(uri)
    assert list(tmp_path.iterdir()) == []
    assert connect(uri, create=True).uri == found
    assert resolved_uri(found) == found


@pytest.mark.parametrize("uri", ["sqlite:////home/me@work/mlflow.db", "http://localhost:5000", "/home/me@work"])
def test_an_address_without_credentials_is_shown_whole(uri):
    """An @ in a path is no sign of a password."""
    assert shown(uri) == uri


@pytest.mark.parametrize("uri", [*SECRETS, "mysql://me:s3/cret@db/a"])
def test_an_address_with_credentials_is_shown_without(uri):
    """Neither a password before the host nor one in the query is shown."""
    assert "cret" not in shown(uri)
    assert shown(uri).startswith(uri[:8])


def splits_of(name: str = "digits", fingerprint: str = "0123456789ab") -> list[ReadSplit]:
    """What a run reads of a data set."""
    return [
        ReadSplit(name, f"{fingerprint}-{split}", f"s3://lake/{name}", context, rows, 10, (3, 32, 32))
        for split, context, rows in [("train", "training", 1448), ("val", "validation", 174), ("test", "test", 175)]
    ]


def test_a_run_has_its_data_set_once(server):
    """The three splits with what they are read for; logged again, as when a run goes on, nothing is there twice."""
    run_id = runs.start_run(server, "data", "run", {}, {})
    for _ in range(2):
        log_inputs(server, run_id, splits_of())
        runs.end_run(server, run_id, "KILLED")
        runs.resume_run(server, run_id)
    found = server.client.get_run(run_id).inputs.dataset_inputs
    contexts = {each.tags[0].value: each for each in found}
    assert sorted(contexts) == ["test", "training", "validation"]
    assert len(found) == 3
    assert {tag.key for each in found for tag in each.tags} == {"mlflow.data.context"}
    training = contexts["training"].dataset
    assert (training.name, training.digest, training.source_type) == ("digits", "0123456789ab-train", "s3")
    assert json.loads(training.source) == {"uri": "s3://lake/digits"}
    assert json.loads(training.profile) == {"rows": 1448, "classes": 10, "image": "3x32x32 uint8"}
    form = TensorDatasetSchema.from_dict(json.loads(training.schema))
    assert form.features.inputs[0].shape == (-1, 3, 32, 32)


def test_runs_are_found_by_their_data_set(server):
    """By name, by digest and by context, as the filter of the UI asks; two runs on the same data share it."""
    made = [runs.start_run(server, "found", "run", {}, {}) for _ in range(3)]
    for run_id, fingerprint in zip(made, ("aaaaaaaaaaaa", "aaaaaaaaaaaa", "bbbbbbbbbbbb"), strict=True):
        log_inputs(server, run_id, splits_of("shoes", fingerprint))
    experiment = runs.ensure_experiment(server, "found")

    def found(asked: str) -> set[str]:
        return {run.info.run_id for run in server.client.search_runs([experiment], asked)}

    assert found("dataset.name = 'shoes'") == set(made)
    assert found("dataset.name = 'shoes' AND dataset.digest = 'aaaaaaaaaaaa-train'") == set(made[:2])
    assert found("dataset.digest LIKE 'bbbbbbbbbbbb%' AND dataset.context = 'test'") == {made[2]}
    assert found("dataset.name = 'digits'") == set()


def test_a_data_set_that_another_run_logs_at_once_is_logged(folder, monkeypatch):
    """MLflow fails where two log a new one at the same time; the second try finds it there."""
    server = connect(str(folder), create=True)
    run_id = runs.start_run(server, "race", "run", {}, {})
    tries, log = [], server.client.log_inputs

    def once_too_late(*arguments: Any) -> None:
        tries.append(arguments)
        if len(tries) == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        log(*arguments)

    monkeypatch.setattr(server.client, "log_inputs", once_too_late)
    log_inputs(server, run_id, splits_of())
    assert len(server.client.get_run(run_id).inputs.dataset_inputs) == 3


def test_a_name_of_any_length_is_logged(folder):
    """MLflow bounds names and digests; a longer one is cut."""
    server = connect(str(folder), create=True)
    run_id = runs.start_run(server, "long", "run", {}, {})
    log_inputs(server, run_id, splits_of("d" * 600, "f" * 60)[:1])
    (found,) = server.client.get_run(run_id).inputs.dataset_inputs
    assert (len(found.dataset.name), len(found.dataset.digest)) == (500, 36)


def test_a_run_that_is_discarded_is_not_listed(server):
    """It is deleted as people delete one, and is no obstacle to others."""
    run_id = runs.start_run(server, "discarded", "run", {}, {})
    runs.discard(server, run_id)
    assert not runs.is_there(server, run_id)
    assert not server.client.search_runs([runs.ensure_experiment(server, "discarded")])
