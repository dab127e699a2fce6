"""Jobs on a Ray cluster through its jobs API: the code and the resolved config go along, the exit code comes back.

The cluster needs the dependencies installed, not cnnjob: the packages travel as the job's working folder.
"""

import asyncio
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        ClusterError: It cannot be reached, or it refuses the token.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
    except (ConnectionError, RuntimeError, OSError, AuthenticationError) as error:
        raise ClusterError(
            f"the jobs API at {address} cannot be reached: {_line_of(error)}. Check the address; for a "
            f"cluster with token authentication set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH; for a head on this "
            f"machine run cnnjob up first."
        ) from error


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
    try:
        info = client.get_job_info(job_id)
    except RuntimeError as error:
        if _NOT_FOUND not in str(error):
            raise ClusterError(f"the cluster does not tell of the job {job_id}: {_line_of(error)}") from error
        raise UserError(f"the cluster has no job {job_id}; cnnjob jobs lists those there are") from error
    return _state(info)


def listing(client: JobSubmissionClient) -> list[JobState]:
    """The submitted jobs of the cluster, in the order in which they were."""
    found = [_state(info) for info in client.list_jobs() if info.submission_id]
    return sorted(found, key=lambda job: job.submitted or 0)


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
