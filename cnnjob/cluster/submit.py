"""Jobs on a Ray cluster through its jobs API: the code and the resolved config go along, the exit code comes back.

The cluster needs the dependencies installed, not cnnjob: the packages travel as the job's working folder.
"""

import asyncio
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import retry, retry_if_exception, retry_if_exception_type, stop_after_delay, wait_fixed

import cnnjob
from cnnjob.config.base import Config
from cnnjob.config.load import dump_config
from cnnjob.config.nightly import NightlyConfig
from cnnjob.config.train import TrainConfig
from cnnjob.errors import ClusterError, UserError

_POLL_S = 0.5
_CONF = "conf.yaml"
_NO_AGENT = "No available agent"
_WHAT = "cnnjob"
_NOT_FOUND = "status code 404"
_AGENT_TIMEOUT_S = 90
"""A fresh cluster answers before the agents that start jobs are up; that passes."""
_LOST = (RuntimeError, OSError, aiohttp.ClientError, AuthenticationError)
"""What asking a cluster ends with that is away, restarts or answers nonsense; errors of requests are OSErrors."""
_NONSENSE = (ValueError, KeyError, TypeError)
"""What Ray's client ends with where the answer is none of a Ray's."""
_RAYS_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_ID = re.compile(r"[^\s/?#%]{1,200}")
"""A job's id that means itself in a URL; one of dots alone does not."""
LOST_TIMEOUT_S = 60
"""How long a cluster that a job is followed on may be away."""
STOP_WAIT_ENV = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_MARGIN_S = 30
"""What a job that is stopped may take beside its ``grace_s``: telling MLflow, in several tries, and closing Ray."""


@dataclass(frozen=True)
class JobState:
    """A job of the cluster.

    Attributes:
        job_id: Its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_code: Of its process; None while it has none.
        entrypoint: Its command.
        what: The kind of the job and what it makes: a run's name, or an output; empty where it is none of ours.
        submitted: When, in seconds since the epoch; None where the cluster does not say.
    """

    job_id: str
    status: str
    exit_code: int | None
    entrypoint: str
    what: str
    submitted: float | None


def connect(address: str, token: str | None) -> JobSubmissionClient:
    """A client of the jobs API at ``address``.

    Args:
        address: URL of the cluster's dashboard.
        token: Its token; None leaves it to Ray's own settings (``RAY_AUTH_TOKEN`` and so on).

    Raises:
        UserError: It is no URL.
        ClusterError: It cannot be reached, or it refuses the token.
    """
    _check_address(address)
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        with _no_other_address():
            return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
    except (*_LOST, *_NONSENSE) as error:
        raise ClusterError(
            f"the jobs API at {address} cannot be reached: {_line_of(error)}. Check the address; for a "
            f"cluster with token authentication set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH; for a head on this "
            f"machine run cnnjob up first."
        ) from error


def _check_address(address: str) -> None:
    """Raises where it is no plain URL: Ray would look for any Ray of this machine, or import a module of its name."""
    try:
        parts = urlsplit(address)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right or re.search(r"[\s?#]", address):
        raise UserError(
            f"--address {address[:200]!r} is no URL of a cluster's dashboard, such as http://127.0.0.1:8265"
        )
    if parts.username is not None:
        raise UserError(
            "--address has a user name or a password in it, which every message would show; leave it out. A cluster "
            "asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        )


@contextmanager
def _no_other_address() -> Iterator[None]:
    """Inside, Ray asks the cluster that it is told: else these variables win, and theirs would be sent the token."""
    kept = {name: os.environ.pop(name) for name in _RAYS_ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def submit(client: JobSubmissionClient, kind: str, config: Config) -> str:
    """Submit a job of ``kind`` with a validated config. Returns its id."""
    with tempfile.TemporaryDirectory() as folder:
        _stage(Path(folder), config)
        # The environment of Ray's supervisor of the job too, which kills 3 s after it has told the job to stop.
        environment = {STOP_WAIT_ENV: str(stop_wait_s(config))}
        try:
            return _send(client, kind, _what(kind, config), {"working_dir": folder, "env_vars": environment})
        except RuntimeError as error:
            raise ClusterError(f"the cluster refused the job: {_line_of(error)}") from error
        except (OSError, *_NONSENSE) as error:
            raise ClusterError(
                f"whether the cluster took the job is not known: {_line_of(error)}. Look with cnnjob jobs before you "
                f"submit it again."
            ) from error


def stop_wait_s(config: Config) -> int:
    """Seconds that a job with this config has from being told to stop until it is killed."""
    grace_s = config.grace_s if isinstance(config, TrainConfig) else 0
    return math.ceil(grace_s) + STOP_MARGIN_S


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], None]) -> JobState:
    """Show a job's log until it ends, and say how it ended.

    Raises:
        ClusterError: The cluster did not answer for ``LOST_TIMEOUT_S``.
    """
    try:
        asyncio.run(_tail(client, job_id, write))
    except _LOST as error:
        write(f"(the log broke off: {_line_of(error)})\n")
    try:
        while not JobStatus((job := _look(client, job_id)).status).is_terminal():
            time.sleep(_POLL_S)
    except _LOST as error:
        raise ClusterError(
            f"the cluster at {client.get_address()} has not told for {LOST_TIMEOUT_S} s how the job stands: "
            f"{_line_of(error)}. {not_stopped(client, job_id)}"
        ) from error
    return job


def not_stopped(client: JobSubmissionClient, job_id: str) -> str:
    """What to tell who no longer follows a job."""
    there = f"{job_id} --address {client.get_address()}"
    return (
        f"The job {job_id} was not stopped. To look at it: cnnjob logs {there}. To stop it: cnnjob stop {there}. "
        f"While it goes on, do not submit it again."
    )


def state(client: JobSubmissionClient, job_id: str) -> JobState:
    """How a job stands.

    Raises:
        UserError: There is no such job.
        ClusterError: The cluster does not say.
    """
    if not job_id.strip():
        # Its address would be that of all jobs.
        raise UserError("the id of the job is empty; cnnjob jobs lists those there are")
    none = f"the cluster has no job {' '.join(job_id.split())[:100]}; cnnjob jobs lists those there are"
    if not _ID.fullmatch(job_id) or not job_id.strip("."):
        raise UserError(none)
    with _told(f"the job {job_id}"):
        try:
            info = client.get_job_info(job_id)
        except RuntimeError as error:
            if _NOT_FOUND in str(error):
                raise UserError(none) from error
            raise
        return _state(info)


def listing(client: JobSubmissionClient) -> list[JobState]:
    """The submitted jobs of the cluster, in the order in which they were.

    Raises:
        ClusterError: The cluster does not say.
    """
    with _told("its jobs"):
        found = [_state(info) for info in client.list_jobs() if info.submission_id]
    return sorted(found, key=lambda job: job.submitted or 0)


def logs(client: JobSubmissionClient, job_id: str) -> str:
    """The log of a job so far.

    Raises:
        UserError: There is no such job.
        ClusterError: The cluster does not say.
    """
    state(client, job_id)
    with _told(f"the log of {job_id}"):
        return str(client.get_job_logs(job_id))


def stop(client: JobSubmissionClient, job_id: str) -> bool:
    """Tell a job to stop. False where it had ended already.

    Raises:
        UserError: There is no such job.
        ClusterError: The cluster does not say.
    """
    state(client, job_id)
    with _told(f"the job {job_id}"):
        return bool(client.stop_job(job_id))


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (*_LOST, *_NONSENSE) as error:
        raise ClusterError(
            f"the cluster does not tell of {what}: {_line_of(error)}. Run the same command again when it answers."
        ) from error


def exit_code(job: JobState) -> int:
    """The exit code for a finished job: its process's own, or 1 where it never ran."""
    if job.status == JobStatus.SUCCEEDED.value:
        return 0
    return job.exit_code if job.exit_code and job.exit_code > 0 else 1


def _no_agent_yet(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _NO_AGENT in str(error)


@retry(
    retry=retry_if_exception(_no_agent_yet), stop=stop_after_delay(_AGENT_TIMEOUT_S), wait=wait_fixed(1), reraise=True
)
def _send(client: JobSubmissionClient, kind: str, what: str, runtime_env: dict[str, Any]) -> str:
    job_id: str = client.submit_job(
        entrypoint=f"python -m pipelines {kind} {_CONF}",
        runtime_env=runtime_env,
        metadata={_WHAT: what},
    )
    return job_id


@retry(retry=retry_if_exception_type(_LOST), stop=stop_after_delay(LOST_TIMEOUT_S), wait=wait_fixed(1), reraise=True)
def _look(client: JobSubmissionClient, job_id: str) -> JobState:
    return _state(client.get_job_info(job_id))


def _line_of(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _state(info: Any) -> JobState:
    return JobState(
        job_id=info.submission_id,
        status=JobStatus(info.status).value,
        exit_code=info.driver_exit_code,
        entrypoint=info.entrypoint,
        what=(info.metadata or {}).get(_WHAT, ""),
        submitted=info.start_time / 1000 if info.start_time else None,
    )


def _what(kind: str, config: Config) -> str:
    made = config.score if isinstance(config, NightlyConfig) else config
    return f"{kind} {getattr(made, 'name', None) or getattr(made, 'output', '')}"


async def _tail(client: JobSubmissionClient, job_id: str, write: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(job_id):
        write(lines)


def _stage(folder: Path, config: Config) -> None:
    """The packages and the resolved config, as the job's working folder."""
    root = Path(cnnjob.__file__).parent.parent
    for package in ("cnnjob", "pipelines"):
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / _CONF).write_text(dump_config(config))
