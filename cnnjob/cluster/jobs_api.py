"""The jobs API of a Ray cluster: reaching it, and asking it how its jobs stand.

Ray's client is told where to ask and takes no other hint; what it raises becomes one of our errors, in one paragraph.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from cnnjob.errors import ClusterError, UserError

LOST = (RuntimeError, OSError, aiohttp.ClientError, AuthenticationError)
"""What asking a cluster ends with that is away, restarts or answers nonsense; errors of requests are OSErrors."""
NONSENSE = (ValueError, KeyError, TypeError)
"""What Ray's client ends with where the answer is none of a Ray's."""
WHAT = "cnnjob"
"""The key of a job's metadata that says what it is."""
_NOT_FOUND = "status code 404"
_RAYS_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_RAYS_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""The last two have levels of their own, by which they tell of every upload."""
_ID = re.compile(r"[^\s/?#%]{1,200}")
"""A job's id that means itself in a URL; one of dots alone does not."""
_Answer = TypeVar("_Answer")


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

    @classmethod
    def of(cls, info: Any) -> "JobState":
        """The state that Ray's ``JobDetails`` tell of."""
        return cls(
            job_id=info.submission_id,
            status=JobStatus(info.status).value,
            exit_code=info.driver_exit_code,
            entrypoint=info.entrypoint,
            what=(info.metadata or {}).get(WHAT, ""),
            submitted=info.start_time / 1000 if info.start_time else None,
        )


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
    for name in _RAYS_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _no_other_address():
            return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
    except (*LOST, *NONSENSE) as error:
        raise ClusterError(
            f"the jobs API at {address} cannot be reached: {line_of(error)}. Check the address; for a cluster with "
            f"token authentication set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH; for a head on this machine run "
            f"cnnjob up first, and give its folder as --state where that is not the default."
        ) from error


def _check_address(address: str) -> None:
    """Raises where it is no plain URL: Ray would look for any Ray of this machine, or import a module of its name."""
    try:
        parts = urlsplit(address)
        right = address.startswith(("http://", "https://")) and parts.hostname and parts.port != 0
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


def listing(client: JobSubmissionClient) -> list[JobState]:
    """The submitted jobs of the cluster, in the order in which they were.

    Raises:
        ClusterError: The cluster does not say.
    """
    with _told("its jobs"):
        found = [JobState.of(info) for info in client.list_jobs() if info.submission_id]
    return sorted(found, key=lambda job: job.submitted or 0)


def state(client: JobSubmissionClient, job_id: str) -> JobState:
    """How a job stands.

    Raises:
        UserError: There is no such job.
        ClusterError: The cluster does not say.
    """
    return _ask(job_id, lambda: JobState.of(client.get_job_info(job_id)))


def logs(client: JobSubmissionClient, job_id: str) -> str:
    """The log of a job so far. Raises as ``state`` does."""
    return _ask(job_id, lambda: str(client.get_job_logs(job_id)))


def stop(client: JobSubmissionClient, job_id: str) -> bool:
    """Tell a job to stop. False where it had ended already. Raises as ``state`` does."""
    return _ask(job_id, lambda: bool(client.stop_job(job_id)))


def _ask(job_id: str, answer: Callable[[], _Answer]) -> _Answer:
    """What the cluster answers of a job; an id that would lead elsewhere is that of no job, and nothing is asked."""
    if not job_id.strip():
        # Its address would be that of all jobs.
        raise UserError("the id of the job is empty; cnnjob jobs lists those there are")
    none = f"the cluster has no job {' '.join(job_id.split())[:100]}; cnnjob jobs lists those there are"
    if not _ID.fullmatch(job_id) or not job_id.strip("."):
        raise UserError(none)
    with _told(f"the job {job_id}"):
        try:
            return answer()
        except RuntimeError as error:
            if _NOT_FOUND in str(error):
                raise UserError(none) from error
            raise


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (*LOST, *NONSENSE) as error:
        raise ClusterError(
            f"the cluster does not tell of {what}: {line_of(error)}. Run the same command again when it answers."
        ) from error


def line_of(error: Exception) -> str:
    """The first line of what an error says, for the middle of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
