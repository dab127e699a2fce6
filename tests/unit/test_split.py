import random
from collections import Counter

import numpy as np
import pytest

from cnnjob.config.prepare import SplitConfig
from cnnjob.data.split import assign, draw_of, hash64, place_of
from cnnjob.schema import SPLITS

IDS = [f"folder/{number}.png" for number in range(20_000)]
CONFIG = SplitConfig(val=0.1, test=0.2, seed=7)


def splits_of(ids: list[str], config: SplitConfig, *, given=None, labels=None) -> list[str]:
    """The split of each id."""
    draws = np.array([draw_of(row_id, config) for row_id in ids], dtype=np.uint64)
    given = np.full(len(ids), -1) if given is None else np.array([SPLITS.index(name) for name in given])
    labels = np.zeros(len(ids), np.int32) if labels is None else np.array(labels)
    return [SPLITS[code] for code in assign(draws, given.astype(np.int8), labels, config)]


def test_rows_keep_their_split_when_data_grow():
    """A row's split is the same whether it is listed among few rows or many, first or last."""
    few = dict(zip(IDS[:500], splits_of(IDS[:500], CONFIG), strict=True))
    shuffled = random.Random(1).sample(IDS, len(IDS))
    many = dict(zip(shuffled, splits_of(shuffled, CONFIG), strict=True))
    assert few.items() <= many.items()


def test_shares_are_about_right():
    """On 20,000 ids each split has its share within four standard deviations of a fair draw."""
    counts = Counter(splits_of(IDS, CONFIG))
    for split, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        assert abs(counts[split] / len(IDS) - share) < 4 * (share * (1 - share) / len(IDS)) ** 0.5


def test_shares_of_zero_are_empty():
    """With shares of zero every row trains."""
    assert set(splits_of(IDS[:2000], SplitConfig(val=0, test=0))) == {"train"}


def test_growing_a_share_moves_rows_only_into_it():
    """With a larger test share the rows of the test stay there."""
    larger = SplitConfig(val=0.1, test=0.3, seed=7)
    pairs = zip(splits_of(IDS, CONFIG), splits_of(IDS, larger), strict=True)
    assert {after for before, after in pairs if before == "test"} == {"test"}


def test_seed_changes_the_split():
    """Another seed splits and orders other rows."""
    other = SplitConfig(val=0.1, test=0.2, seed=8)
    assert splits_of(IDS[:100], CONFIG) != splits_of(IDS[:100], other)
    assert place_of(IDS[0], CONFIG) != place_of(IDS[0], other)


def test_place_says_nothing_about_the_split():
    """Within a split the places spread over the whole range: split and place are drawn apart."""
    splits = splits_of(IDS, CONFIG)
    places = [place_of(row_id, CONFIG) for row_id, split in zip(IDS, splits, strict=True) if split == "test"]
    assert abs(sum(places) / len(places) / 2**64 - 0.5) < 0.03


def test_ids_that_are_no_text_are_hashed():
    """File names that are not valid Unicode have a place of their own too."""
    names = [b"caf\xe9.png".decode("utf-8", "surrogateescape"), "café.png"]
    assert len({hash64(0, "place", name) for name in names}) == 2


def test_hash_is_pinned():
    """The hash never changes: prepared data sets of earlier versions keep their splits."""
    assert hash64(0, "split", "digits/000000") == 13_435_231_124_605_858_262


@pytest.mark.parametrize("sizes", [(100, 100, 100), (7, 1000, 13), (1, 2, 3), (0, 10, 0)])
def test_stratified_shares_are_exact(sizes):
    """In each class the test and validation rows are their share of it, rounded."""
    config = SplitConfig(method="stratified", val=0.15, test=0.2)
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    counts = Counter(zip(labels, splits_of(IDS[: len(labels)], config, labels=labels), strict=True))
    for label, size in enumerate(sizes):
        assert counts[label, "test"] == round(0.2 * size)
        assert counts[label, "val"] == round(0.15 * size)


def _stratified(rows: list[tuple[str, int]], config: SplitConfig) -> list[str]:
    return splits_of([row_id for row_id, _ in rows], config, labels=[label for _, label in rows])


def test_stratified_does_not_depend_on_the_order():
    """Listed in another order, each row is in the same split."""
    config = SplitConfig(method="stratified")
    rows = [(row_id, number % 3) for number, row_id in enumerate(IDS[:500])]
    shuffled = random.Random(2).sample(rows, len(rows))
    first, second = (
        dict(zip([row_id for row_id, _ in each], _stratified(each, config), strict=True)) for each in (rows, shuffled)
    )
    assert first == second


def test_given_splits_stay():
    """Where the source has all three splits, each row is in its own."""
    given = ["train", "val", "test", "train"]
    assert splits_of(IDS[:4], SplitConfig(method="given"), given=given) == given


def test_given_without_validation_takes_it_from_training():
    """Where the source has no validation rows, a share of its training rows validates; test rows stay."""
    given = ["train"] * 8000 + ["test"] * 2000
    found = splits_of(IDS[:10_000], SplitConfig(method="given", val=0.1, test=0.3), given=given)
    assert set(found[8000:]) == {"test"}
    assert Counter(found[:8000]).keys() == {"train", "val"}
    assert abs(found[:8000].count("val") / 8000 - 0.1) < 0.015
