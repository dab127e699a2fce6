"""Metrics reach MLflow once each, also from a server that is away for a while."""

import time

import pytest

from cnnjob.errors import TrackingError
from cnnjob.tracking import runs, sender
from cnnjob.tracking.sender import MetricSender
from cnnjob.tracking.server import connect
from tests.mlflow_server import end, free_port, serve


class Flaky:
    """Takes the place of the request to MLflow: fails as often as it is told, then keeps what it is sent."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.points: list[tuple[str, int]] = []

    def __call__(self, server, run_id, points) -> None:
        """Fail, or keep the points."""
        if self.failures:
            self.failures -= 1
            raise TrackingError("MLflow is away.")
        self.points += [(point.key, point.step) for point in points]


def send(monkeypatch, flaky: Flaky, steps: int) -> list[str]:
    """Send two metrics of each step; what was noted."""
    notes: list[str] = []
    monkeypatch.setattr(sender, "log_metrics", flaky)
    monkeypatch.setattr(sender, "PAUSE_S", 0.01)
    with MetricSender(None, "run", notes.append) as metrics:
        for step in range(steps):
            metrics.put({"loss": 0.5, "accuracy": 0.25}, step=step, timestamp_ms=step)
            time.sleep(0.002)
    return notes


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_every_point_is_sent_once_and_in_order(monkeypatch, failures):
    """Requests that fail are made again, and nothing is sent twice; what is wrong is noted once."""
    flaky = Flaky(failures)
    notes = send(monkeypatch, flaky, 20)
    assert flaky.points == [(key, step) for step in range(20) for key in ("loss", "accuracy")]
    assert len(notes) == min(failures, 1)


def test_what_cannot_be_sent_is_an_error_at_the_end(monkeypatch):
    """A server that stays away does not stop the work, and is an error once it is done."""
    with pytest.raises(TrackingError, match="away"):
        send(monkeypatch, Flaky(10**6), 3)


def test_an_error_of_the_work_is_not_hidden(monkeypatch):
    """Where the work itself fails, nobody waits for MLflow."""
    monkeypatch.setattr(sender, "log_metrics", Flaky(10**6))
    metrics = MetricSender(None, "run", lambda _: None)
    with pytest.raises(ZeroDivisionError), metrics:
        metrics.put({"loss": 1 / 0}, step=1, timestamp_ms=1)


def test_a_fault_of_our_own_is_not_lost(monkeypatch):
    """Whatever else goes wrong beside the work is raised once it is done."""
    monkeypatch.setattr(sender, "log_metrics", lambda *_: 1 / 0)
    metrics = MetricSender(None, "run", lambda _: None)
    with pytest.raises(ZeroDivisionError), metrics:
        metrics.put({"loss": 0.5}, step=1, timestamp_ms=1)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_one_point_a_step(tmp_path, monkeypatch):
    """Points of a real server: killed in the middle, back later, sent again by a second command: one for each step."""
    monkeypatch.setattr(sender, "PAUSE_S", 0.2)
    port = free_port()
    process = serve(tmp_path, port)
    try:
        server = connect(f"http://127.0.0.1:{port}")
        run_id = runs.start_run(server, "experiment", "run", {}, {})
        with MetricSender(server, run_id, lambda _: None) as metrics:
            metrics.put({"loss": 0.1}, step=1, timestamp_ms=1_700_000_000_001)
            end(process)
            for step in (2, 3):
                metrics.put({"loss": 0.1 * step}, step=step, timestamp_ms=1_700_000_000_000 + step)
            process = serve(tmp_path, port)
        with MetricSender(server, run_id, lambda _: None) as metrics:
            for step in (1, 2, 3):
                metrics.put({"loss": 0.1 * step}, step=step, timestamp_ms=1_700_000_000_000 + step)
        assert [point.step for point in server.client.get_metric_history(run_id, "loss")] == [1, 2, 3]
    finally:
        end(process)
