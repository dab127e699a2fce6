"""``cnnjob up``, ``down``, ``submit``, ``jobs``, ``logs`` and ``stop``: a local head, and jobs on any cluster."""

import dataclasses
import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from cnnjob import interrupt
from cnnjob.cluster import head, jobs_api
from cnnjob.cluster import submit as submission
from cnnjob.cluster.head import Head
from cnnjob.cluster.jobs_api import JobState
from cnnjob.config import kinds
from cnnjob.config.base import Config, absolute
from cnnjob.config.cluster import RULES, ClusterConfig
from cnnjob.config.load import load_config
from cnnjob.config.nightly import NightlyConfig
from cnnjob.config.score import ScoreConfig
from cnnjob.scoring.dates import day_of
from pipelines.console import Console, write


def up(conf: Path | None, overrides: Sequence[str], console: Console) -> Head:
    """Start a head on this machine."""
    if conf is None:
        config = load_config(ClusterConfig, {}, where="--set", overrides=overrides, rules=RULES)
    else:
        config = kinds.load("cluster", conf, overrides)
    console.note("Starting a Ray head on this machine")
    started = head.start(config)
    console.say(f"A Ray head runs at {started.address} (loopback; token in {started.token_path})")
    console.say(f"Submit: cnnjob submit train CONF --address {started.address} --follow     Stop: cnnjob down")
    return started


def down(state: str, console: Console) -> dict[str, bool]:
    """Stop the head of this machine."""
    stopped = head.stop(Path(absolute(state)))
    console.say("Stopped" if stopped else "Nothing to do: no head of cnnjob is running")
    return {"stopped": stopped}


def submit(
    kind: kinds.KindName,
    conf: Path,
    overrides: Sequence[str],
    address: str,
    state: str,
    console: Console,
    *,
    wait: bool,
) -> JobState:
    """Submit a job; with ``wait``, show its log and end as it ends."""
    config = kinds.load(kind, conf, overrides, submitted=True)
    _check_date(config)
    client = _client(address, state)
    job_id = submission.submit(client, kind, config)
    console.note(f"Submitted {job_id} to {address}")
    if not wait:
        console.say(job_id)
        return jobs_api.state(client, job_id)
    try:
        ended = submission.follow(client, job_id, _write)
    except (KeyboardInterrupt, interrupt.EndedBySignalError) as told:
        told.add_note(submission.not_stopped(client, job_id))
        raise
    console.say(f"{job_id} {ended.status}")
    return dataclasses.replace(ended, exit_code=submission.exit_code(ended))


def _check_date(config: Config) -> None:
    """A job that scores has a date: without one it would fail on the cluster.

    Raises:
        UserError: It has none.
    """
    scoring = config.score if isinstance(config, NightlyConfig) else config
    if isinstance(scoring, ScoreConfig):
        day_of(scoring.date, dt.datetime.now(dt.UTC), scoring.timezone)


def listing(address: str, state: str, console: Console) -> dict[str, list[JobState]]:
    """The jobs of a cluster."""
    found = jobs_api.listing(_client(address, state))
    rows = [
        [job.job_id, _moment(job.submitted), job.what or job.entrypoint, job.status, _shown(job.exit_code)]
        for job in found
    ]
    console.table(["job", "submitted", "what", "status", "exit code"], rows, unbroken=["job", "status"])
    return {"jobs": found}


def _moment(seconds: float | None) -> str:
    """A time as this machine's clock shows it."""
    return "" if seconds is None else f"{dt.datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


def _shown(code: int | None) -> str:
    return "" if code is None else str(code)


def logs(job_id: str, address: str, state: str, console: Console) -> dict[str, str]:
    """The log of a job so far."""
    text = jobs_api.logs(_client(address, state), job_id)
    console.say(text)
    return {"job_id": job_id, "log": text}


def stop(job_id: str, address: str, state: str, console: Console) -> JobState:
    """Stop a job."""
    client = _client(address, state)
    told = jobs_api.stop(client, job_id)
    stands = jobs_api.state(client, job_id)
    console.say(f"Asked {job_id} to stop" if told else f"Nothing to do: {job_id} has ended, {stands.status}")
    return stands


def _client(address: str, state: str) -> JobSubmissionClient:
    return jobs_api.connect(*head.reached(Path(absolute(state)), address))


def _write(text: str) -> None:
    write(sys.stderr, text)
