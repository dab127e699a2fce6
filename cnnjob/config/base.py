"""What every config shares: strictness, frozen values, and the types of paths.

A config is frozen, refuses unknown keys, and documents each field in the string below it, with unit and scope
("a worker", "the whole job"). Rules over several fields are plain functions beside the model, see ``rules``.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of every config model."""

    # Validators are built on first use: a command builds those of its own config and of no other.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        # Neither is a number in JSON, which every config is stored as.
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,
    )


def absolute(uri: str) -> str:
    """A local path made absolute, with ~ expanded; a URI as it is. Raises ValueError where it is empty."""
    if not uri.strip():
        raise ValueError("a path or URI cannot be empty")
    if "\0" in uri:
        raise ValueError("a path or URI cannot have a zero byte in it")
    if "://" in uri:
        return uri
    try:
        return os.path.abspath(Path(uri).expanduser())  # noqa: PTH100 - `..` goes too
    except RuntimeError as error:
        raise ValueError(f"its home folder is not known ({str(error).rstrip('.')})") from error


Uri = Annotated[str, AfterValidator(absolute)]
"""A local path or a URI. A relative path is made absolute once, from the folder the command is run in, so
that a worker on another node and a later run mean the same place."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that is also a file name: letters, digits, dot, dash and underscore, at most 100."""

Check = Callable[..., Iterator[str]]
_C = TypeVar("_C", bound=Check)

RULES_ATTRIBUTE = "_cnnjob_rule_keys"
GIVEN = "?"
"""What follows a rule's key where the rule asks whether the key is given, and not what its value is."""


def rule(*keys: str) -> Callable[[_C], _C]:
    """Mark a function as a rule over the fields ``keys`` (dotted).

    The function is called with one argument for each key and yields a problem for each thing that is wrong;
    the mistake is reported at the first key. It is left out where one of its fields is itself wrong, and it
    runs whatever else is wrong in the file: pydantic's own model validators do not, so that a wrong field
    would hide the rules' mistakes. For a key with ``GIVEN`` behind it the argument is whether the key is given, which
    is known of a wrong value too.
    """

    def mark(function: _C) -> _C:
        setattr(function, RULES_ATTRIBUTE, keys)
        return function

    return mark


PASSWORD_OF_A_QUERY = re.compile(r"([?&]passw(?:or)?d=)[^&\s]*")
"""As drivers of databases take it: `postgresql://db/mlflow?password=...`."""


@rule("tracking.uri")
def tracking_has_no_password(uri: str) -> Iterator[str]:
    """A config is stored beside every output and in every model, where a password would be read."""
    if ":" in uri.partition("://")[2].rpartition("@")[0] or ("://" in uri and PASSWORD_OF_A_QUERY.search(uri)):
        yield (
            "has a password in it, and configs are stored beside every output. Leave it out; a server's is read from "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a database's from where its driver looks"
        )


def no_passwords(*keys: str) -> tuple[Check, ...]:
    """A rule for each of the keys: places may name a user, and no password."""

    def check(uri: str | None) -> Iterator[str]:
        hosts = [link.partition("://")[2].partition("/")[0] for link in (uri or "").split("::")]
        if any(":" in host.rpartition("@")[0] for host in hosts):
            yield (
                "has a password in it, and configs are stored beside every output. Leave it out; S3's keys are read "
                "from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, others from FSSPEC_FTP_PASSWORD and the like"
            )

    return tuple(rule(key)(partial(check)) for key in keys)


TRACKING_SERVERS = ("http", "https", "databricks")
TRACKING_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow opens beside a folder; a database may have its driver with it, as in `mysql+pymysql`."""


@rule("tracking.uri")
def tracking_can_be_opened(uri: str) -> Iterator[str]:
    """A folder, or an address that MLflow opens. The whole address is not shown: there may be a password in it."""
    scheme, separator, rest = uri.partition("://")
    kind = scheme.partition("+")[0]
    if not separator:
        if "?" in uri or unquote(uri) != uri:
            yield f"{uri!r} has ? or %.. in it, which mean something else in the address of a SQLite file; rename it"
    elif scheme == "file":
        yield (
            "MLflow does not open its folders of plain files (file://) any more. Give a folder's path alone, and a "
            "SQLite file is kept in it; `mlflow migrate-filestore` brings over what there is"
        )
    elif kind == "sqlite" and (not rest.startswith("/") or rest in ("/", "/:memory:")):
        yield "a SQLite file is named after three slashes, as in sqlite:////data/mlflow.db"
    elif scheme in ("http", "https") and not _has_host(uri):
        yield "this is no address of a server; it should be like http://mlflow.example.org:5000"
    elif scheme not in TRACKING_SERVERS and kind not in TRACKING_DATABASES:
        known = ", ".join(f"{each}://" for each in (*TRACKING_SERVERS, *TRACKING_DATABASES))
        yield f"{scheme}:// is not known to MLflow; it should be a folder, or one of {known}"


def _has_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port above 65535
        return False


TRACKING_RULES = (tracking_has_no_password, tracking_can_be_opened)


class TrackingConfig(Config):
    """Where MLflow keeps runs and models."""

    uri: Uri = Field(default="tracking", validate_default=True)
    """A folder (one SQLite file and the artifacts inside it), or the URI of an MLflow server (`http`, `https`,
    `databricks`) or of its database (`sqlite`, `postgresql`, `mysql`, `mssql`). MLFLOW_TRACKING_URI is not read: the
    same config means the same place in every shell and on every node."""

    experiment: str = Field(default="cnnjob", min_length=1, max_length=250)
    """Name of the MLflow experiment that training runs are in. Scoring makes no run: only `train` takes this key."""
