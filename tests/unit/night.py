"""One date's scoring without Ray, for the tests of the unit of work and of the commit."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cnnjob.scoring.commit import publish, recover
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.inputs import DatasetInput
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, plan_dataset
from cnnjob.scoring.reading import read_scores
from cnnjob.scoring.table import Table, current
from cnnjob.scoring.verify import verify
from cnnjob.scoring.work import Desk, Receipt, do_unit, part_uri
from tests.helpers import rows_of, score_config, scoring_model

DATE = dt.date(2024, 2, 29)
MORNING = dt.datetime(2024, 3, 1, 6, tzinfo=dt.UTC)


@dataclass
class Night:
    """One date's scoring, from the plan to the publication, without Ray."""

    digits: object
    bundle: object
    root: Path
    layout: str = "list"
    history: int = 10

    def __post_init__(self):
        self.table = Table(str(self.root), DATE)
        self.model = scoring_model(self.digits.manifest, self.bundle.digest)
        self.given = DatasetInput(self.digits.path, self.digits.manifest)
        self.rows = rows_of(self.digits.path, self.digits.manifest, "test")

    def plan(self, target_rows: int = 64) -> Plan:
        """The work, in units of so many rows."""
        config = score_config(self.digits.path, self.root, target_rows=target_rows, probabilities=self.layout)
        return plan_dataset(config, self.digits.manifest, self.model)

    def score(self, plan: Plan, *, batch_size: int = 64, scored_at=MORNING) -> list[Receipt]:
        """Do all units, last first."""
        engine = Engine(self.bundle.files["model.onnx"], threads=1, batch_size=batch_size)
        staging = self.staging(plan)
        desk = Desk(self.given.stage(staging), staging, self.model, self.layout, scored_at)
        return [do_unit(unit, desk, engine) for unit in reversed(plan.units)]

    def staging(self, plan: Plan) -> str:
        """Where the plan's parts lie before they are published."""
        before = current(self.table)
        return self.table.staging(plan.digest, before.number if before else 0)

    def verify(self, plan: Plan, receipts: list[Receipt]) -> None:
        """Compare what was written with the plan and the input."""
        verify(self.staging(plan), plan, self.ledger(receipts), self.given)

    def ledger(self, receipts: Iterable[Receipt]) -> Ledger:
        """The receipts as a job has them."""
        return Ledger(len(self.model.class_names), self.model.shape[0], receipts)

    def publish(self, *, target_rows: int = 64, scored_at=MORNING):
        """Score, verify and publish."""
        base = recover(self.table)
        plan = self.plan(target_rows)
        receipts = self.score(plan, scored_at=scored_at)
        self.verify(plan, receipts)
        return publish(
            self.table,
            plan,
            self.ledger(receipts),
            self.model,
            {"date": str(DATE)},
            scored_at,
            base=base,
            history=self.history,
        )

    def published(self):
        """The scores as a reader gets them."""
        return read_scores(str(self.root), DATE)


@pytest.fixture
def night(digits, bundle, tmp_path) -> Night:
    return Night(digits, bundle, tmp_path / "scores")


def probabilities_of(table) -> np.ndarray:
    if "probabilities" in table.column_names:
        return np.array(table.column("probabilities").to_pylist(), dtype=np.float32)
    names = [name for name in table.column_names if name.startswith("p_")]
    return np.stack([table.column(name).to_numpy() for name in names], axis=1)


def part_of(night: Night, plan: Plan, number: int) -> Path:
    return Path(part_uri(night.staging(plan), plan.units[number].name))
