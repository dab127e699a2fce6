"""Laws of preparing: statistics merge exactly, splits are stable, shards cover every row once."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cnnjob.config.prepare import PrepareConfig, ShardsConfig, SourceConfig, SplitConfig
from cnnjob.data.duplicates import find_duplicates
from cnnjob.data.plan import plan_dataset
from cnnjob.data.rows import spans
from cnnjob.data.shards import cut_shards
from cnnjob.data.sources.base import cut_units
from cnnjob.data.split import assign, draw_of, place_of
from cnnjob.data.staging import StagedUnit
from cnnjob.data.statistics import PixelCounts
from cnnjob.schema import SPLITS
from tests.helpers import manifest_of

PLACES = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 20)), min_size=1, max_size=120)


@st.composite
def image_sets(draw) -> np.ndarray:
    shape = (draw(st.integers(1, 12)), draw(st.sampled_from([1, 3])), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    low = draw(st.integers(0, 250))
    high = draw(st.integers(low + 1, 256))
    return np.random.default_rng(draw(st.integers(0, 2**32))).integers(low, high, shape, dtype=np.uint8)


@given(image_sets(), st.randoms(use_true_random=False))
def test_statistics_do_not_depend_on_the_partition(images, random):
    """Mean and deviation merged over any partition, in any order, equal those of the whole set to the last bit."""
    order = random.sample(range(len(images)), len(images))
    cuts = sorted(random.choices(range(len(images) + 1), k=random.randint(0, 5)))
    parts = [images[order[start:stop]] for start, stop in pairwise([0, *cuts, len(images)])]
    merged = sum((PixelCounts.of(part) for part in parts), PixelCounts.zero(images.shape[1]))
    whole = PixelCounts.of(images)
    assert merged.mean == whole.mean
    assert merged.std == whole.std
    assert np.array_equal(merged.counts, whole.counts)


@given(image_sets())
def test_statistics_agree_with_numpy(images):
    """Mean and population deviation on the 0..1 scale are numpy's in float64 within 1e-12."""
    scaled = images.astype(np.float64) / 255
    counts = PixelCounts.of(images)
    assert np.abs(np.array(counts.mean) - scaled.mean(axis=(0, 2, 3))).max() < 1e-12
    assert np.abs(np.array(counts.std) - scaled.std(axis=(0, 2, 3))).max() < 1e-12


def units_of(places, cuts: list[int]) -> list[StagedUnit]:
    """The rows of these places in units that are cut at ``cuts``; each row in another split by its draw."""
    bounds = sorted({0, len(places), *(cut for cut in cuts if cut <= len(places))})
    units = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        order = np.argsort(np.array(places[start:stop], dtype=np.uint64), kind="stable")
        rows = np.arange(start, stop)[order]
        pictures = np.stack([rows, rows], axis=1).astype(np.uint64)
        unit_places = np.array(places[start:stop], dtype=np.uint64)[order]
        draws = (rows % 10).astype(np.uint64) << np.uint64(60)
        labels, given = np.zeros(len(rows), np.int32), np.full(len(rows), -1, np.int8)
        units.append(StagedUnit(number, rows, unit_places, draws, given, labels, pictures, len(rows) * 12, []))
    return units


def rows_of_shards(units: list[StagedUnit], places, limit: int) -> list[tuple[str, list[int]]]:
    """The listing's rows that each shard has, in its order."""
    config = PrepareConfig(output="x", source=SourceConfig(kind="digits"), shards=ShardsConfig(target_bytes=12 * limit))
    ids = pa.chunked_array([pa.array([f"{number:06d}" for number in range(len(places))], pa.string())])
    plan = plan_dataset(units, ids, config)
    return [
        (shard.path, [int(units[u].rows[p]) for u, p in zip(shard.units, shard.positions, strict=True)])
        for shard in plan.shards
    ]


@given(PLACES, st.integers(1, 40), st.lists(st.integers(0, 120), max_size=6))
def test_shards_cover_every_row_once(places, limit, cuts):
    """Every row is in exactly one shard of its split, in order of place, ties by id; none is over the limit."""
    found = rows_of_shards(units_of(places, cuts), places, limit)
    assert sorted(row for _, rows in found for row in rows) == list(range(len(places)))
    assert all(0 < len(rows) <= limit for _, rows in found)
    for split in SPLITS:
        ordered = [row for path, rows in found for row in rows if path.startswith(split)]
        assert ordered == sorted(ordered, key=lambda row: (places[row], row))


@given(PLACES, st.integers(1, 40), st.lists(st.integers(0, 120), max_size=6))
def test_shards_do_not_depend_on_the_units(places, limit, cuts):
    """The shards are the same however the rows were cut into units."""
    assert rows_of_shards(units_of(places, cuts), places, limit) == rows_of_shards(units_of(places, []), places, limit)


@given(st.integers(0, 2000), st.integers(1, 300))
def test_shards_are_nearly_equal(count, limit):
    """There are as few shards as the limit allows, and their sizes differ by at most one."""
    sizes = [stop - start for start, stop in cut_shards(count, limit)]
    assert sum(sizes) == count
    assert len(sizes) == -(-count // limit)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@given(
    st.lists(st.integers(0, 60), max_size=20),
    st.integers(1, 40),
    st.lists(st.integers(0, 1000), min_size=1, max_size=60),
)
def test_units_cover_every_row_once(runs, limit, sizes):
    """Units by runs or by size are numbered, and cover each row once, in order; none is empty."""
    for units, rows in (
        (cut_units(sum(runs), limit, runs), sum(runs)),
        (cut_units(len(sizes), limit, (), np.array(sizes), 500), len(sizes)),
    ):
        assert [row for unit in units for row in range(unit.start, unit.stop)] == list(range(rows))
        assert [unit.number for unit in units] == list(range(len(units)))
        assert all(unit.start < unit.stop for unit in units)
    by_size = cut_units(len(sizes), limit, (), np.array(sizes), 500)
    assert all(sum(sizes[unit.start : unit.stop]) <= 500 or unit.stop - unit.start == 1 for unit in by_size)


@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from(range(3))), max_size=60))
def test_duplicates_are_those_of_all_pairs(rows):
    """Found are exactly the evaluation rows whose picture is in a preferred split too, each with such a row."""
    pictures = np.array([[picture, 7] for picture, _ in rows], dtype=np.uint64).reshape(-1, 2)
    splits = np.array([split for _, split in rows], dtype=np.int8)
    found = find_duplicates(pictures, splits)
    preference = {0: 0, 2: 1, 1: 2}
    expected = [
        row
        for row, (picture, split) in enumerate(rows)
        if any(other == picture and preference[place] < preference[split] for other, place in rows)
    ]
    assert found.rows.tolist() == expected
    assert sum(found.counted.values()) == len(expected)
    assert all(rows[a][0] == rows[b][0] for a, b in zip(found.rows, found.originals, strict=True))


@given(st.text(max_size=40), st.integers(0, 2**63 - 1), st.floats(0, 0.5), st.floats(0, 0.49))
def test_split_follows_from_id_and_seed(row_id, seed, val, test):
    """A row's split and place are the same each time, and the place is 64 bits."""
    config = SplitConfig(val=val, test=test, seed=seed)
    draws = np.array([draw_of(row_id, config)] * 2, dtype=np.uint64)
    first, second = assign(draws, np.array([-1, -1], np.int8), np.zeros(2, np.int32), config)
    assert first == second in range(3)
    assert 0 <= place_of(row_id, config) == place_of(row_id, config) < 2**64


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(0, 250), st.integers(0, 250))
def test_spans_cover_a_range_once(shard_rows, start, stop):
    """The spans of any range are its rows, each once and in order."""
    split = manifest_of(shard_rows).splits["test"]
    offsets = dict(zip([shard.path for shard in split.shards], np.cumsum([0, *shard_rows]).tolist(), strict=False))
    found = [
        offsets[span.shard.path] + row for span in spans(split, start, stop) for row in range(span.start, span.stop)
    ]
    assert found == list(range(split.rows))[start:stop]
