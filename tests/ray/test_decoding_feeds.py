"""Image files that Ray Data decodes on CPUs of its own, and feeds to a rank in the order of its epoch."""

from pathlib import Path

import pytest
import torch

from cnnjob.cluster.session import Needs, session
from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import read_manifest
from cnnjob.data.sources.open import open_source
from cnnjob.data.spread import spread
from cnnjob.errors import IntegrityError, ResourceError
from cnnjob.progress import Silent
from cnnjob.training import feed
from cnnjob.training.feed import Place, Run, TrainingFeed
from cnnjob.training.stream import StreamingFeed
from pipelines.train import _needs
from tests.helpers import prepare
from tests.piles import config_of, write_folder
from tests.shared import NUM_CPUS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def files(tmp_path: Path) -> str:
    """A data set of 60 PNG and JPEG files as they are, in row groups of four."""
    write_folder(tmp_path / "pile", {"ant": 30, "bee": 30}, kinds=("png", "jpeg"))
    config = config_of(
        tmp_path / "set",
        source={"kind": "folder", "uri": str(tmp_path / "pile")},
        image={"height": 8, "width": 8, "storage": "encoded"},
        split={"val": 0.1, "test": 0.1},
        shards={"rows_per_group": 4},
    )
    prepare(config, open_source(config))
    return str(tmp_path / "set")


def by_ray(function, items):
    """What a worker's group does."""
    return spread(function, list(items), ordered=True)


def test_decoded_elsewhere_is_decoded_here(shared_ray, files, monkeypatch):
    """Batches of files that Ray Data decodes, streamed or kept, are those of files decoded by the rank, to the bit."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", 10 * 192)
    monkeypatch.setattr(feed, "ARROW_BYTES", 0)
    run = Run(files, read_manifest(files), Place(1, 2), 8, 0)
    here = list(StreamingFeed(run).epoch(2, 1))
    assert len(here) > 3
    for other in (StreamingFeed(run, by_ray).epoch(2, 1), TrainingFeed(run, by_ray).epoch(2, 1)):
        for one, two in zip(here, other, strict=True):
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.labels, two.labels)


def test_a_file_that_is_gone_is_told_as_such(shared_ray, files):
    """What a task finds wrong with a shard arrives as our error, not as a text of Ray's."""
    run = Run(files, read_manifest(files), Place(0, 1), 8, 0)
    Path(files, run.manifest.splits["train"].shards[0].path).unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        TrainingFeed(run, by_ray)


def test_cpus_that_decode_are_reserved(shared_ray, files):
    """A cluster without CPUs for decoding beside the workers' is refused with the arithmetic; packed rows need none."""
    config = TrainConfig(dataset=files, name="files", num_workers=NUM_CPUS, storage="unused")
    manifest = read_manifest(files)
    needs = _needs(config, manifest)
    assert needs == Needs(NUM_CPUS, config.cpus_per_worker, data_cpus=1)
    with pytest.raises(ResourceError, match=f"{NUM_CPUS + 1}"), session(needs, Silent()):
        pass
    packed = manifest.model_copy(update={"image": manifest.image.model_copy(update={"storage": "packed"})})
    assert _needs(config, packed).data_cpus == 0
