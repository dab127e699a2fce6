"""A training on a real Ray whose workers die and hang."""

import json
from pathlib import Path

import pytest

from cnnjob import phases
from pipelines import train
from pipelines.console import Console
from tests.instants import kill
from tests.line import Line
from tests.runs import assert_one_point_a_step, config_of, left_by, undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_worker_that_dies_and_one_that_hangs(
    line: Line, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are started again by themselves; weights and metrics are those of an undisturbed run, bit for bit."""
    config = config_of(line.result.dataset, tmp_path, 2)
    faults = [
        kill("step", tmp_path, rank=1, epoch=2, step=3),
        {**kill("step", tmp_path, rank=0, epoch=4, step=5), "signal": "SIGSTOP"},
    ]
    monkeypatch.setattr(train, "worker_environment", lambda: {phases.ENVIRONMENT: json.dumps(faults)})
    train.run(config, console)
    assert all(Path(fault["mark"]).exists() for fault in faults), "each instant is to be reached"
    assert left_by(config).same_as(undisturbed(config, tmp_path / "undisturbed"))
    assert_one_point_a_step(config)
