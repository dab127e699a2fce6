"""MLflow runs: one for a training, with its parameters, its metrics by epoch, its figures."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from cnnjob.errors import UserError
from cnnjob.tracking.server import Server, asking, shown

REASON_TAG = "cnnjob.ended_because"
_MAX_PARAM_CHARACTERS = 6000
_MAX_TAG_CHARACTERS = 5000


def ensure_experiment(server: Server, name: str) -> str:
    """The id of an experiment; created on first use.

    Raises:
        UserError: It was deleted: MLflow keeps its name, and takes no run into it.
    """
    with asking(server, f"open the experiment {name}"):
        found = server.client.get_experiment_by_name(name)
        if found is None:
            location = f"{server.artifacts}/{name}" if server.artifacts else None
            try:
                return str(server.client.create_experiment(name, artifact_location=location))
            except MlflowException:
                # Another job created it in between.
                found = server.client.get_experiment_by_name(name)
                if found is None:
                    raise
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise UserError(
            f"the experiment {name} at {shown(server.uri)} was deleted in MLflow, and takes no runs. Restore it there "
            f"(`mlflow experiments restore --experiment-id {found.experiment_id}`), or set tracking.experiment to "
            f"another name."
        )
    return str(found.experiment_id)


def start_run(server: Server, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Create a run and log its parameters (nested ones with dotted keys). Returns its id."""
    experiment_id = ensure_experiment(server, experiment)
    with asking(server, "create a run"):
        run = server.client.create_run(experiment_id, run_name=name)
        flat = [Param(key, str(value)[:_MAX_PARAM_CHARACTERS]) for key, value in _flat(params).items()]
        server.client.log_batch(run.info.run_id, params=flat, tags=[RunTag(k, v) for k, v in tags.items()])
        return str(run.info.run_id)


def log_metrics(server: Server, run_id: str, points: Sequence[Metric]) -> None:
    """Log metrics, 1,000 at the most. The same points again, with their timestamps, leave one each."""
    with asking(server, f"log metrics of the run {run_id}"):
        server.client.log_batch(run_id, metrics=list(points))


def log_files(server: Server, run_id: str, files: Mapping[str, bytes]) -> None:
    """Log files as artifacts, by their path in the run."""
    with asking(server, "store artifacts"), tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        server.client.log_artifacts(run_id, folder)


def end_run(server: Server, run_id: str, status: str, *, reason: str = "") -> None:
    """End a run: FINISHED, FAILED or KILLED, with the reason as a tag."""
    with asking(server, f"end the run {run_id}"):
        server.client.set_tag(run_id, REASON_TAG, reason[:_MAX_TAG_CHARACTERS])
        server.client.set_terminated(run_id, status)


def end_as_finished(server: Server, run_id: str) -> None:
    """End a run as FINISHED, where it is not: one that has ended so keeps its time."""
    with asking(server, f"look up the run {run_id}"):
        status = server.client.get_run(run_id).info.status
    if status != "FINISHED":
        end_run(server, run_id, "FINISHED")


def resume_run(server: Server, run_id: str) -> bool:
    """Let a run that ended go on.

    False where this server does not have it, since the tracking address may change, or where it was deleted.
    """
    if not is_there(server, run_id):
        return False
    with asking(server, f"resume the run {run_id}"):
        server.client.update_run(run_id, status="RUNNING")
        server.client.set_tag(run_id, REASON_TAG, "")
        return True


def discard(server: Server, run_id: str) -> None:
    """Delete a run that was begun for nothing: MLflow lists it no more."""
    with asking(server, f"delete the run {run_id}"):
        server.client.delete_run(run_id)


def is_there(server: Server, run_id: str) -> bool:
    """Whether the server has a run, and it was not deleted."""
    with asking(server, f"look up the run {run_id}"):
        try:
            found = server.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(found.info.lifecycle_stage == LifecycleStage.ACTIVE)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
