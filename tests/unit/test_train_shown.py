"""How a training is told to people: the line of its result, and what comes next."""

import io

import pytest

from cnnjob.errors import TrackingError
from cnnjob.tracking.server import Server
from pipelines import train
from pipelines.console import Console
from pipelines.train import TrainResult


def shown(accuracy: float, rows: int, tracking_uri: str, *, created: bool = True) -> list[str]:
    """The lines that ``cnnjob train`` ends with."""
    epochs = [dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_accuracy"), 0.5)]
    epochs = [{**epoch, "epoch": 1, "observation": "first"} for epoch in epochs]
    test = {"accuracy": accuracy, "loss": 0.25, "rows": rows, "classes": [], "k": 5}
    test |= {"top_k": 1.0, "macro_f1": 1.0, "ece": 0.0}
    result = TrainResult("run", "digits", "2", epochs, 1, test, 1.0, 0.0, tracking_uri, created=created)
    out = io.StringIO()
    train.show(result, Console(as_json=False, out=out, err=io.StringIO()))
    return out.getvalue().splitlines()


@pytest.fixture
def local(monkeypatch):
    """MLflow in a file, without opening it."""
    monkeypatch.setattr(train, "connect", lambda uri: Server(uri, "artifacts", None))


def test_few_test_rows_have_an_interval(local):
    """Below 1,000 rows the accuracy is told with its interval, from there on alone."""
    line = next(each for each in shown(172 / 175, 175, "sqlite:////a/mlflow.db") if "Registered" in each)
    assert line == (
        "Registered digits version 2 (epoch 1): test accuracy 0.9829 (0.951 to 0.994 at 95 %), loss 0.2500, 175 rows"
    )
    assert any("accuracy 0.9000 (0.880" in each for each in shown(0.9, 999, "sqlite:////a/mlflow.db"))
    assert any("accuracy 0.9000, loss" in each for each in shown(0.9, 1000, "sqlite:////a/mlflow.db"))


@pytest.mark.parametrize(
    ("uri", "tracking"),
    [
        ("sqlite:////data/my runs/mlflow.db", "'/data/my runs'"),
        ("sqlite:////data/other.db", "sqlite:////data/other.db"),
    ],
)
def test_what_comes_next_are_two_commands(local, uri, tracking):
    """Promote with the address as a conf has it, and the UI of a local file, as the demo prints it."""
    promote, ui = shown(1.0, 10, uri)[-2:]
    assert promote == f"Next: cnnjob promote digits --tracking {tracking}"
    assert ui == f"MLflow UI: {Server(uri, 'artifacts', None).ui_command}"


def test_a_server_has_its_own_ui():
    """Where MLflow is a server there is no command for its UI, and none is asked for."""
    assert shown(1.0, 10, "http://mlflow:5000")[-1] == "Next: cnnjob promote digits --tracking http://mlflow:5000"


def test_a_finished_run_is_promoted_by_its_version(local):
    """Of a run that was finished before, the newest version may be another one's."""
    assert "promote digits --version 2 --tracking" in shown(1.0, 10, "sqlite:////a/mlflow.db", created=False)[-2]


def test_a_store_that_does_not_open_ends_no_training(monkeypatch):
    """The command for the UI is left out where the store does not answer just now."""

    def away(_: str) -> Server:
        raise TrackingError("no answer")

    monkeypatch.setattr(train, "connect", away)
    assert "cnnjob promote digits" in shown(1.0, 10, "sqlite:////a/mlflow.db")[-1]
