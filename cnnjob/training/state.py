"""What a run is, in its folder: ``run.json``. It decides whether a name starts, goes on, is done, or is refused.

A name stands for one config on one data set. Ray Train goes on with whatever lies under a name without a word;
here another config or other data under the same name is refused, with the difference.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from cnnjob import conditional, storage
from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest
from cnnjob.errors import FormatVersionError, IntegrityError, JobError, UserError
from cnnjob.schema import CHECKPOINT_FORMAT_VERSION

RUN_FILE = "run.json"
_LOCK = "lock"
FREE_KEYS = (
    "storage",
    "tracking",
    "cpus_per_worker",
    "cache_bytes_per_worker",
    "data_cpus",
    "max_failures",
    "grace_s",
    "register_as",
)
"""What may differ when a run goes on: where it runs and where it is told, not what it computes."""


@dataclass(frozen=True)
class RunState:
    """The content of ``run.json``.

    Attributes:
        run_id: The run's MLflow id.
        config: The config that computes, without ``FREE_KEYS``.
        data_fingerprint: The data set's fingerprint.
        rows_digest: Of the data set's rows as they lie, see ``Manifest.rows_digest``.
        result: What the finished run gave; None while it is not finished.
    """

    run_id: str
    config: dict[str, Any]
    data_fingerprint: str
    rows_digest: str = ""
    result: dict[str, Any] | None = None


def computing_config(config: TrainConfig) -> dict[str, Any]:
    """The part of a config that decides what is computed. The data set counts by fingerprint, not by place."""
    return config.model_dump(mode="json", exclude={*FREE_KEYS, "dataset", "name"})


def begun(run_id: str, config: TrainConfig, manifest: Manifest) -> RunState:
    """A run that begins."""
    return RunState(run_id, computing_config(config), manifest.fingerprint, manifest.rows_digest)


def open_run(run_folder: str, config: TrainConfig, manifest: Manifest) -> RunState | None:
    """The run that lies under this name, if there is one.

    Raises:
        UserError: It is a run of another config or of other data; the message shows the difference. So is a run that
            is not finished, where the same rows lie in another order: an epoch that it is in would have some twice.
    """
    try:
        document = storage.read_json(storage.join(run_folder, RUN_FILE))
    except FileNotFoundError:
        return None
    version = document.pop("format_version", None)
    if version != CHECKPOINT_FORMAT_VERSION:
        raise FormatVersionError.of("run", storage.join(run_folder, RUN_FILE), version, CHECKPOINT_FORMAT_VERSION)
    state = RunState(**document)
    differences = _differences(state.config, computing_config(config))
    if state.data_fingerprint != manifest.fingerprint:
        differences.append(f"data fingerprint: was {state.data_fingerprint[:12]}, is {manifest.fingerprint[:12]}")
    elif state.result is None and state.rows_digest not in ("", manifest.rows_digest):
        differences.append(
            "order of the rows: the data set was prepared anew, with other shards, another split.seed or other "
            "libraries; prepare it as it was to go on"
        )
    if differences:
        listed = "\n".join(f"  {line}" for line in differences)
        raise UserError(
            f"the run {config.name} in {config.storage} was begun with another config or other data:\n{listed}\n"
            f"Give the new run another name, or remove {run_folder}."
        )
    return state


def run_id_of(run_folder: str) -> str | None:
    """The MLflow run of the run that lies here; None where none does."""
    try:
        return str(storage.read_json(storage.join(run_folder, RUN_FILE))["run_id"])
    except (FileNotFoundError, IntegrityError, KeyError):
        return None


@contextmanager
def alone(run_folder: str) -> Iterator[None]:
    """Keep other commands off a run in a local folder.

    On an object store nothing tells the dead from the living: there the last one takes the run up, see ``stop``.

    Raises:
        JobError: Another command is at work on it.
    """
    if not storage.is_local(run_folder):
        yield
        return
    with storage.told(run_folder):
        folder = storage.local_path(run_folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise JobError(
                f"another command is training the run in {run_folder} right now; wait for it, or stop it first."
            ) from error
    try:
        yield
    finally:
        lock.release()


def save_run(run_folder: str, state: RunState) -> None:
    """Write ``run.json``, whole or not at all."""
    storage.write_json(storage.join(run_folder, RUN_FILE), _document(state))


def save_first(run_folder: str, state: RunState, before: str | None) -> bool:
    """Write ``run.json`` of a run that begins, unless another command has begun one meanwhile.

    Args:
        run_folder: The run's.
        state: The run.
        before: Its ``version_of`` before it was decided that one begins.

    Returns:
        Whether it is this run that begins.
    """
    uri = storage.join(run_folder, RUN_FILE)
    if storage.is_s3(uri):
        return conditional.replace(uri, storage.json_bytes(_document(state)), before)
    save_run(run_folder, state)
    return True


def version_of(run_folder: str) -> str | None:
    """What tells this ``run.json`` from any other on S3; elsewhere, or where there is none, None."""
    uri = storage.join(run_folder, RUN_FILE)
    return conditional.version_of(uri) if storage.is_s3(uri) else None


def _document(state: RunState) -> dict[str, Any]:
    return {"format_version": CHECKPOINT_FORMAT_VERSION, **vars(state)}


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [line for k in keys for line in _differences(before.get(k), now.get(k), f"{key}.{k}".strip("."))]
    return [] if before == now else [f"{key}: was {before!r}, is {now!r}"]
