"""How a preparation is told to people: what it replaces, what lay beside the rows, and what comes next."""

import io
from dataclasses import replace
from unittest import mock

import pytest

from cnnjob.data import job
from cnnjob.data.sources import walk
from pipelines import prepare
from pipelines.console import Console
from tests.helpers import PictureSource, prepare_config
from tests.helpers import prepare as prepare_here

RESULT = prepare.PrepareResult(
    dataset="/sets/photos",
    fingerprint="abc",
    rows={"train": 8, "val": 1, "test": 1},
    refused={},
    created=True,
    classes={"cat": {"train": 8, "val": 1, "test": 1}},
    missing={},
    duplicates={},
    passed_over={},
    contact_sheet="/sets/photos/contact_sheet.png",
    refused_table="/sets/photos/refused.parquet",
)


def shown(**values) -> list[str]:
    """The lines that ``cnnjob prepare`` ends with."""
    out = io.StringIO()
    prepare.show(replace(RESULT, **values), Console(as_json=False, out=out, err=io.StringIO()))
    return out.getvalue().splitlines()


def test_the_end_says_what_there_is_and_what_comes_next():
    """Fingerprint and contact sheet on a line each; the next command only where something was prepared."""
    last = [
        "Prepared /sets/photos: 8 train, 1 val, 1 test rows, 0 refused",
        "Fingerprint: abc",
        "A look at it: /sets/photos/contact_sheet.png",
        "Next: a train conf with `dataset: /sets/photos`, then cnnjob train CONF",
    ]
    assert shown()[-4:] == last
    assert shown(created=False)[-2:] == last[1:3]


@pytest.mark.parametrize(
    ("kind", "one", "several"),
    [
        (walk.LITTER, "1 system file (such as .DS_Store)", "2 system files (such as .DS_Store)"),
        (walk.HIDDEN, "1 hidden folder", "2 hidden folders"),
        (walk.EMPTY, "1 empty folder", "2 empty folders"),
        (walk.SEEN, "1 link to a folder that is read anyway", "2 links to folders that are read anyway"),
    ],
)
def test_what_is_passed_over_is_told_in_words(kind, one, several):
    """The kinds of the manifest are keys; people read words, of one and of several."""
    assert f"Passed over: {one}" in shown(passed_over={kind: 1})
    assert f"Passed over: {several}" in shown(passed_over={kind: 2})


def noted(config, source) -> list[str]:
    """What is told before the work at ``config``."""
    progress = mock.Mock()
    with job.begin(config, source, progress):
        return [call.args[0] for call in progress.note.call_args_list]


def test_what_is_replaced_is_told_before_the_work(tmp_path):
    """A data set at the output is named with why another one takes its place; the same job says nothing."""
    config, source = prepare_config(tmp_path / "set", size=(8, 8)), PictureSource(30)
    assert noted(config, source) == []
    prepare_here(config, source)
    told = f"Replacing the data set in {tmp_path / 'set'}, which was prepared"
    assert noted(config, source) == []
    assert noted(prepare_config(tmp_path / "set", size=(8, 8), seed=5), source) == [f"{told} with another conf"]
    assert noted(config, PictureSource(31)) == [f"{told} from another input"]
    moved = config.model_copy(update={"source": config.source.model_copy(update={"uri": "/elsewhere"})})
    assert noted(moved, source) == [f"{told} from another input"]
