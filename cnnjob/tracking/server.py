"""Where MLflow is: from a config's ``tracking.uri`` to a client. A folder means SQLite and artifacts inside it."""

import logging
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import mlflow
from mlflow import MlflowClient

from cnnjob.config.base import PASSWORD_OF_A_QUERY, tracking_can_be_opened
from cnnjob.errors import ModelError, TrackingError, UserError

_DATABASE = "mlflow.db"
_ARTIFACTS = "artifacts"

_CLIENT_ENVIRONMENT = {
    # By default a refused server blocks one call for four minutes, and a hung one for twenty.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}

_LOGGERS = {
    "mlflow": logging.ERROR,
    "alembic": logging.ERROR,
    # Logs the whole traceback of what it raises, which is told in a line, and whole with --debug.
    "mlflow.store.db.utils": logging.CRITICAL,
}

_PACKAGES = {"alembic", "azure", "boto3", "botocore", "google", "mlflow", "sqlalchemy"}
"""MLflow, and what keeps its runs and artifacts, whose errors it lets through; those of requests are OSErrors."""

_OTHER_SCHEMA = re.compile("out-of-date database schema|Can't locate revision")
"""How MLflow and alembic say, with no code of their own, that the database is of an older or a newer MLflow."""

_LOGIN = "the name and the password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and their rights"

_NO_REASON = "(raised as a result of Query-invoked autoflush"
"""How SQLAlchemy begins what it says of some errors, in a line before the reason."""

_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")


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
        return f"{_mlflow_command()} ui --backend-store-uri {shlex.quote(self.uri)} --port 5000"


def connect(uri: str, *, create: bool = False) -> Server:
    """A client for a folder, a ``sqlite:///`` URI or a server's address.

    Args:
        uri: As in ``tracking.uri`` of a config.
        create: Make the folder and its database where there is none: for who writes, not for who reads.

    Raises:
        ModelError: There is no database, and none is to be made.
        UserError: The address is none that MLflow opens; its SQLite file cannot be opened; its database is of
            another MLflow, or needs a driver that is not installed.
        TrackingError: The database does not answer.
    """
    if problem := next(tracking_can_be_opened(uri), None):
        raise UserError(f"tracking.uri: {problem}")
    for name, value in _CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    warnings.filterwarnings("ignore", module="mlflow")
    uri = resolved_uri(uri)
    artifacts = None
    if database := _database(uri):
        _check_file(database, create=create)
        artifacts = (database.absolute().parent / _ARTIFACTS).as_uri()
    mlflow.set_tracking_uri(uri)
    return Server(uri, artifacts, _client(uri))


def resolved_uri(uri: str) -> str:
    """What ``connect`` gives as ``Server.uri`` for a ``tracking.uri``; nothing is opened or made."""
    return uri if "://" in uri else f"sqlite:///{Path(uri) / _DATABASE}"


def asking(server: Server, what: str) -> AbstractContextManager[None]:
    """Turn errors of MLflow, and of what it stores with, into ours.

    Raises:
        TrackingError: With what was asked, of whom, and what it said.
    """
    return _told(server.uri, what)


def shown(uri: str) -> str:
    """A URI for messages, without the password it may hold."""
    scheme, separator, rest = uri.partition("://")
    credentials, at, host = rest.rpartition("@")
    # What begins with a slash has no server, so the @ is of its path.
    public = f"{scheme}{separator}***@{host}" if at and not credentials.startswith("/") else uri
    return PASSWORD_OF_A_QUERY.sub(r"\1***", public)


def _database(uri: str) -> Path | None:
    """The file of a SQLite address."""
    scheme, _, path = uri.partition(":///")
    return Path(unquote(path.partition("?")[0])) if scheme.partition("+")[0] == "sqlite" else None


def _check_file(database: Path, *, create: bool) -> None:
    """Refuse a SQLite file that does not open: SQLAlchemy would try for 101 s. Its folder is made where asked.

    It is not opened here: that would end the locks which this process has on it.
    """
    try:
        if create:
            database.parent.mkdir(parents=True, exist_ok=True)
        exists, is_file = database.exists(), database.is_file()
    except OSError as error:
        raise _unfit(database, f"{error.filename}: {error.strerror}") from error
    if not is_file and not create:
        raise ModelError(
            f"there is no MLflow store at {database.parent}: {database.name} is missing. "
            f"Train a model with this tracking.uri first, or correct the path."
        )
    if exists and not is_file:
        raise _unfit(database, f"{database.name} is no file")
    # SQLite writes its journal beside the file.
    needed = [(database.parent, os.W_OK), (database, os.W_OK)] if create else [(database, os.R_OK)]
    for path, right in needed:
        if path.exists() and not os.access(path, right):
            raise _unfit(database, f"you have no right to {'write' if create else 'read'} {path}")


def _unfit(database: Path, why: str) -> UserError:
    return UserError(
        f"tracking.uri: MLflow cannot keep its store at {database.parent}: {why}. Give a folder that is yours."
    )


def _client(uri: str) -> MlflowClient:
    """MLflow's client. It opens a database, and makes its tables where there are none."""
    with _told(uri, "open its store"):
        try:
            return MlflowClient(tracking_uri=uri)
        except ImportError as error:
            raise UserError(
                f"tracking.uri: {uri.partition('://')[0]}:// needs a driver that is not installed: {error}. Install "
                f"it, or name another one, as in postgresql+psycopg2://"
            ) from error
        except Exception as error:
            if not _OTHER_SCHEMA.search(str(error)):
                raise
            raise UserError(
                f"tracking.uri: the database at {shown(uri)} was made by another MLflow than the one here, "
                f"{mlflow.__version__}. If by an older one, make a copy of it and run `{_mlflow_command()} db upgrade "
                f"{shlex.quote(shown(uri))}`; if by a newer one, install that."
            ) from error


@contextmanager
def _told(uri: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _PACKAGES:
            raise
        said = PASSWORD_OF_A_QUERY.sub(r"\1***", _USER_INFO.sub("***@", _line_of(error).replace(uri, shown(uri))))
        refused = getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED")
        advice = f"Check {_LOGIN}" if refused else "Check that it runs and that tracking.uri is right"
        raise TrackingError(
            f"MLflow at {shown(uri)} could not {what}: {said}. {advice}, then run the same command again."
        ) from error


def _line_of(error: Exception) -> str:
    """The first line of what an error says that has its reason, for the middle of a sentence."""
    lines = (line for line in str(error).strip().splitlines() if not line.startswith(_NO_REASON))
    return next(lines, type(error).__name__).rstrip(".")


def _mlflow_command() -> str:
    # In a virtual environment that is not active, `mlflow` alone would not be found.
    beside = Path(sys.executable).parent / "mlflow"
    return "mlflow" if shutil.which("mlflow") or not beside.exists() else str(beside)
