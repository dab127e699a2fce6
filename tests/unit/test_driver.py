"""What is told of workers that failed, and what commands that were killed have left in a run's folder."""

from pathlib import Path
from unittest import mock

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import TrainingFailedError

from cnnjob.errors import StorageError, TrainingError
from cnnjob.training import driver, journal
from cnnjob.training.stop import OWNER, ask_to_stop, take_up

JOB = mock.Mock(run_folder="/runs/digits", **{"config.name": "digits"})
LOST = ConnectionError("another worker of this training has ended")


def health_check(failure: Exception) -> Exception:
    """As Ray Train finds that a worker's process is gone, with the words of Ray about it."""
    error = RuntimeError(f"A worker health check failed.\n{failure}\nSome common causes include: (1) the process ...")
    error.health_check_failure = failure
    return error


def dies(words: str) -> Exception:
    found = ActorDiedError()
    found.error_msg = found.base_error_msg = words
    return health_check(found)


def failed_with(by_rank: dict[int, Exception]) -> str:
    error = mock.Mock(spec=TrainingFailedError, worker_failures=by_rank, controller_failure=None)
    told = driver._failure(JOB, error)
    assert isinstance(told, TrainingError)
    return str(told)


def test_a_process_that_dies_is_told_with_its_likely_cause():
    """Of the ranks only those that died, and what to lower; a page of Ray's own words is not shown."""
    told = failed_with({0: LOST, 1: dies("The actor is dead because its worker process has died.")})
    assert told.startswith("training of digits failed: rank 1: its process died. A process that dies without a word")
    assert "want of memory" in told
    assert all(key in told for key in ("cache_bytes_per_worker", "global_batch_size", "num_workers"))
    assert "rank 0" not in told
    assert "common causes" not in told
    assert told.endswith("Run the same command again to go on from the last checkpoint in /runs/digits.")


def test_a_process_that_ray_ended_for_its_memory_is_told_as_that():
    """Ray's memory monitor says that it was it."""
    told = failed_with({0: health_check(OutOfMemoryError("Task was killed due to the node running low on memory."))})
    assert "rank 0: Ray ended its process, since the memory of its machine ran out. " in told
    assert "Lower cache_bytes_per_worker" in told


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (dies("The actor died because its node has died. Node Id: 1"), "rank 1: its node has died. Run the same"),
        (LOST, "rank 1: another worker of this training has ended. Run the same"),
        (ValueError("first\nlast."), "rank 1: last. Run the same"),
    ],
)
def test_other_failures_have_nothing_to_do_with_memory(error, words):
    """A node that is gone, a connection that is lost, an exception: told as what they are."""
    told = failed_with({1: error})
    assert words in told
    assert "memory" not in told


def test_an_error_of_ours_stays_what_it_is():
    """A worker's own error is raised, whatever else has died."""
    ours = StorageError("the store is away")
    error = mock.Mock(spec=TrainingFailedError, worker_failures={0: ours, 1: dies("")}, controller_failure=None)
    assert driver._failure(JOB, error) is ours


def test_what_killed_commands_have_left_is_removed(tmp_path: Path, monkeypatch):
    """The next command at a run removes what earlier ones have asked, told and let Ray Train write; no result."""
    job = mock.Mock(run_folder=str(tmp_path), attempt="later")
    journal.append(job.run_folder, {"key": "epoch-00001", "kind": journal.EPOCH})
    journal.append(job.run_folder, {**journal.event("stopped"), "attempt": "killed"})
    ask_to_stop(job.run_folder, "killed")
    (tmp_path / "ray" / "killed" / "empty").mkdir(parents=True)
    (tmp_path / "ray" / "killed" / "checkpoint_manager_snapshot.json").touch()
    take_up(job.run_folder, job.attempt)
    monkeypatch.setattr(driver, "_trainer", mock.Mock())
    monkeypatch.setattr(driver, "_Training", lambda _: mock.Mock(**{"wait.return_value": True}))
    told = []
    driver.fit(job, {}, told.append)
    assert [entry["key"] for entry in told] == ["epoch-00001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [OWNER, "journal"]
    assert [path.name for path in tmp_path.glob("journal/**/*.json")] == ["epoch-00001.json"]
