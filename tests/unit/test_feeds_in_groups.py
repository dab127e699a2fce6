"""The budget for rows changes no bit of a run: whole groups that stream, keep, and change from one to the other."""

import dataclasses
from itertools import cycle

import pytest

from cnnjob.training import feed
from cnnjob.training.feed import feed_of, streaming_bytes
from cnnjob.training.order import num_steps
from cnnjob.training.stop import ask_to_stop
from tests import workers
from tests.helpers import Dataset, PictureSource, prepare, prepare_config
from tests.instants import kill
from tests.workers import job_of

WORLD = 3
EPOCHS = 2
BATCH = 30
ROW_BYTES = 192
WINDOW = 8 * ROW_BYTES


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Rows of which the last step of an epoch leaves one, so that two of three ranks have none in it."""
    output = tmp_path_factory.mktemp("groups") / "set"
    config = prepare_config(output, size=(8, 8), resize="exact", rows_per_shard=50, rows_per_group=4, val=0.2, test=0.1)
    return Dataset(str(output), prepare(config, PictureSource(220)))


@pytest.fixture
def job(dataset, tmp_path, monkeypatch):
    """Makes the job of a feed, which is what its budget is to lead to."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", WINDOW)
    monkeypatch.setattr(feed, "ARROW_BYTES", 0)
    assert dataset.manifest.splits["train"].rows % BATCH == 1, "the last step is to have one row"

    def make(kind, name):
        budget = {"in memory": 10**9, "streamed": streaming_bytes(dataset.manifest)}[kind]
        options = {"num_workers": WORLD, "num_epochs": EPOCHS, "global_batch_size": BATCH}
        found = job_of(dataset, tmp_path / name, cache_bytes_per_worker=budget, **options)
        assert feed_of(found.config, found.manifest).kind == kind
        return found

    return make


@pytest.fixture
def kept(job):
    """A run with its rows in memory, to which nothing happens."""
    return workers.run(job("in memory", "kept"), window_bytes=WINDOW)


def test_a_streamed_run_is_killed(job, kept, tmp_path):
    """A group that streams, killed in mid-epoch, ends with the bits of one that keeps its rows."""
    faults = [kill("step", tmp_path, rank=1, epoch=2, step=3)]
    ended = workers.run(job("streamed", "streamed"), faults, window_bytes=WINDOW)
    assert ended.starts == 2
    assert ended.same_as(kept)


@pytest.mark.slow
def test_a_run_goes_on_with_another_budget(job, kept):
    """A run that leaves at every step, the last one too, and goes on with the other feed, ends with the same bits."""
    kinds = cycle(("streamed", "in memory", "streamed"))
    one = job("streamed", "changed")
    steps = num_steps(one.manifest.splits["train"].rows, one.config.global_batch_size)
    for attempt in range(EPOCHS * steps):
        ask_to_stop(one.run_folder, str(attempt))
        left = workers.run(dataclasses.replace(job(next(kinds), "changed"), attempt=str(attempt)), window_bytes=WINDOW)
        assert left.checkpoint.progress.epoch * steps + left.checkpoint.progress.step == attempt + 1
    assert workers.run(job("streamed", "changed"), window_bytes=WINDOW).same_as(kept)
