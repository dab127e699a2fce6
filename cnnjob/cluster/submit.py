"""Submitting a job to a Ray cluster: the code and the resolved config go along, the exit code comes back.

The cluster needs the dependencies installed, not cnnjob: the packages travel as the job's working folder.
"""

import asyncio
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import retry, retry_if_exception, retry_if_exception_type, stop_after_delay, wait_fixed

import cnnjob
from cnnjob.cluster.jobs_api import LOST, NONSENSE, WHAT, JobState, line_of
from cnnjob.config.base import Config
from cnnjob.config.load import dump_config
from cnnjob.config.nightly import NightlyConfig
from cnnjob.config.train import TrainConfig
from cnnjob.errors import ClusterError

_POLL_S = 0.5
_CONF = "conf.yaml"
_NO_AGENT = "No available agent"
_AGENT_TIMEOUT_S = 90
"""A fresh cluster answers before the agents that start jobs are up; that passes."""
LOST_TIMEOUT_S = 60
"""How long a cluster that a job is followed on may be away."""
STOP_WAIT_ENV = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_MARGIN_S = 30
"""What a job that is stopped may take beside its ``grace_s``: telling MLflow, in several tries, and closing Ray."""


def submit(client: JobSubmissionClient, kind: str, config: Config) -> str:
    """Submit a job of ``kind`` with a validated config. Returns its id.

    Raises:
        ClusterError: The cluster refused it, or broke off: then it may have it.
    """
    with tempfile.TemporaryDirectory() as folder:
        _stage(Path(folder), config)
        # The environment of Ray's supervisor of the job too, which kills 3 s after it has told the job to stop.
        environment = {STOP_WAIT_ENV: str(stop_wait_s(config))}
        try:
            return _send(client, kind, _what(kind, config), {"working_dir": folder, "env_vars": environment})
        except RuntimeError as error:
            raise ClusterError(f"the cluster refused the job: {line_of(error)}") from error
        except (OSError, *NONSENSE) as error:
            raise ClusterError(
                f"whether the cluster took the job is not known: {line_of(error)}. Look with cnnjob jobs before you "
                f"submit it again."
            ) from error


def stop_wait_s(config: Config) -> int:
    """Seconds that a job with this config has from being told to stop until it is killed."""
    grace_s = config.grace_s if isinstance(config, TrainConfig) else 0
    return math.ceil(grace_s) + STOP_MARGIN_S


def _stage(folder: Path, config: Config) -> None:
    """The packages and the resolved config, as the job's working folder."""
    root = Path(cnnjob.__file__).parent.parent
    for package in ("cnnjob", "pipelines"):
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / _CONF).write_text(dump_config(config))


def _what(kind: str, config: Config) -> str:
    made = config.score if isinstance(config, NightlyConfig) else config
    return f"{kind} {getattr(made, 'name', None) or getattr(made, 'output', '')}"


def _no_agent_yet(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _NO_AGENT in str(error)


@retry(
    retry=retry_if_exception(_no_agent_yet), stop=stop_after_delay(_AGENT_TIMEOUT_S), wait=wait_fixed(1), reraise=True
)
def _send(client: JobSubmissionClient, kind: str, what: str, runtime_env: dict[str, Any]) -> str:
    job_id: str = client.submit_job(
        entrypoint=f"python -m pipelines {kind} {_CONF}",
        runtime_env=runtime_env,
        metadata={WHAT: what},
    )
    return job_id


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], None]) -> JobState:
    """Show a job's log until it ends, and say how it ended.

    Raises:
        ClusterError: The cluster did not answer for ``LOST_TIMEOUT_S``.
    """
    try:
        asyncio.run(_tail(client, job_id, write))
    except LOST as error:
        write(f"(the log broke off: {line_of(error)})\n")
    try:
        while not JobStatus((job := _look(client, job_id)).status).is_terminal():
            time.sleep(_POLL_S)
    except LOST as error:
        raise ClusterError(
            f"the cluster at {client.get_address()} has not told for {LOST_TIMEOUT_S} s how the job stands: "
            f"{line_of(error)}. {not_stopped(client, job_id)}"
        ) from error
    return job


async def _tail(client: JobSubmissionClient, job_id: str, write: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(job_id):
        write(lines)


@retry(retry=retry_if_exception_type(LOST), stop=stop_after_delay(LOST_TIMEOUT_S), wait=wait_fixed(1), reraise=True)
def _look(client: JobSubmissionClient, job_id: str) -> JobState:
    return JobState.of(client.get_job_info(job_id))


def not_stopped(client: JobSubmissionClient, job_id: str) -> str:
    """What to tell who no longer follows a job."""
    there = f"{job_id} --address {client.get_address()}"
    return (
        f"The job {job_id} was not stopped. To look at it: cnnjob logs {there}. To stop it: cnnjob stop {there}. "
        f"While it goes on, do not submit it again."
    )


def exit_code(job: JobState) -> int:
    """The exit code for a finished job: its process's own, or 1 where it never ran."""
    if job.status == JobStatus.SUCCEEDED.value:
        return 0
    return job.exit_code if job.exit_code and job.exit_code > 0 else 1
