"""Versions of registered models, found by number, by alias or as the newest; and what is told where there is none."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cnnjob.errors import ModelError
from cnnjob.tracking.server import Server, asking, shown

_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
_NUMBER = re.compile("[0-9]{1,10}")
_SHOWN = 5
"""Versions of a model that a message names."""
_LAST_VERSION = 2**31 - 1
"""Of MLflow's column: a database is not asked for more, since each has an error of its own for that."""


def by_uri(server: Server, uri: str) -> ModelVersion:
    """The version of ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Raises:
        ModelError: There is no such model, alias or version; with those that there are.
    """
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if not at:
        name, _, number = name.partition("/")
        return by_number(server, name, number)
    with _looking_up(server, uri):
        return server.client.get_model_version_by_alias(name, alias)
    raise _no_model(server, uri)


def by_number(server: Server, name: str, number: str) -> ModelVersion:
    """The version of a number. Raises as ``by_uri`` does."""
    uri = f"models:/{name}/{number}"
    if _NUMBER.fullmatch(number) and int(number) <= _LAST_VERSION:
        with _looking_up(server, uri):
            return server.client.get_model_version(name, number)
    with asking(server, f"list the versions of {name}"):
        found = versions(server, name)
    if not found:
        raise _no_model(server, uri)
    newest_ones = sorted(int(each.version) for each in found)[-_SHOWN:]
    there = f"{'is' if len(newest_ones) == 1 else 'are'} {', '.join(map(str, newest_ones))}"
    raise ModelError(f"{name} at {shown(server.uri)} has no version {number or repr(number)}; its newest {there}.")


def newest(server: Server, name: str) -> ModelVersion:
    """The version with the largest number. Raises as ``by_uri`` does."""
    with asking(server, f"list the versions of {name}"):
        found = versions(server, name)
    if not found:
        raise _no_model(server, f"models:/{name}")
    return max(found, key=lambda version: int(version.version))


def versions(server: Server, name: str) -> list[ModelVersion]:
    """All versions of a model."""
    # A name with a quote is none that MLflow takes, nor can it be searched for.
    return [] if "'" in name else list(server.client.search_model_versions(f"name = '{name}'"))


@contextmanager
def _looking_up(server: Server, uri: str) -> Iterator[None]:
    """Inside, what is not there is no error; a server that does not answer is one."""
    with asking(server, f"look up {uri}"):
        try:
            yield
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise


def _no_model(server: Server, uri: str) -> ModelError:
    with asking(server, "list its models"):
        models = server.client.search_registered_models(max_results=10)
    known = "; ".join(
        f"{model.name} ({', '.join('@' + alias for alias in model.aliases) or 'no alias'})" for model in models
    )
    return ModelError(
        f"there is no model {uri} in the registry at {shown(server.uri)}. It has: {known or 'no models yet'}. "
        f"Correct the name, train it with register_as, or point at it with cnnjob promote."
    )
