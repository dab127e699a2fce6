"""Where MLflow is: from a config's ``tracking.uri`` to a client. A folder means SQLite and artifacts inside it."""

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cnnjob.errors import ModelError, TrackingError

_DATABASE = "mlflow.db"
_ARTIFACTS = "artifacts"

_CLIENT_ENVIRONMENT = {
    # By default a refused server blocks one call for four minutes, and a hung one for twenty.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Server:
    """A tracking server, or the SQLite file in its place.

    Attributes:
        uri: MLflow's tracking URI.
        artifacts: Where a new experiment keeps its artifacts; None leaves it to the server.
    """

    uri: str
    artifacts: str | None
    client: MlflowClient

    @property
    def ui_command(self) -> str:
        """The command that opens the MLflow UI on it; for a server, its address."""
        if self.artifacts is None:
            return self.uri
        # In a virtual environment that is not active, `mlflow` alone would not be found.
        beside = Path(sys.executable).parent / "mlflow"
        command = "mlflow" if shutil.which("mlflow") or not beside.exists() else str(beside)
        return f"{command} ui --backend-store-uri {self.uri} --port 5000"


def connect(uri: str, *, create: bool = False) -> Server:
    """A client for a folder, a ``sqlite:///`` URI or a server's address.

    Args:
        uri: As in ``tracking.uri`` of a config.
        create: Make the folder and its database where there is none: for who writes, not for who reads.

    Raises:
        ModelError: There is no database, and none is to be made.
    """
    for name, value in _CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")
    artifacts = None
    if "://" not in uri:
        folder = Path(uri)
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        elif not (folder / _DATABASE).is_file():
            raise ModelError(
                f"there is no MLflow store at {folder}: {_DATABASE} is missing. "
                f"Train a model with this tracking.uri first, or correct the path."
            )
        artifacts = (folder / _ARTIFACTS).as_uri()
        uri = f"sqlite:///{folder / _DATABASE}"
    elif uri.startswith("sqlite:///"):
        artifacts = (Path(uri.removeprefix("sqlite:///")).absolute().parent / _ARTIFACTS).as_uri()
    mlflow.set_tracking_uri(uri)
    return Server(uri, artifacts, MlflowClient(tracking_uri=uri))


@contextmanager
def asking(server: Server, what: str) -> Iterator[None]:
    """Turn MLflow's errors into ours.

    Raises:
        TrackingError: With what was asked, of whom, and what it said.
    """
    try:
        yield
    except MlflowException as error:
        said = str(error).splitlines()[0]
        raise TrackingError(
            f"MLflow at {shown(server.uri)} could not {what}: {said.replace(server.uri, shown(server.uri))}. "
            f"Check that it runs and that tracking.uri is right, then run the same command again."
        ) from error


def shown(uri: str) -> str:
    """A URI for messages, without the password it may hold."""
    scheme, separator, rest = uri.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{separator}***@{host}" if at and credentials else uri
