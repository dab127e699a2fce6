"""Scoring through Ray, killed in its workers, its driver and its raylet: nothing is lost, nothing comes twice."""

import dataclasses
import json
import signal
import time
from pathlib import Path

import pytest

from cnnjob.scoring.table import current
from tests.instants import kill, sign
from tests.nights import EVENING, Work, content_of, files_of, score_here
from tests.ray_nights import begun, ended, raylet_of, wait_for
from tests.ray_nights import kill as kill_process

UNITS = 88
OPTIONS = {"units": {"target_rows": 2}}
RUNS = 5

pytestmark = pytest.mark.slow


@pytest.fixture
def work(digits, bundle_folder, tmp_path) -> Work:
    """A night that replaces an evening's scores."""
    work = Work(str(bundle_folder), "dataset", digits.path, str(tmp_path / "scores"), options=OPTIONS)
    score_here(dataclasses.replace(work, version="0", clock=EVENING))
    return work


@pytest.fixture
def undisturbed(work, tmp_path):
    """The same night that nothing happens to."""
    quiet = dataclasses.replace(work, root=str(tmp_path / "undisturbed" / "scores"))
    score_here(dataclasses.replace(quiet, version="0", clock=EVENING))
    score_here(quiet)
    return content_of(quiet.root), {name[:40] for name in files_of(quiet)}


def check_before(work: Work, rows: int) -> None:
    """The evening's scores are whole."""
    table = content_of(work.root)
    assert len(table) == rows
    assert set(table.column("model_version").to_pylist()) == {"0"}


def check_after(work: Work, undisturbed) -> None:
    """Rows, order, values and files are those of an undisturbed night."""
    assert content_of(work.root).equals(undisturbed[0])
    assert {name[:40] for name in files_of(work)} == undisturbed[1]


def test_killed_workers(work, undisturbed, tmp_path):
    """Nine workers killed at nine units, before and after what they write: the run itself comes to its end."""
    phases = ("part", "receipt", "finished")
    faults = [kill(phases[unit % 3], tmp_path, unit=unit) for unit in range(9)]
    code, result, log = ended(work, tmp_path, faults)
    assert code == 0, log
    assert all(Path(fault["mark"]).exists() for fault in faults)
    assert result["rows"] == len(undisturbed[0])
    check_after(work, undisturbed)


@pytest.mark.chaos
def test_a_unit_that_kills_every_worker(work, undisturbed, tmp_path):
    """A unit that kills its process three times ends the job, which names it; the old scores stay."""
    faults = [{**kill("part", tmp_path, unit=5), "mark": str(tmp_path / f"death{number}")} for number in range(3)]
    code, result, log = ended(work, tmp_path, faults)
    assert code == 1, log
    assert "unit 5 (2 rows" in result["message"]
    assert all(Path(fault["mark"]).exists() for fault in faults)
    check_before(work, len(undisturbed[0]))
    assert ended(work, tmp_path)[0] == 0
    check_after(work, undisturbed)


def units_with_receipts(work: Work) -> set[int]:
    """The units that a run which did not come to its end has finished; a part may land after its driver's death."""
    found: set[int] = set()
    while True:
        documents = [json.loads(path.read_text()) for path in Path(work.table.stagings).rglob("*.json")]
        before, found = found, {each["number"] for each in documents if "number" in each}
        if found == before:
            return found
        time.sleep(3)


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["driver", "raylet"])
def test_a_killed_driver_or_raylet(work, undisturbed, tmp_path, victim):
    """Five runs, each killed while its units are under way: the old scores stay, and each goes on where it was."""
    for run in range(RUNS):
        left = sorted(set(range(UNITS)) - units_with_receipts(work))
        fault = sign("finished", tmp_path / f"run{run}", unit=left[1])
        (tmp_path / f"run{run}").mkdir()
        with begun(work, tmp_path, [fault]) as process:
            wait_for(fault["mark"], process)
            kill_process(process.pid if victim == "driver" else raylet_of(process))
            process.communicate(timeout=120)
            assert process.returncode != 0
        check_before(work, len(undisturbed[0]))
    finished = units_with_receipts(work)
    code, result, log = ended(work, tmp_path)
    assert code == 0, log
    assert result["units"] == {"planned": UNITS, "reused": len(finished)}
    assert RUNS <= len(finished) < UNITS
    check_after(work, undisturbed)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.chaos)], ids=["SIGTERM", "SIGINT"]
)
def test_a_job_that_is_told_to_end(work, undisturbed, tmp_path, number):
    """Told to end, it drops the units under way, says how to go on, and the same command goes on."""
    fault = sign("finished", tmp_path, unit=10)
    with begun(work, tmp_path, [fault]) as process:
        wait_for(fault["mark"], process)
        process.send_signal(number)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + number, log
    assert "run the same command again" in log
    check_before(work, len(undisturbed[0]))
    code, result, _ = ended(work, tmp_path)
    assert code == 0
    assert result["units"]["reused"] >= 8
    assert current(work.table).number == 2
    check_after(work, undisturbed)
