"""A night whose process is killed anywhere: the old scores stay whole, and the next run ends as if nothing had been.

Every phase of the work is struck, in a first publication and in a replacement, of a prepared data set and of raw files
some of which are no pictures. A reader polls all the while.
"""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cnnjob.errors import DatasetError
from cnnjob.scoring.table import current
from tests import nights
from tests.instants import kill
from tests.nights import DATE, EVENING, Work, content_of, files_of, folder_of_pictures, killed, score_apart

UNITS = 3
PICTURES = 150
PHASES: list[tuple[str, dict[str, Any]]] = [
    *(("rename", {"file": name}) for name in ("listing.arrow",)),
    *((phase, {"unit": unit}) for unit in range(UNITS) for phase in ("part", "receipt", "finished", "verify")),
    ("create", {"file": "plan.json"}),
    ("quarantine", {}),
    ("commit", {}),
    ("create", {"file": "{number:012d}.json"}),
    ("committed", {}),
    *(("link", {"part": f"part-{unit:05d}"[:10]}) for unit in range(UNITS)),
    ("exchange", {}),
    ("rolled forward", {}),
    ("rename", {"file": "manifest.json"}),
    ("clean up", {}),
    ("stagings removed", {}),
]
SLICE = {"receipt", "quarantine", "committed", "exchange", "rolled forward", "stagings removed"}


def faults(work: Work, marks: Path, *, replaces: bool) -> list[dict[str, Any]]:
    """A kill at every phase that the work goes through."""
    planned = []
    for phase, where in PHASES:
        filled = {k: v.format(number=1 + replaces) if isinstance(v, str) else v for k, v in where.items()}
        if filled != {"file": "listing.arrow"} or work.kind != "dataset":
            planned.append(kill(phase, marks, **filled))
    return planned


@pytest.fixture(scope="module")
def works(digits, bundle, tmp_path_factory):
    """A night of each kind of input, into a table of the test's own."""
    folder = tmp_path_factory.mktemp("chaos")
    (folder / "bundle").mkdir()
    bundle.write(folder / "bundle")
    pictures = folder_of_pictures(folder / "pictures", PICTURES)
    uris = {"dataset": digits.path, "folder": str(pictures)}

    def work(kind: str, root: Path) -> Work:
        return Work(str(folder / "bundle"), kind, uris[kind], str(root))

    return work


@pytest.fixture(scope="module")
def undisturbed(works, tmp_path_factory):
    """The same nights, that nothing happens to: what a reader gets, and the files."""
    found = {}
    for kind in ("dataset", "folder"):
        for replaces in (False, True):
            work = works(kind, tmp_path_factory.mktemp("undisturbed") / "scores")
            if replaces:
                assert score_apart(evening(work)) == 0
            assert score_apart(work) == 0
            found[kind, replaces] = (content_of(work.root), {name[:40] for name in files_of(work)})
    return found


def evening(work: Work) -> Work:
    """The version that the night replaces: another model's."""
    return dataclasses.replace(work, version="0", clock=EVENING)


def is_whole(work: Work, versions: set[str], rows: int) -> bool:
    """Whether both kinds of reader get all rows of one version, or of none where none was published."""
    try:
        table = content_of(work.root)
    except DatasetError:
        return "none" in versions
    directory = pd.read_parquet(work.root) if list(Path(work.root).rglob("*.parquet")) else None
    seen = [set(table.column("model_version").to_pylist())]
    if directory is not None:
        seen.append(set(directory["model_version"]))
        assert len(directory) == rows
    return len(table) == rows and all(len(each) == 1 and each <= versions for each in seen)


@contextmanager
def polled(work: Work, versions: set[str], rows: int) -> Iterator[list[str]]:
    """Read by the manifest all the while; what was wrong is collected."""
    over, wrong = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            try:
                table = content_of(work.root)
            except DatasetError:
                if "none" not in versions:
                    wrong.append("nothing was there")
                continue
            found = set(table.column("model_version").to_pylist())
            if len(table) != rows or len(found) != 1 or not found <= versions:
                wrong.append(f"{len(table)} rows of {found}")

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield wrong
    finally:
        over.set()
        reader.join()


def strike(work: Work, fault: dict[str, Any], expected: tuple[Any, set[str]], *, replaces: bool) -> None:
    """Kill a night once, look at what readers get, run it again, and compare it with an undisturbed one."""
    versions = {"0" if replaces else "none", work.version}
    if replaces:
        assert score_apart(evening(work)) == 0
    rows = len(expected[0])
    with polled(work, versions, rows) as wrong:
        assert killed(score_apart(work, [fault])), fault
        assert Path(fault["mark"]).exists(), "the instant is to be reached"
        assert is_whole(work, versions, rows), fault
        assert score_apart(work) == 0
    assert wrong == []
    compare(work, expected)


def compare(work: Work, expected: tuple[Any, set[str]]) -> None:
    """Rows, order, values and files are those of an undisturbed night."""
    found = content_of(work.root)
    assert found.equals(expected[0])
    assert len(set(found.column("id").to_pylist())) == len(found)
    assert {name[:40] for name in files_of(work)} == expected[1]
    assert sorted(pd.read_parquet(work.root)["id"]) == sorted(found.column("id").to_pylist())


@pytest.mark.parametrize("replaces", [False, True], ids=["first", "replacing"])
@pytest.mark.parametrize("kind", ["dataset", "folder"])
def test_a_night_killed_at_some_phases(works, undisturbed, tmp_path, kind, replaces):
    """At the instants where it would hurt most, readers see a whole version, and the next run ends undisturbed."""
    work = works(kind, tmp_path / "scores")
    for number, fault in enumerate(faults(work, tmp_path, replaces=replaces)):
        if fault["phase"] in SLICE and fault["where"].get("unit", 1) == 1:
            strike(works(kind, tmp_path / f"scores{number}"), fault, undisturbed[kind, replaces], replaces=replaces)


@pytest.mark.chaos
@pytest.mark.parametrize("replaces", [False, True], ids=["first", "replacing"])
@pytest.mark.parametrize("kind", ["dataset", "folder"])
def test_a_night_killed_at_every_phase(works, undisturbed, tmp_path, kind, replaces):
    """At every instant, one kill a night: readers see a whole version, and the next run ends undisturbed."""
    for number, fault in enumerate(faults(works(kind, tmp_path / "scores"), tmp_path, replaces=replaces)):
        strike(works(kind, tmp_path / f"scores{number}"), fault, undisturbed[kind, replaces], replaces=replaces)


@pytest.mark.parametrize("replaces", [False, True], ids=["first", "replacing"])
@pytest.mark.parametrize("kind", ["dataset", "folder"])
def test_a_night_killed_again_and_again(works, undisturbed, tmp_path, kind, replaces):
    """A night that dies at every phase, one after the other, comes to its end in the run that nothing happens to."""
    work = works(kind, tmp_path / "scores")
    versions = {"0" if replaces else "none", work.version}
    if replaces:
        assert score_apart(evening(work)) == 0
    planned = faults(work, tmp_path, replaces=replaces)
    rows = len(undisturbed[kind, replaces][0])
    with polled(work, versions, rows) as wrong:
        deaths = 0
        while killed(score_apart(work, planned)):
            deaths += 1
            assert is_whole(work, versions, rows)
    assert wrong == []
    assert deaths == sum(Path(fault["mark"]).exists() for fault in planned)
    # What comes after the commit is done once: a run that finds it done has nothing to strike at.
    assert deaths >= len(planned) - 4
    compare(work, undisturbed[kind, replaces])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_finished_units_are_not_done_again(works, tmp_path, share):
    """A run after a death does the units that were left, and no other."""
    work = works("folder", tmp_path / "scores")
    work = dataclasses.replace(work, options={"units": {"target_rows": PICTURES // 10}})
    last = round(share * 10) - 1
    assert killed(score_apart(work, [kill("finished", tmp_path, unit=last)]))
    result = nights.score_here(work)
    assert result.units == {"planned": 10, "reused": last + 1}


def test_a_second_run_has_nothing_to_do(works, tmp_path):
    """The same input and model again publish nothing; an input that was rewritten at its size does."""
    pictures = folder_of_pictures(tmp_path / "pictures", 20)
    work = dataclasses.replace(works("folder", tmp_path / "scores"), uri=str(pictures))
    assert nights.score_here(work).published
    assert not nights.score_here(work).published
    first = pictures / "shop0" / "0000.png"
    first.write_bytes(first.read_bytes())
    assert nights.score_here(work).published
    assert current(work.table).number == 2


def test_a_published_date_is_what_its_manifest_says(works, tmp_path):
    """Rows in are rows scored and rows refused, and the quarantine tells each of them."""
    work = works("folder", tmp_path / "scores")
    result = nights.score_here(work)
    manifest = current(work.table)
    assert result.rows + sum(result.refused.values()) == PICTURES
    assert result.refused == manifest.refused == {"not_an_image": PICTURES // 10}
    quarantine = pd.read_parquet(work.table.beside("quarantine", 1, manifest.version))
    assert list(quarantine.columns) == ["id", "uri", "reason", "detail"]
    assert len(quarantine) == PICTURES // 10
    assert not set(quarantine["id"]) & set(content_of(work.root).column("id").to_pylist())
    assert manifest.date == str(DATE)
