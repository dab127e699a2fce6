"""The MLflow registry: versions that are made, aliases, and bundles that are checked before they are parsed."""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from cnnjob.errors import ModelError
from cnnjob.models.bundle import Bundle, read_bundle
from cnnjob.tracking import flavor, lookup
from cnnjob.tracking.server import Server, asking

DIGEST_TAG = "cnnjob.bundle_sha256"
RUN_TAG = "cnnjob.run_id"
ACCURACY_TAG = "cnnjob.test_accuracy"
ROWS_TAG = "cnnjob.test_rows"
FINGERPRINT_TAG = "cnnjob.data_fingerprint"
CHAMPION = "champion"
_ARTIFACT_NAME = "model"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name: Registered name.
        version: Its version.
        accuracy: On the test split, 0 to 1; None where the version does not say.
    """

    name: str
    version: str
    accuracy: float | None = None


@dataclass(frozen=True)
class Promoted:
    """What an alias points at.

    Attributes:
        now: The version.
        before: The one until then, which may be the same; None where there was no such alias.
    """

    now: Registered
    before: Registered | None


@dataclass(frozen=True)
class Resolved:
    """A model URI, resolved once: what later steps use and write down.

    Attributes:
        name: Registered name.
        version: Its version.
        bundle: The model, its digest checked against the registry.
    """

    name: str
    version: str
    bundle: Bundle


def register(
    server: Server,
    run_id: str,
    name: str,
    bundle: Bundle,
    example: np.ndarray,
    *,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
) -> Registered:
    """Log a bundle to its run and make it a version of the model ``name``.

    A bundle of the same run and digest that is registered already is found and returned: a job that died between
    registering and saying so does not make a second version.

    Args:
        server: MLflow.
        run_id: The run that the bundle comes from.
        name: Of the model; it is made where there is none.
        bundle: The model.
        example: Some images, uint8 N x C x H x W.
        tags: What the version says of itself, beside its digest and its run.
        description: The same for people, in a line.
    """
    with asking(server, f"register the model {name}"):
        if there := _same(server, name, run_id, bundle.digest):
            return there
        # A logged model lands in the experiment that is set, not in that of its run: without this, in ./mlruns.
        mlflow.set_experiment(experiment_id=server.client.get_run(run_id).info.experiment_id)
        info = Model.log(
            artifact_path=None, name=_ARTIFACT_NAME, flavor=flavor, run_id=run_id, bundle=bundle, example=example
        )
        _ensure_model(server, name)
        # Logging takes seconds, in which another command at the run may have come as far.
        if there := _same(server, name, run_id, bundle.digest):
            return there
        version = server.client.create_model_version(
            name,
            source=info.artifact_path if info.model_id is None else f"models:/{info.model_id}",
            run_id=run_id,
            tags={**(tags or {}), DIGEST_TAG: bundle.digest, RUN_TAG: run_id},
            description=description,
            model_id=info.model_id,
        )
        return _registered(version)


def _same(server: Server, name: str, run_id: str, digest: str) -> Registered | None:
    """The version that a run has made of a bundle."""
    for version in lookup.versions(server, name):
        if version.tags.get(RUN_TAG) == run_id and version.tags.get(DIGEST_TAG) == digest:
            return _registered(version)
    return None


def is_registered(server: Server, name: str, version: str) -> bool:
    """Whether the registry has a version of a model."""
    try:
        lookup.by_number(server, name, version)
    except ModelError:
        return False
    return True


def promote(server: Server, name: str, version: str | None, alias: str) -> Promoted:
    """Point an alias at a version; by default the newest.

    Raises:
        ModelError: There is no such model or version, or MLflow takes no such alias.
    """
    found = lookup.newest(server, name) if version is None else lookup.by_number(server, name, version)
    with asking(server, f"set the alias {alias}"):
        pointed_at = server.client.get_registered_model(name).aliases.get(alias)
        before = None if pointed_at is None else server.client.get_model_version(name, pointed_at)
        try:
            server.client.set_registered_model_alias(name, alias, found.version)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise ModelError(f"{alias!r} cannot be an alias: {str(error).splitlines()[0]}") from error
    return Promoted(_registered(found), None if before is None else _registered(before))


def resolve(server: Server, uri: str) -> Resolved:
    """Resolve ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` and fetch the bundle.

    Raises:
        ModelError: There is no such model, alias or version; or it is no cnnjob model.
        IntegrityError: The files are not those that were registered.
    """
    version = lookup.by_uri(server, uri)
    digest = version.tags.get(DIGEST_TAG)
    if digest is None:
        raise ModelError(
            f"{uri} (version {version.version}) has no tag {DIGEST_TAG}, so its files cannot be checked; it was not "
            f"registered by cnnjob train. Train and register it with cnnjob."
        )
    with asking(server, f"fetch the model {uri}"), tempfile.TemporaryDirectory() as folder:
        source = f"models:/{version.name}/{version.version}"
        path = download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=server.uri)
        bundle = read_bundle(Path(path), expected_digest=digest, where=f"{uri} (version {version.version})")
    return Resolved(version.name, str(version.version), bundle)


def _registered(version: ModelVersion) -> Registered:
    accuracy = None
    # Anyone may write a tag, and what other tools registered has none.
    with suppress(KeyError, ValueError):
        accuracy = float(version.tags[ACCURACY_TAG])
    return Registered(version.name, str(version.version), accuracy)


def _ensure_model(server: Server, name: str) -> None:
    try:
        server.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
