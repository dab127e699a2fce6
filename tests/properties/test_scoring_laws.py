"""Laws of scoring: units cover each row once, names tell what they hold, drift is an index of shares."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjob.data.sources.base import SMALLEST_UNIT
from cnnjob.digests import SPAN, sum_of_digests
from cnnjob.scoring.drift import psi
from cnnjob.scoring.plan import plan_dataset
from tests.helpers import manifest_of, score_config, scoring_model

shards = st.lists(st.integers(0, 400), max_size=10)
targets = st.integers(1, 500)
histograms = st.lists(st.integers(1, 1000), min_size=2, max_size=20)


def plan(shard_rows, target_rows, digest="d" * 64):
    manifest = manifest_of(shard_rows)
    config = score_config("data", Path("scores"), target_rows=target_rows)
    return plan_dataset(config, manifest, scoring_model(manifest, digest))


@given(shards, targets)
def test_units_cover_each_row_once(shard_rows, target_rows):
    """The units' spans, one after another, are all rows of all shards, each once and in order."""
    spans = [span for unit in plan(shard_rows, target_rows).units for span in unit.spans]
    found = [(span.shard.path, row) for span in spans for row in range(span.start, span.stop)]
    paths = [shard.path for shard in manifest_of(shard_rows).splits["test"].shards]
    assert found == [(path, row) for path, rows in zip(paths, shard_rows, strict=True) for row in range(rows)]


@given(shards, targets)
def test_units_are_bounded_and_numbered(shard_rows, target_rows):
    """Units are numbered in order, none is empty or above the target, and all but the last are full."""
    found = plan(shard_rows, target_rows)
    sizes = [unit.rows for unit in found.units]
    assert sizes == [sum(span.stop - span.start for span in unit.spans) for unit in found.units]
    assert all(size == target_rows for size in sizes[:-1])
    assert all(0 < size <= target_rows for size in sizes)
    assert [unit.number for unit in found.units] == list(range(len(sizes)))
    assert found.rows == sum(sizes) == sum(shard_rows)


@given(st.lists(st.integers(0, 90_000), max_size=8), st.integers(1, 40_000))
def test_units_get_smaller_towards_the_end(shard_rows, target_rows):
    """A unit has a quarter of the rows that are left, if that is no more than the target and no less than 2,048."""
    left = sum(shard_rows)
    for unit in plan(shard_rows, target_rows).units:
        assert unit.rows == min(left, target_rows, max(SMALLEST_UNIT, left // 4))
        left -= unit.rows
    assert left == 0


@given(shards, targets)
def test_names_are_functions_of_the_content(shard_rows, target_rows):
    """Unit names differ from one another, come again for the same inputs, and change with the model."""
    first, again = plan(shard_rows, target_rows), plan(shard_rows, target_rows)
    other = plan(shard_rows, target_rows, digest="e" * 64)
    names = {unit.name for unit in first.units}
    assert first == again
    assert len(names) == len(first.units)
    assert not names & {unit.name for unit in other.units}


@given(histograms, st.integers(1, 50))
def test_equal_shares_do_not_drift(histogram, factor):
    """Two histograms of the same shares have an index of zero."""
    counts = np.array(histogram)
    rows = int(counts.sum())
    assert psi(counts * factor, counts, rows * factor, rows) == pytest.approx(0, abs=1e-12)


@given(st.data(), histograms)
def test_drift_is_symmetric_and_not_negative(data, histogram):
    """The index is the same both ways round, zero or above, and above zero where shares differ clearly."""
    other = data.draw(st.lists(st.integers(1, 1000), min_size=len(histogram), max_size=len(histogram)))
    one, two = np.array(histogram), np.array(other)
    rows, others = int(one.sum()), int(two.sum())
    index = psi(one, two, rows, others)
    assert index == pytest.approx(psi(two, one, others, rows), rel=1e-9, abs=1e-15)
    assert index >= 0
    if np.abs(one / one.sum() - two / two.sum()).max() > 1e-2:
        assert index > 1e-5


@given(st.lists(st.binary(max_size=20), max_size=20), st.randoms(use_true_random=False))
def test_sums_of_digests_are_order_free_and_add_up(parts, random):
    """The sum of digests is the same in any order, and that of a union is the sum over its parts."""
    cut = random.randint(0, len(parts))
    whole = sum_of_digests(parts)
    assert sum_of_digests(random.sample(parts, len(parts))) == whole
    assert (sum_of_digests(parts[:cut]) + sum_of_digests(parts[cut:])) % SPAN == whole


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_sums_of_digests_see_every_row(parts, random):
    """Leaving a part out, doubling it or changing it changes the sum."""
    at = random.randrange(len(parts))
    changed = [parts[:at] + parts[at + 1 :], [*parts, parts[at]], [*parts[:at], parts[at] + b"x", *parts[at + 1 :]]]
    assert sum_of_digests(parts) not in map(sum_of_digests, changed)
