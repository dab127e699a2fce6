"""Metrics on their way to MLflow, beside the work: a server that is away for a while stops nothing and loses nothing.

Points come from the run's journal with their timestamps, so one that is sent twice leaves one point. What could not be
sent by the end is an error; the journal still has it, and the same command sends it.
"""

import threading
from collections.abc import Callable, Mapping
from itertools import count
from types import TracebackType
from typing import Self

from mlflow.entities import Metric

from cnnjob.errors import TrackingError
from cnnjob.tracking.runs import log_metrics
from cnnjob.tracking.server import Server

PAUSE_S = 5.0
"""Between two tries while the work goes on."""
LAST_TRIES = 3
"""Tries, each with the client's own, once the work is done."""
_BATCH = 1000
"""Metrics in one request: MLflow's limit."""


class MetricSender:
    """Sends points in the order they are given.

    Used as a context: leaving it without an error waits until all are sent.
    """

    def __init__(self, server: Server, run_id: str, note: Callable[[str], None]) -> None:
        self._server = server
        self._run_id = run_id
        self._note = note
        self._waiting: list[Metric] = []
        self._changed = threading.Condition()
        self._over = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def put(self, values: Mapping[str, float], *, step: int, timestamp_ms: int) -> None:
        """Send the metrics of one step, soon."""
        points = [Metric(key, float(value), timestamp_ms, step) for key, value in values.items()]
        with self._changed:
            self._waiting += points
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Send what is left; where the work failed, that error counts and nobody waits.

        Raises:
            TrackingError: The server did not take it, in ``LAST_TRIES`` tries at least.
        """
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if error is None:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def _run(self) -> None:
        try:
            while points := self._next():
                self._send(points)
                del self._waiting[: len(points)]
        except Exception as error:  # noqa: BLE001 - it is raised where the work ends
            self._error = error

    def _next(self) -> list[Metric]:
        """The next points to send; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            return self._waiting[:_BATCH]

    def _send(self, points: list[Metric]) -> None:
        """Send until it succeeds, or until the work is done and all tries are."""
        for failures in count(1):
            try:
                return log_metrics(self._server, self._run_id, points)
            except TrackingError as error:
                if self._over and failures >= LAST_TRIES:
                    raise
                if failures == 1:
                    self._note(f"{error} Training goes on; its metrics are kept, and sent when MLflow is back.")
            with self._changed:
                self._changed.wait_for(lambda: self._over, timeout=PAUSE_S)
        return None
