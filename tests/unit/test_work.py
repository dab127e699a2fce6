import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cnnjob.digests import sha256
from cnnjob.schema import ID
from cnnjob.scoring import work
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.inputs import Batch
from cnnjob.scoring.work import Desk, do_unit, drift_stride, finished, finished_units, part_uri, receipt_uri
from tests.unit.night import MORNING, Night, part_of, probabilities_of


@pytest.mark.parametrize("layout", ["list", "columns"])
def test_each_row_gets_its_own_scores(digits, bundle, tmp_path, layout):
    """Ids out are ids in, in order; each row has its own image's probabilities, and their largest is its class."""
    night = Night(digits, bundle, tmp_path / "scores", layout)
    night.publish()
    table = night.published()
    expected = Engine(bundle.files["model.onnx"], threads=1, batch_size=7).probabilities(night.rows.images)
    found = probabilities_of(table)
    assert table.column(ID).to_pylist() == night.rows.ids
    assert np.array_equal(found, expected)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-5
    names = np.array(digits.manifest.class_names)
    assert table.column("prediction").to_pylist() == names[expected.argmax(axis=1)].tolist()
    assert np.array_equal(table.column("confidence").to_numpy(), expected.max(axis=1))


def test_cuts_do_not_show(night):
    """Units and batches of any size give every row the same bits."""
    tables = []
    for target_rows, batch_size in [(1000, 128), (64, 64), (50, 1), (7, 3)]:
        plan = night.plan(target_rows)
        night.score(plan, batch_size=batch_size)
        parts = [pq.read_table(part_of(night, plan, number)) for number in range(len(plan.units))]
        tables.append(pd.concat([part.to_pandas() for part in parts], ignore_index=True))
    assert len(tables[0]) == len(night.rows.ids)
    first = np.array(tables[0]["probabilities"].tolist())
    for table in tables[1:]:
        assert table[ID].tolist() == tables[0][ID].tolist()
        assert np.array_equal(np.array(table["probabilities"].tolist()), first)


class Pieces:
    """A unit's rows in batches of 20, each with a row refused before it, and a last batch that has no picture."""

    decodes = True

    def __init__(self, reader):
        self.reader = reader

    def read(self, unit):
        """The batches."""
        for batch in self.reader.read(unit):
            for start in range(0, len(batch.rows), 20):
                refused = [{"id": f"bad-{start}", "uri": "", "reason": "empty", "detail": "0 bytes"}]
                yield Batch(batch.rows.slice(start, 20), batch.images[start : start + 20], refused)
        yield Batch(batch.rows[:0], batch.images[:0], [{"id": "last", "uri": "", "reason": "empty", "detail": ""}])


@pytest.mark.parametrize("group_bytes", [1, 3_000, work.GROUP_BYTES])
def test_row_groups_do_not_show(night, bundle, monkeypatch, group_bytes):
    """Whatever may be held, a part has every row once, in order, and its receipt all counts and every refused row."""
    (unit,) = night.plan(1000).units
    engine = Engine(bundle.files["model.onnx"], threads=1, batch_size=64)
    staging = str(night.root / "pieces")
    desk = Desk(night.given.stage(staging), staging, night.model, night.layout, MORNING)
    whole = do_unit(unit, desk, engine)
    expected = pq.read_table(part_uri(desk.staging, unit.name))
    monkeypatch.setattr(work, "GROUP_BYTES", group_bytes)
    receipt = do_unit(unit, dataclasses.replace(desk, reader=Pieces(desk.reader)), engine)
    part = pq.ParquetFile(part_uri(desk.staging, unit.name))
    assert part.read().equals(expected)
    assert part.num_row_groups == {1: 9, 3_000: 3}.get(group_bytes, 1)
    assert (receipt.rows, receipt.counts, receipt.pixels) == (whole.rows, whole.counts, whole.pixels)
    assert [row["id"] for row in receipt.refused] == [*(f"bad-{start}" for start in range(0, whole.rows, 20)), "last"]


@pytest.mark.parametrize("stride", [1, 16, 50])
def test_pixels_are_counted_of_rows_at_a_stride(night, bundle, stride):
    """A receipt counts every pixel of the first row and of each that follows at the stride, by channel."""
    (unit,) = night.plan(1000).units
    staging = str(night.root / "strides")
    desk = Desk(night.given.stage(staging), staging, night.model, night.layout, MORNING, drift_stride=stride)
    receipt = do_unit(unit, desk, Engine(bundle.files["model.onnx"], threads=1, batch_size=64))
    batches = [batch.images[::stride] for batch in desk.reader.read(unit)]
    images = np.concatenate(batches).transpose(1, 0, 2, 3).reshape(3, -1)
    assert receipt.pixels == [np.bincount(channel, minlength=256).tolist() for channel in images]


def test_few_thousand_images_are_enough_for_drift():
    """A small job counts every row, a large one some 4,096, and a very large one each 64th."""
    rows = (0, 1, 165, 8_191, 8_192, 65_536, 262_144, 10**9)
    assert [drift_stride(each) for each in rows] == [1, 1, 1, 1, 2, 16, 64, 64]


def test_receipt_says_what_was_done(night):
    """A receipt has its part's rows, bytes, digest and counts by class."""
    plan = night.plan()
    for receipt in night.score(plan):
        part = part_of(night, plan, receipt.number)
        table = pq.read_table(part)
        assert (receipt.rows, receipt.bytes) == (len(table), part.stat().st_size)
        assert receipt.rows == plan.units[receipt.number].rows
        assert receipt.sha256 == sha256(part.read_bytes())
        assert sum(receipt.counts) == receipt.rows


def test_finished_units_are_recognized(night):
    """A unit is finished if its receipt and its whole part are there."""
    plan = night.plan()
    unit, staging = plan.units[1], night.staging(plan)
    assert finished(unit, staging) is None
    receipts = {receipt.unit: receipt for receipt in night.score(plan)}
    assert finished(unit, staging) == receipts[unit.name]
    part = part_of(night, plan, 1)
    part.write_bytes(part.read_bytes()[:-1])
    assert finished(unit, staging) is None
    part.unlink()
    assert finished(unit, staging) is None


def test_a_unit_of_other_libraries_is_not_finished(night, monkeypatch):
    """What another version of a library scored may differ in the last bits, and a table's parts are all of one."""
    plan = night.plan()
    unit, staging = plan.units[0], night.staging(plan)
    night.score(plan)
    assert finished(unit, staging) is not None
    monkeypatch.setattr(work, "made_with", lambda: "onnxruntime 0.1")
    assert finished(unit, staging) is None


def test_one_look_finds_what_is_finished(night, monkeypatch):
    """Units that were never begun cost no look at the store each: one listing tells which receipts may be there."""
    plan = night.plan()
    receipts = night.score(plan)
    finished_unit = next(receipt for receipt in receipts if receipt.number == 2)
    for receipt in receipts:
        if receipt is not finished_unit:
            Path(receipt_uri(night.staging(plan), receipt.unit)).unlink()
    read = []
    monkeypatch.setattr(work, "finished", lambda unit, staging: read.append(unit.number) or finished(unit, staging))
    assert list(finished_units(plan.units, night.staging(plan))) == [finished_unit]
    assert read == [2]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"rows": 1}', b"[]"])
def test_a_damaged_receipt_is_no_receipt(night, damage):
    """A unit whose receipt cannot be read is not finished: it is done again."""
    plan = night.plan()
    night.score(plan)
    (Path(night.staging(plan)) / f"{plan.units[0].name}.json").write_bytes(damage)
    assert finished(plan.units[0], night.staging(plan)) is None
