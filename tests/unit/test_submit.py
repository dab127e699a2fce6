"""Submitted jobs as seen by who submits them: how long they have to stop, and a cluster that is away meanwhile."""

import json
import logging
import os

import pytest
from ray.dashboard.modules import dashboard_sdk
from ray.dashboard.modules.job import sdk
from ray.job_submission import JobSubmissionClient
from tenacity import stop_after_attempt, wait_none

from cnnjob.cluster import jobs_api, submit
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
    monkeypatch.setattr(submit._look.retry, "wait", wait_none())
    monkeypatch.setattr(submit._look.retry, "stop", stop_after_attempt(3))


@pytest.mark.parametrize(("grace_s", "expected"), [(30, 60), (1.5, 32), (3600, 3630)])
def test_a_training_has_its_grace_and_more_until_it_is_killed(grace_s, expected):
    """Ray is told to wait for whole seconds: ``grace_s``, rounded up, and what telling MLflow takes."""
    config = TrainConfig(dataset="data", name="run", grace_s=grace_s)
    assert submit.stop_wait_s(config) == expected


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
        jobs_api.state(JobSubmissionClient(url), job)


@pytest.mark.parametrize(
    "job", ["..", ".", "../version", "a/logs", "#a", "a?b=c", "a%2fb", "a b", "a\nb", f"{JOB}/", "x" * 20_000]
)
def test_an_id_that_would_be_another_address_is_that_of_no_job(job):
    """What would lead elsewhere in a URL is no job's id, and nothing is asked."""
    with serving(VERSION) as (url, requests):
        client = JobSubmissionClient(url)
        asked = len(requests)
        for ask in (jobs_api.state, jobs_api.logs, jobs_api.stop):
            with pytest.raises(UserError, match="has no job") as told:
                ask(client, job)
            assert "\n" not in str(told.value)
            assert len(str(told.value)) < 200
        assert len(requests) == asked


NO_URLS = ["", "foo", "auto", "local", "127.0.0.1:8265", "ray://127.0.0.1:9", "file:///etc", "http://", "http://[::1"]


@pytest.mark.parametrize(
    "address",
    [
        *NO_URLS,
        "http://a b",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:9?x",
        "HTTP://127.0.0.1",
    ],
)
def test_an_address_that_is_no_url_is_a_mistake(address):
    """Ray would take words and other schemes, and ask whatever Ray it finds, or import a module."""
    with pytest.raises(UserError, match=r"is no URL of a cluster's dashboard, such as http://127\.0\.0\.1:8265"):
        jobs_api.connect(address, None)


def test_a_password_in_an_address_is_refused_and_not_shown():
    """Messages and logs would repeat it."""
    with pytest.raises(UserError, match="leave it out") as told:
        jobs_api.connect("http://me:secret@127.0.0.1:9", None)
    assert "secret" not in str(told.value)


def test_what_ray_tells_of_an_upload_is_not_shown():
    """Its client has loggers with levels of their own; a warning is shown."""
    with serving(VERSION) as (url, _):
        jobs_api.connect(url, None)
    for logger in (dashboard_sdk.logger, sdk.logger, logging.getLogger("ray._private.runtime_env.packaging")):
        assert logger.getEffectiveLevel() == logging.WARNING


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_address_that_was_given_is_asked(monkeypatch, name):
    """A variable that Ray puts above it leads nowhere else, and a token is sent to nobody else; it stays as it was."""
    with serving(VERSION) as (other, asked), serving(VERSION) as (url, requests):
        monkeypatch.setenv(name, other)
        assert jobs_api.connect(url, "secret").get_address() == url
        assert os.environ[name] == other
    assert requests
    assert not asked


@pytest.mark.parametrize(
    "answer", [b"<html>a shop</html>", b"{}", b"[]", b'{"ray_version": 3}', b'{"ray_version": "x"}']
)
def test_a_server_that_is_no_ray_is_told(answer):
    """Whatever it answers, in one paragraph."""
    with serving((200, answer)) as (url, _), pytest.raises(ClusterError, match="cannot be reached") as told:
        jobs_api.connect(url, None)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("answer", [BUSY, (200, b"<html>"), (200, b"[{}]"), (200, b"3")])
@pytest.mark.parametrize(
    "ask", [jobs_api.listing, lambda client: jobs_api.state(client, JOB)], ids=["listing", "state"]
)
def test_an_answer_that_says_nothing_is_told(ask, answer):
    """A cluster whose answers make no sense is a failure of the world, in one paragraph."""
    with serving(VERSION, VERSION, answer) as (url, _), pytest.raises(ClusterError, match="does not tell of") as told:
        ask(JobSubmissionClient(url))
    assert "\n" not in str(told.value)


def test_a_job_that_may_have_been_taken_is_not_just_submitted_again():
    """Where the answer to a submission is lost, the end says to look first."""

    class Client:
        def submit_job(self, **_: object) -> str:
            raise ConnectionResetError("reset by peer")

    config = PrepareConfig(source={"kind": "digits"}, output="data")
    with pytest.raises(ClusterError, match=r"not known: reset by peer\. Look with cnnjob jobs before"):
        submit.submit(Client(), "prepare", config)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_job_that_has_ended_already_is_not_stopped(stopped):
    """Whether there was something to stop is what the cluster says."""
    answer = 200, json.dumps({"stopped": stopped}).encode()
    with serving(VERSION, VERSION, answer) as (url, _):
        assert jobs_api.stop(JobSubmissionClient(url), JOB) is stopped


def test_the_wait_goes_with_the_job():
    """A submitted job's environment, which is that of Ray's supervisor too, says how long the supervisor waits."""
    sent = []

    class Client:
        def submit_job(self, **job: object) -> str:
            sent.append(job)
            return JOB

    config = PrepareConfig(source={"kind": "digits"}, output="data")
    assert submit.submit(Client(), "prepare", config) == JOB
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
        found = jobs_api.listing(JobSubmissionClient(url))
    told = [("c", "", None), ("a", "", 1.0), ("b", "train digits", 2.0)]
    assert [(job.job_id, job.what, job.submitted) for job in found] == told


def test_a_cluster_that_is_away_for_a_while_ends_nothing(impatient):
    """The log breaks off and two answers fail; then the job is seen to run, and to end, with its exit code."""
    seen = []
    plan = (VERSION, VERSION, BUSY, BUSY, BUSY, told("RUNNING"), BUSY, told("FAILED", 143))
    with serving(*plan) as (url, requests):
        state = submit.follow(JobSubmissionClient(url), JOB, seen.append)
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
        submit.follow(client, JOB, seen.append)
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
    assert submit._look.retry.stop.max_delay == 60
    assert submit._look.retry.wait.wait_fixed == 1
