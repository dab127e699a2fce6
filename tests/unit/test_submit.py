"""Submitted jobs as seen by who submits them: how long they have to stop, and a cluster that is away meanwhile."""

import json

import pytest
from ray.job_submission import JobSubmissionClient
from tenacity import stop_after_attempt, wait_none

from cnnjob.cluster import submit as api
from cnnjob.config.prepare import PrepareConfig
from cnnjob.config.train import TrainConfig
from cnnjob.errors import ClusterError, UserError
from tests.servers import serving

JOB = "raysubmit_1"
VERSION = (200, json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": ""}).encode())
BUSY = (503, b"the agent is away")


def told(status: str, exit_code: int | None = None) -> tuple[int, bytes]:
    """What the jobs API says of the job."""
    job = {"type": "SUBMISSION", "submission_id": JOB, "entrypoint": "python", "status": status}
    return 200, json.dumps({**job, "driver_exit_code": exit_code}).encode()


@pytest.fixture(autouse=True)
def no_cluster_is_named(monkeypatch):
    """Ray's own settings would take the place of the address."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def impatient(monkeypatch):
    """A cluster is asked three times at once, not for a minute."""
    monkeypatch.setattr(api._look.retry, "wait", wait_none())
    monkeypatch.setattr(api._look.retry, "stop", stop_after_attempt(3))


@pytest.mark.parametrize(("grace_s", "expected"), [(30, 60), (1.5, 32), (3600, 3630)])
def test_a_training_has_its_grace_and_more_until_it_is_killed(grace_s, expected):
    """Ray is told to wait for whole seconds: ``grace_s``, rounded up, and what telling MLflow takes."""
    config = TrainConfig(dataset="data", name="run", grace_s=grace_s)
    assert api.stop_wait_s(config) == expected


@pytest.mark.parametrize(
    ("job", "said", "error", "match"),
    [
        ("", BUSY, UserError, "is empty"),
        (JOB, (404, b"Job raysubmit_1 does not exist"), UserError, "cnnjob jobs lists"),
        (JOB, BUSY, ClusterError, "does not tell"),
    ],
)
def test_a_job_that_is_not_there_is_a_mistake(job, said, error, match):
    """An id that is empty or unknown is the user's mistake; a cluster that does not answer is another matter."""
    with serving(VERSION, VERSION, said) as (url, _), pytest.raises(error, match=match):
        api.state(JobSubmissionClient(url), job)


def test_the_wait_goes_with_the_job():
    """A submitted job's environment, which is that of Ray's supervisor too, says how long the supervisor waits."""
    sent = []

    class Client:
        def submit_job(self, **job: object) -> str:
            sent.append(job)
            return JOB

    config = PrepareConfig(source={"kind": "digits"}, output="data")
    assert api.submit(Client(), "prepare", config) == JOB
    assert sent[0]["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
    assert list(sent[0]["metadata"].values()) == [f"prepare {config.output}"]


def test_jobs_are_listed_as_they_were_submitted():
    """The listing has the oldest job first, with what it makes; of a stranger's there is the command alone."""
    jobs = [("b", 2000, {"cnnjob": "train digits"}), ("a", 1000, None), ("c", None, {})]
    listed = [
        {
            "type": "SUBMISSION",
            "submission_id": name,
            "entrypoint": "python",
            "status": "RUNNING",
            "start_time": at,
            "metadata": metadata,
        }
        for name, at, metadata in jobs
    ]
    with serving(VERSION, VERSION, (200, json.dumps(listed).encode())) as (url, _):
        found = api.listing(JobSubmissionClient(url))
    told = [("c", "", None), ("a", "", 1.0), ("b", "train digits", 2.0)]
    assert [(job.job_id, job.what, job.submitted) for job in found] == told


def test_a_cluster_that_is_away_for_a_while_ends_nothing(impatient):
    """The log breaks off and two answers fail; then the job is seen to run, and to end, with its exit code."""
    seen = []
    plan = (VERSION, VERSION, BUSY, BUSY, BUSY, told("RUNNING"), BUSY, told("FAILED", 143))
    with serving(*plan) as (url, requests):
        state = api.follow(JobSubmissionClient(url), JOB, seen.append)
    assert (state.status, state.exit_code) == ("FAILED", 143)
    assert len(requests) == len(plan)
    assert len(seen) == 1
    assert seen[0].startswith("(the log broke off: 503")


def test_a_cluster_that_stays_away_is_told_with_what_to_do(impatient):
    """Where nobody answers any more, the end says that the job was not stopped, how to look at it and to stop it."""
    with serving(VERSION) as (url, _):
        client = JobSubmissionClient(url)
    seen = []
    with pytest.raises(ClusterError) as error:
        api.follow(client, JOB, seen.append)
    for words in (
        "was not stopped",
        f"cnnjob logs {JOB} --address {url}",
        f"cnnjob stop {JOB} --address {url}",
        "60 s",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "the log broke off" in seen[0]


def test_a_cluster_is_waited_for_about_a_minute():
    """As shipped, a cluster that a job is followed on may be away for a minute, asked once a second."""
    assert api._look.retry.stop.max_delay == 60
    assert api._look.retry.wait.wait_fixed == 1
