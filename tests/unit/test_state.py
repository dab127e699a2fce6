import dataclasses
import json
import signal
from typing import Any

import pytest

from cnnjob.config.train import OptimizerConfig, TrackingConfig, TrainConfig
from cnnjob.errors import FormatVersionError, JobError, UserError
from cnnjob.training.state import RUN_FILE, RunState, alone, begun, computing_config, open_run, save_run
from tests.forked import apart
from tests.helpers import manifest_of

CONFIG = TrainConfig(dataset="data", name="run")
DATA = manifest_of([3, 4])
OTHER = DATA.model_copy(update={"fingerprint": "0" * 64})
RECUT = manifest_of([1, 2, 4])


def kept(folder, config=CONFIG, **values) -> str:
    save_run(str(folder), dataclasses.replace(begun("id", config, DATA), **values))
    return str(folder)


def with_changes(**changes) -> TrainConfig:
    return TrainConfig(**{"dataset": "data", "name": "run", **changes})


def test_new_name_has_no_run(tmp_path):
    """Where nothing lies, there is no run."""
    assert open_run(str(tmp_path / "none"), CONFIG, DATA) is None


def test_run_comes_back(tmp_path):
    """A run of the same config and data is found, with its id and its result."""
    result = {"test": {"accuracy": 0.5}}
    assert open_run(kept(tmp_path, result=result), CONFIG, DATA) == RunState(
        "id", computing_config(CONFIG), DATA.fingerprint, DATA.rows_digest, result
    )


@pytest.mark.parametrize(
    "change",
    [
        {"cpus_per_worker": 2.0},
        {"tracking": TrackingConfig(uri="http://127.0.0.1:5000")},
        {"storage": "elsewhere"},
        {"dataset": "moved"},
        {"max_failures": 0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_places_and_resources_may_differ(tmp_path, change):
    """A run goes on where only places, resources and the tracking address differ."""
    assert open_run(kept(tmp_path), with_changes(**change), DATA) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"num_epochs": 11},
        {"num_workers": 3},
        {"global_batch_size": 64},
        {"precision": "bf16"},
        {"optimizer": OptimizerConfig(ema_decay=0.9)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_computes_may_not_differ(tmp_path, change):
    """A run is refused under another config, naming the key with both values."""
    with pytest.raises(UserError, match=rf"{next(iter(change))}.*: was .*, is ") as caught:
        open_run(kept(tmp_path), with_changes(**change), DATA)
    assert "another name" in str(caught.value)


def test_other_data_are_refused(tmp_path):
    """A run is refused on data of another fingerprint."""
    with pytest.raises(UserError, match="data fingerprint"):
        open_run(kept(tmp_path), CONFIG, OTHER)


def test_an_unfinished_run_needs_its_rows_in_their_order(tmp_path):
    """The same rows in other shards are refused while epochs are left, and make no difference to a finished run."""
    assert RECUT.rows_digest != DATA.rows_digest
    recut = DATA.model_copy(update={"splits": RECUT.splits})
    with pytest.raises(UserError, match=r"order of the rows: .* prepare it as it was"):
        open_run(kept(tmp_path), CONFIG, recut)
    assert open_run(kept(tmp_path, result={}), CONFIG, recut) is not None
    assert open_run(kept(tmp_path, rows_digest=""), CONFIG, recut) is not None, "begun before that was kept"


def test_one_command_at_a_time_is_at_a_run(tmp_path):
    """A second command on the same run ends with what to do, and goes on once the first has ended."""
    with alone(str(tmp_path / "run")), pytest.raises(JobError, match="right now; wait"), alone(str(tmp_path / "run")):
        pass
    with alone(str(tmp_path / "run")):
        pass


def be_at(run_folder: str, told: Any) -> None:
    """Be at a run until killed, and say so; or say why not."""
    try:
        with alone(run_folder):
            told.send("at work")
            signal.pause()
    except JobError as error:
        told.send(str(error))


def test_a_run_is_free_once_its_process_was_killed(tmp_path):
    """A process is refused while another one is at the run, which stays at it; after SIGKILL the next one may be."""
    folder = str(tmp_path / "run")
    with apart(be_at, folder) as (first, said_first):
        assert said_first.recv() == "at work"
        with apart(be_at, folder) as (_, said):
            assert "right now; wait" in said.recv()
        assert first.is_alive()
        first.kill()
        first.join()
        with apart(be_at, folder) as (_, said):
            assert said.recv() == "at work"
    assert first.exitcode == -signal.SIGKILL


def test_all_differences_are_told_together(tmp_path):
    """Config keys and data that differ are told in one message."""
    with pytest.raises(UserError, match="seed") as caught:
        open_run(kept(tmp_path), with_changes(seed=1, num_epochs=2), OTHER)
    assert all(key in str(caught.value) for key in ("seed", "num_epochs", "data fingerprint"))


def test_other_format_version_is_refused(tmp_path):
    """A run of another format version is refused by that."""
    folder = kept(tmp_path)
    document = json.loads((tmp_path / RUN_FILE).read_text())
    (tmp_path / RUN_FILE).write_text(json.dumps({**document, "format_version": 99}))
    with pytest.raises(FormatVersionError, match="99"):
        open_run(folder, CONFIG, DATA)
