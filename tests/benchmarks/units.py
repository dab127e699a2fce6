"""What a scoring job does beside the arithmetic, with very many units: plan, look, collect, verify, publish.

    python -m tests.benchmarks.units --units 1000 10000 100000

Each size is a data set of 10,000 rows a unit that exists only as a manifest, in a process of its own. A stub writes a
part of a few bytes and a receipt for each unit; what reads ids back is a stub too. All else is the product, with Ray.
A line of JSON for each size: seconds of each step, their sum without those in brackets, and how far the memory of the
driver grew.
"""

import argparse
import datetime as dt
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import pyarrow as pa

from cnnjob import storage
from cnnjob.cluster.session import Needs, session
from cnnjob.config.score import ScoreConfig
from cnnjob.data.manifest import Manifest, Shard, Split
from cnnjob.data.tasks import as_tasks
from cnnjob.digests import sha256
from cnnjob.progress import Silent
from cnnjob.scoring import commit, verify
from cnnjob.scoring.job import grouped
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, ScoringModel, Unit, plan_dataset
from cnnjob.scoring.table import Table, current
from cnnjob.scoring.work import Receipt, finished_units, made_with, part_uri, receipt_uri
from pipelines.score_checks import check_refused

UNIT_ROWS = 10_000
PROCESSES = 2
MODEL = ScoringModel("stub", "1", "0" * 64, tuple(f"class {number}" for number in range(10)), (3, 32, 32), 3_560_000)
NOON = dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)
PART = b"part"
IDS = [pa.chunked_array([["id"]], pa.string())]


class StubInput:
    """Says of each unit the ids that its stub of a part has."""

    def ids(self, unit: Unit) -> list[pa.ChunkedArray]:
        """The same for each unit."""
        del unit
        return IDS

    def check_unchanged(self) -> None:
        """It is."""


@dataclass(frozen=True)
class StubIds:
    """The id of a stub of a part, said to be as many as the unit has rows."""

    rows: int

    def __len__(self) -> int:
        return self.rows

    def column(self, name: str) -> "StubIds":
        """The only one."""
        del name
        return self

    def equals(self, other: pa.ChunkedArray) -> bool:
        """Whether they are the id."""
        return bool(IDS[0].equals(other))


def manifest_of(units: int) -> Manifest:
    shards = tuple(
        Shard(
            path=f"train/shard-{number:06d}.parquet",
            rows=UNIT_ROWS,
            bytes=30_000_000,
            sha256=f"{number:064x}",
            footer_sha256="",
        )
        for number in range(units)
    )
    manifest = mock.Mock(spec=Manifest, image=mock.Mock(storage="packed"))
    manifest.splits = {
        "train": Split(rows=units * UNIT_ROWS, class_counts=(units * 1000,) * 10, shards=shards, fingerprint="")
    }
    return manifest


def receipt_of(unit: Unit) -> Receipt:
    return Receipt(
        unit=unit.name,
        number=unit.number,
        rows=unit.rows,
        refused=[],
        sha256=sha256(PART),
        bytes=len(PART),
        counts=[UNIT_ROWS // 10] * 10,
        pixels=[[1000 + level for level in range(256)] for _ in range(3)],
        seconds=1.0,
        ended=0.0,
        made_with=made_with(),
    )


def receipts_of(units: tuple[Unit, ...]) -> list[Receipt]:
    """What a process does with a group of units, without the work."""
    return [receipt_of(unit) for unit in units]


def write_stub(staging: Path, unit: Unit) -> None:
    """What a unit leaves, without waiting for the disk."""
    receipt = receipt_of(unit)
    Path(storage.local_path(part_uri(str(staging), unit.name))).write_bytes(PART)
    Path(storage.local_path(receipt_uri(str(staging), unit.name))).write_text(json.dumps(asdict(receipt)))


def ledger_of(plan: Plan, staging: Path) -> Ledger:
    return Ledger(len(MODEL.class_names), MODEL.shape[0], finished_units(plan.units, str(staging)))


@contextmanager
def opened_ray(step: Callable[[str, Callable[[], object]], object]) -> Iterator[None]:
    """Ray as a job has it; its start is the same for one unit."""
    with ExitStack() as stack:
        needs = Needs(PROCESSES, key="engine.num_processes")
        step("(start of Ray)", lambda: stack.enter_context(session(needs, Silent())))
        yield


def collect(ledger: Ledger, plan: Plan) -> None:
    """Units out to processes and receipts back, as ``scoring.job`` does it."""
    for receipts in as_tasks(receipts_of, grouped(plan.units, lambda: PROCESSES), name="cnnjob.score", at=str):
        for receipt in receipts:
            ledger.add(receipt)


def measure(units: int, folder: Path) -> dict[str, object]:
    seconds: dict[str, float] = {}

    def step(name: str, work: Callable[[], object]) -> object:
        began = time.perf_counter()
        found = work()
        seconds[name] = round(time.perf_counter() - began, 3)
        return found

    config = ScoreConfig.model_validate(
        {
            "input": {"kind": "dataset", "uri": "data", "split": "train"},
            "model": "models:/stub/1",
            "output": str(folder / "scores"),
            "units": {"target_rows": UNIT_ROWS},
        }
    )
    manifest, table = manifest_of(units), Table(str(folder / "scores"), NOON.date())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = step("plan", lambda: plan_dataset(config, manifest, MODEL))
    staging = Path(storage.local_path(table.staging(plan.digest, 0)))
    staging.mkdir(parents=True)
    ledger = step("look for finished units", lambda: ledger_of(plan, staging))
    step("(stubs)", lambda: [write_stub(staging, unit) for unit in plan.units])
    with opened_ray(step):
        step("hand out and collect", lambda: collect(ledger, plan))
    step("check refused", lambda: check_refused(config, plan, ledger, str(staging)))
    read = iter([StubIds(unit.rows) for unit in plan.units])
    with mock.patch.object(verify.pq, "read_table", side_effect=read):
        step("verify", lambda: verify.verify(str(staging), plan, ledger, StubInput()))
    step("publish", lambda: commit.publish(table, plan, ledger, MODEL, config.model_dump(mode="json"), NOON, base=None))
    step("recover", lambda: commit.recover(table))
    published = step("read the manifest", lambda: current(table))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert published is not None
    assert published.rows == units * UNIT_ROWS
    total = sum(value for name, value in seconds.items() if not name.startswith("("))
    return {
        "units": units,
        "rows": plan.rows,
        "seconds": seconds,
        "total_s": round(total, 2),
        "us_per_unit": round(total / units * 1e6),
        "memory_growth_mb": round(grown),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    sizes = parser.parse_args().units
    if len(sizes) > 1:
        for size in sizes:
            subprocess.run([sys.executable, "-m", "tests.benchmarks.units", "--units", str(size)], check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(measure(sizes[0], Path(folder))) + "\n")


if __name__ == "__main__":
    main()
