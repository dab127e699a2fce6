"""A night on an object store whose network or server fails: bounded tries, a clear error, and nothing is lost."""

import dataclasses

import pytest

from cnnjob import s3_store
from cnnjob.errors import StorageError
from cnnjob.scoring.table import Table, current
from tests.faults import Fault
from tests.nights import DATE, EVENING, Work, content_of, score_here

pytestmark = pytest.mark.slow

ASKED = ("plan.json", ".part", "quarantine/", "receipts/", "/log/000000000002.json", "/part-00000", "/manifest.json")
"""What a night asks the store for, in this order; each in its turn is what always fails."""


@pytest.fixture
def work(digits, bundle_folder, s3_folder, proxy) -> Work:
    """A night that replaces an evening's scores, on a store behind the proxy."""
    work = Work(str(bundle_folder), "dataset", digits.path, f"{s3_folder}/scores")
    score_here(dataclasses.replace(work, version="0", clock=EVENING))
    return work


def versions(work: Work, rows: int) -> set[str]:
    """The one version that a reader finds whole."""
    table = content_of(work.root)
    assert len(table) == rows
    return set(table.column("model_version").to_pylist())


def failure_of(work: Work) -> StorageError | None:
    """Score; how it failed, where it did."""
    try:
        score_here(work)
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("kind", ["busy", "break", "lose", "cut"])
def test_a_store_that_fails_wherever_it_is_asked(work, digits, proxy, kind):
    """Whatever request always fails, the job ends with what failed; readers find one version; then it goes on."""
    rows = digits.manifest.splits["test"].rows
    for only in ASKED:
        proxy.faults, before = [Fault(kind, only=only)], len(proxy.requests)
        error = failure_of(work)
        proxy.faults = []
        asked = [request for request in proxy.requests[before:] if only in request]
        assert asked, only
        # A file is read three times at most: is its unit done, is it what was written, and to publish it. Where a kept
        # connection breaks, the SDK's client tries once more within an attempt.
        assert max(asked.count(request) for request in asked) <= 3 * 2 * s3_store.ATTEMPTS
        assert error is None or "run the same command again" in str(error)
        assert versions(work, rows) == {"0" if current(Table(work.root, DATE)).number == 1 else "1"}
    score_here(work)
    assert versions(work, rows) == {"1"}
    assert current(work.table).number == 2


def test_a_store_that_fails_now_and_then(work, digits, proxy):
    """A night in which one request in a while is reset, busy or cut is scored in the end as if none had been."""
    for kind in ("busy", "break", "cut", "busy"):
        proxy.faults.append(Fault(kind, times=1))
    attempts = 3
    while failure_of(work):
        assert attempts, "what is over does not fail again"
        attempts -= 1
    assert versions(work, digits.manifest.splits["test"].rows) == {"1"}
    assert current(work.table).number == 2
