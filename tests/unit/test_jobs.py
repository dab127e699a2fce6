"""What is told where the following of a submitted job is interrupted, by Ctrl-C and SIGTERM."""

import json
import signal
from pathlib import Path
from unittest import mock

import pytest

from cnnjob import interrupt
from cnnjob.errors import UserError
from pipelines import jobs
from pipelines.command import GO_ON, run_command

JOB, ADDRESS = "raysubmit_1", "http://10.0.0.1:8265"


class Client:
    """A cluster with one job."""

    def get_address(self) -> str:
        """Where it is."""
        return ADDRESS


@pytest.fixture
def ended(monkeypatch, capfd):
    """Run a command that a signal ends; its exit code, its result and what it says."""

    def run(job, number: signal.Signals, as_json: bool = True):
        monkeypatch.setattr(interrupt, "install", lambda: None)
        monkeypatch.setattr(interrupt, "received", lambda: number)
        with pytest.raises(SystemExit) as exited:
            run_command(job, as_json=as_json, debug=False)
        out, err = capfd.readouterr()
        return exited.value.code, json.loads(out), err

    return run


def interrupted(number: signal.Signals):
    """What the signal raises where a job is followed."""

    def follow(*_: object) -> None:
        raise interrupt.EndedBySignalError(128 + number)

    return follow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_no_longer_follows_is_told_that_the_job_goes_on(monkeypatch, ended, number, tmp_path):
    """The end names the job, how to look at it and to stop it, and does not ask for the same command again."""
    conf = tmp_path / "digits.yaml"
    conf.write_text("output: data\nsource: {kind: digits}\n")
    monkeypatch.setattr(jobs, "_client", lambda *_: Client())
    monkeypatch.setattr(jobs.submission, "submit", lambda *_: JOB)
    monkeypatch.setattr(jobs.submission, "follow", interrupted(number))
    code, result, err = ended(
        lambda console: jobs.submit("prepare", conf, (), ADDRESS, str(tmp_path), console, wait=True), number
    )
    assert code == result["exit_code"] == 128 + number
    for said in (err, result["message"]):
        assert f"Ended by {number.name}. The job {JOB} was not stopped." in said
        assert f"cnnjob logs {JOB} --address {ADDRESS}" in said
        assert f"cnnjob stop {JOB} --address {ADDRESS}" in said
        assert GO_ON not in said


@pytest.mark.parametrize(("kind", "prefix"), [("score", ""), ("nightly", "score.")])
def test_a_job_without_a_date_is_not_submitted(monkeypatch, tmp_path, kind, prefix):
    """What scores has a date before it is sent: the mistake is told here, and no cluster is asked."""
    conf = tmp_path / "digits.yaml"
    conf.write_text("{}")
    monkeypatch.setattr(jobs, "_client", mock.Mock(side_effect=AssertionError))
    sets = [f"{prefix}{each}" for each in ("input={kind: folder, uri: in}", "model=models:/m/1", "output=scores")]
    with pytest.raises(UserError, match="the date is missing"):
        jobs.submit(kind, conf, sets, ADDRESS, str(tmp_path), mock.Mock(), wait=False)


@pytest.mark.parametrize(("stopped", "said"), [(True, "Asked raysubmit_1"), (False, "Nothing to do: raysubmit_1 has")])
def test_stopping_says_whether_there_was_something_to_stop(monkeypatch, stopped, said):
    """A job that has ended already is told as that."""
    monkeypatch.setattr(jobs, "_client", lambda *_: Client())
    monkeypatch.setattr(jobs.jobs_api, "stop", lambda *_: stopped)
    monkeypatch.setattr(jobs.jobs_api, "state", lambda *_: mock.Mock(status="SUCCEEDED"))
    console = mock.Mock()
    jobs.stop(JOB, ADDRESS, "", console)
    assert console.say.call_args.args[0].startswith(said)


@pytest.mark.parametrize("override", ["state=s3://bucket/a", "port=8265", "port=12000"])
def test_a_head_without_a_conf_has_the_rules_of_one(override):
    """What would be a mistake in a conf is one in an override, and nothing is started."""
    with pytest.raises(UserError, match="--set has 1 mistake"):
        jobs.up(None, [override], mock.Mock())


def test_a_log_that_nobody_can_read_ends_nothing(monkeypatch):
    """A followed job's log that finds no room is no failure of the following."""
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stderr", full)
        jobs._write("a line\n")
        jobs._write("another\n")


def test_who_ends_a_job_of_the_own_process_is_told_to_go_on(ended):
    """Any other command that a signal ends says that the same command goes on."""
    code, result, err = ended(interrupted(signal.SIGTERM), signal.SIGTERM)
    assert code == result["exit_code"] == 143
    assert f"Ended by SIGTERM. {GO_ON}" in err
