import random
from collections import Counter

from cnnjob.config.prepare import SplitConfig
from cnnjob.data.split import hash64, place_of, split_of

IDS = [f"folder/{number}.png" for number in range(20_000)]
CONFIG = SplitConfig(val=0.1, test=0.2, seed=7)


def test_rows_keep_their_split_when_data_grow():
    """A row's split is the same whether it is listed among few rows or many, first or last."""
    few = {row_id: split_of(row_id, CONFIG) for row_id in IDS[:500]}
    many = {row_id: split_of(row_id, CONFIG) for row_id in random.Random(1).sample(IDS, len(IDS))}
    assert few.items() <= many.items()


def test_shares_are_about_right():
    """On 20,000 ids each split has its share within four standard deviations of a fair draw."""
    counts = Counter(split_of(row_id, CONFIG) for row_id in IDS)
    for split, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        assert abs(counts[split] / len(IDS) - share) < 4 * (share * (1 - share) / len(IDS)) ** 0.5


def test_shares_of_zero_are_empty():
    """With shares of zero every row trains."""
    assert {split_of(row_id, SplitConfig(val=0, test=0)) for row_id in IDS[:2000]} == {"train"}


def test_growing_a_share_moves_rows_only_into_it():
    """With a larger test share the rows of the test stay there."""
    larger = SplitConfig(val=0.1, test=0.3, seed=7)
    test = [row_id for row_id in IDS if split_of(row_id, CONFIG) == "test"]
    assert {split_of(row_id, larger) for row_id in test} == {"test"}


def test_seed_changes_the_split():
    """Another seed splits and orders other rows."""
    other = SplitConfig(val=0.1, test=0.2, seed=8)
    assert any(split_of(row_id, CONFIG) != split_of(row_id, other) for row_id in IDS[:100])
    assert place_of(IDS[0], CONFIG) != place_of(IDS[0], other)


def test_place_says_nothing_about_the_split():
    """Within a split the places spread over the whole range: split and place are drawn apart."""
    places = [place_of(row_id, CONFIG) for row_id in IDS if split_of(row_id, CONFIG) == "test"]
    assert abs(sum(places) / len(places) / 2**64 - 0.5) < 0.03


def test_ids_that_are_no_text_are_hashed():
    """File names that are not valid Unicode have a place of their own too."""
    names = [b"caf\xe9.png".decode("utf-8", "surrogateescape"), "café.png"]
    assert len({hash64(0, "place", name) for name in names}) == 2


def test_hash_is_pinned():
    """The hash never changes: prepared data sets of earlier versions keep their splits."""
    assert hash64(0, "split", "digits/000000") == 13_435_231_124_605_858_262
