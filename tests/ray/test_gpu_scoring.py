"""Scoring as it is arranged for GPUs, on a GPU of Ray's that is none: the net calculates on a CPU."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob.config.score import EngineConfig, InputConfig
from cnnjob.errors import JobError
from cnnjob.models.bundle import ONNX, image_form
from cnnjob.schema import ID
from cnnjob.scoring import job
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.inputs import Batch, open_input
from cnnjob.scoring.sizing import Sizes
from cnnjob.scoring.work import Desk, part_uri
from tests.helpers import score_config, scoring_model
from tests.nights import folder_of_pictures
from tests.shared import NUM_GPUS
from tests.unit.night import probabilities_of

pytestmark = pytest.mark.ray

SIZES = Sizes(NUM_GPUS, threads=1, batch_size=None, use_gpu=True, bf16=False)


def job_of(kind, digits, bundle, tmp_path):
    """The plan and the desk of a job over a data set, or over a folder."""
    config = score_config(digits.path, tmp_path / "scores", engine=EngineConfig(use_gpu=True))
    if kind == "folder":
        folder = folder_of_pictures(tmp_path / "pictures", 150)
        config = config.model_copy(update={"input": InputConfig(kind="folder", uri=str(folder))})
    form = image_form(bundle.description).model_copy(update={"resize": "stretch"})
    found = open_input(config, config.input.uri, form)
    model = scoring_model(digits.manifest, bundle.digest)
    staging = str(tmp_path / "staging")
    return found.plan(config, model), Desk(found.stage(staging), staging, model, "list", dt.datetime.now(dt.UTC))


@pytest.mark.parametrize("kind", ["dataset", "folder"])
def test_units_are_scored_once_wherever_they_are_decoded(shared_ray, digits, bundle, tmp_path, kind):
    """Each unit is done once, with ONNX Runtime's probabilities within rounding, wherever its images are decoded."""
    plan, desk = job_of(kind, digits, bundle, tmp_path)
    assert desk.reader.decodes == (kind == "folder")
    receipts = list(job.run(plan.units, desk, bundle, SIZES, device="cpu"))
    assert sorted(receipt.number for receipt in receipts) == list(range(len(plan.units)))
    engine = Engine(bundle.files[ONNX], threads=1, batch_size=32)
    for unit in plan.units:
        part = pq.read_table(part_uri(desk.staging, unit.name))
        batches = list(desk.reader.read(unit))
        assert part.column(ID).to_pylist() == [row for batch in batches for row in batch.rows.column(ID).to_pylist()]
        expected = np.concatenate([engine.probabilities(batch.images) for batch in batches])
        assert np.abs(probabilities_of(part) - expected).max() < 1e-5


class Fatal:
    """A reader whose decoder takes its process with it: that of a CPU, or that which has the GPU."""

    def __init__(self, *, decodes):
        self.decodes = decodes

    def read(self, unit):
        """Die."""
        import os

        os._exit(1)


class Wrong:
    """A reader of images that the net does not take."""

    decodes = False

    def read(self, unit):
        """One batch of two channels."""
        yield Batch(pa.table({ID: ["a"]}), np.zeros((1, 2, 5, 5), np.uint8))


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Fatal(decodes=True), "unit 0 .* killed its process 3 times"),
        (Fatal(decodes=False), "a task died"),
        (Wrong(), "unit 0 failed"),
    ],
)
def test_a_unit_that_cannot_be_done_ends_the_job(shared_ray, digits, bundle, tmp_path, reader, message):
    """A unit that ends its process is tried a few times and no more; one that fails fails the job, and says which."""
    plan, desk = job_of("dataset", digits, bundle, tmp_path)
    broken = Desk(reader, desk.staging, desk.model, desk.layout, desk.scored_at)
    with pytest.raises(JobError, match=message):
        list(job.run(plan.units[:1], broken, bundle, SIZES, device="cpu"))
