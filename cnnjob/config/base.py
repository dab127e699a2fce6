"""What every config shares: strictness, frozen values, and the types of paths.

A config is frozen, refuses unknown keys, and documents each field in the string below it, with unit and scope
("a worker", "the whole job"). Rules over several fields are plain functions beside the model, see ``rules``.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of every config model."""

    # Validators are built on first use: a command builds those of its own config and of no other.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, defer_build=True)


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
        raise ValueError(f"its home folder is not known ({error})") from error


Uri = Annotated[str, AfterValidator(absolute)]
"""A local path or a URI. A relative path is made absolute once, from the folder the command is run in, so
that a worker on another node and a later run mean the same place."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that is also a file name: letters, digits, dot, dash and underscore, at most 100."""

Check = Callable[..., Iterator[str]]
_C = TypeVar("_C", bound=Check)

RULES_ATTRIBUTE = "_cnnjob_rule_keys"


def rule(*keys: str) -> Callable[[_C], _C]:
    """Mark a function as a rule over the fields ``keys`` (dotted).

    The function is called with one argument for each key and yields a problem for each thing that is wrong;
    the mistake is reported at the first key. It is left out where one of its fields is itself wrong, and it
    runs whatever else is wrong in the file: pydantic's own model validators do not, so that a wrong field
    would hide the rules' mistakes.
    """

    def mark(function: _C) -> _C:
        setattr(function, RULES_ATTRIBUTE, keys)
        return function

    return mark


@rule("tracking.uri")
def tracking_has_no_password(uri: str) -> Iterator[str]:
    """A config is stored beside every output and in every model, where a password would be read."""
    if ":" in uri.partition("://")[2].rpartition("@")[0]:
        yield (
            "has a password in it, and configs are stored beside every output. Leave it out; a server's is read from "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a database's from where its driver looks"
        )


class TrackingConfig(Config):
    """Where MLflow keeps runs and models."""

    uri: Uri = Field(default="tracking", validate_default=True)
    """A folder (one SQLite file and the artifacts inside it), or the URI of an MLflow server."""

    experiment: str = Field(default="cnnjob", min_length=1, max_length=250)
    """Name of the MLflow experiment that runs are compared in."""
