"""A training whose command is told to end, is killed, or is begun a second time, on a Ray of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnjob.config.load import dump_config
from cnnjob.training import checkpoint
from tests.helpers import Dataset
from tests.line import ROOT
from tests.runs import assert_one_point_a_step, config_of, left_by, run_in_mlflow, undisturbed

pytestmark = pytest.mark.slow

WAIT_S = 120


def test_a_command_that_is_told_to_end_and_one_that_is_killed(digits: Dataset, tmp_path: Path) -> None:
    """SIGTERM ends it by 143 with a checkpoint, after SIGKILL it goes on, and the end is that of an undisturbed run."""
    # An epoch takes 0.2 s: enough of them that each command is met at work.
    config = config_of(digits.path, tmp_path, 2, "num_epochs=24")
    conf = tmp_path / "train.yaml"
    conf.write_text(dump_config(config))
    run_folder = tmp_path / "runs" / config.name

    told = begin(conf)
    wait_for(run_folder / "journal" / "epoch-00001.json", told)
    told.send_signal(signal.SIGTERM)
    _, err = told.communicate(timeout=WAIT_S)
    assert told.returncode == 128 + signal.SIGTERM, err
    assert "run the same command again to go on" in err
    kept, _ = checkpoint.latest(str(run_folder))
    assert kept is not None
    assert run_in_mlflow(config)[1].info.status == "KILLED"
    assert run_in_mlflow(config)[1].data.tags["cnnjob.ended_because"] == "SIGTERM"

    killed = begin(conf)
    wait_for(run_folder / "journal" / f"epoch-{kept.progress.epoch + 1:05d}.json", killed)
    killed.kill()
    killed.communicate(timeout=WAIT_S)

    last = begin(conf)
    _, err = last.communicate(timeout=WAIT_S)
    assert last.returncode == 0, err
    assert "Going on after epoch" in err
    assert left_by(config).same_as(undisturbed(config, tmp_path / "undisturbed"))
    assert_one_point_a_step(config)


def test_two_commands_at_one_run_on_an_object_store(digits: Dataset, tmp_path: Path, s3_folder: str) -> None:
    """The later one takes the run up, the earlier one leaves and says so; the end is that of an undisturbed run."""
    config = config_of(digits.path, tmp_path, 2).model_copy(update={"storage": f"{s3_folder}/runs"})
    conf, mark = tmp_path / "train.yaml", tmp_path / "hangs"
    conf.write_text(dump_config(config))
    hangs = {"phase": "report", "signal": "SIGSTOP", "mark": str(mark), "where": {"rank": 0, "key": "epoch-00002"}}
    earlier = begin(conf, CNNJOB_FAULTS=json.dumps([hangs]))
    wait_for(mark, earlier)
    later = begin(conf)
    _, err = later.communicate(timeout=WAIT_S)
    assert later.returncode == 0, err
    _, err = earlier.communicate(timeout=WAIT_S)
    assert earlier.returncode == 1, err
    assert "another command has taken up the run" in err
    assert left_by(config).same_as(undisturbed(config, tmp_path / "undisturbed"))
    assert_one_point_a_step(config)


def begin(conf: Path, **variables: str) -> subprocess.Popen[str]:
    """`cnnjob train` in a process of its own, on a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", "train", str(conf)],
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there, while the process lives."""
    until = time.monotonic() + WAIT_S
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.05)
