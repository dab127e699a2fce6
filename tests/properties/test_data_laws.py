"""Laws of preparing: statistics merge exactly, splits are stable, shards cover every row once."""

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnnjob.config.prepare import SplitConfig
from cnnjob.data.rows import spans
from cnnjob.data.shards import plan_shards
from cnnjob.data.split import place_of, split_of
from cnnjob.data.statistics import PixelCounts
from tests.helpers import manifest_of

PLACES = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 20)), max_size=120)


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


@given(PLACES, st.integers(1, 40))
def test_shards_cover_every_row_once(places, limit):
    """Every place lies in exactly one shard's range, ties included; shards are numbered in order of place."""
    plans = plan_shards("train", np.array(places, dtype=np.uint64), limit)
    assert all(sum(plan.first <= place <= plan.last for plan in plans) == 1 for place in places)
    assert all(before.last < after.first for before, after in pairwise(plans))
    assert [plan.number for plan in plans] == list(range(len(plans)))


@given(PLACES, st.integers(1, 40))
def test_shards_are_bounded(places, limit):
    """No shard is empty, and only rows of one place, which stay together, make one larger than the limit."""
    plans = plan_shards("train", np.array(places, dtype=np.uint64), limit)
    sizes = [sum(plan.first <= place <= plan.last for place in places) for plan in plans]
    tied = max(Counter(places).values(), default=1)
    assert all(0 < size <= limit + tied - 1 for size in sizes)


@given(st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=150), st.integers(1, 40))
def test_shards_are_nearly_equal(places, limit):
    """Without ties there are as few shards as the limit allows, and their sizes differ by at most one."""
    plans = plan_shards("train", np.array(list(places), dtype=np.uint64), limit)
    sizes = [sum(plan.first <= place <= plan.last for place in places) for plan in plans]
    assert len(plans) == -(-len(places) // limit)
    assert max(sizes) - min(sizes) <= 1


@given(PLACES, st.integers(1, 40), st.randoms(use_true_random=False))
def test_shards_do_not_depend_on_the_order(places, limit, random):
    """The plan is the same whatever the order in which places arrive."""
    shuffled = random.sample(places, len(places))
    first, second = (plan_shards("train", np.array(each, dtype=np.uint64), limit) for each in (places, shuffled))
    assert first == second


@given(st.text(max_size=40), st.integers(0, 2**63 - 1), st.floats(0, 0.5), st.floats(0, 0.49))
def test_split_follows_from_id_and_seed(row_id, seed, val, test):
    """A row's split and place are the same each time, and the place is 64 bits."""
    config = SplitConfig(val=val, test=test, seed=seed)
    assert split_of(row_id, config) == split_of(row_id, config) in ("train", "val", "test")
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
