"""Key columns of a table: what they may be called, and how they may be stored."""

import re

import pyarrow as pa
import pytest

from cnnjob.errors import DatasetError
from tests.piles import listing_of, source_config, write_parquet


@pytest.mark.parametrize("name", ["ids", "labels", "given", "own", "uri_", "split2"])
def test_keys_may_have_ordinary_names(tmp_path, name):
    """A key column may be called like anything that is not a column of the data set."""
    path = write_parquet(tmp_path / "t.parquet", uri=["a", "b"], label=[0, 1], **{name: ["x", "y"]})
    listing = listing_of(source_config("manifest", path, columns={"keys": [name]}))
    assert listing.rows.column(name).to_pylist() == ["x", "y"]


VIEWS = {
    "list of views": (pa.list_(pa.string_view()), [["a"], ["b", ""], None]),
    "large list": (pa.large_list(pa.large_string()), [["a"], [], None]),
    "struct of views": (pa.struct([("x", pa.string_view()), ("y", pa.int8())]), [{"x": "a", "y": 1}, None, None]),
    "map to views": (pa.map_(pa.string(), pa.string_view()), [[("a", "b")], [], None]),
    "pairs of views": (pa.list_(pa.string_view(), 2), [["a", "b"], ["c", "d"], ["e", "f"]]),
    "lists of lists": (pa.list_(pa.list_(pa.binary_view())), [[[b"a"], []], [], None]),
    "json": (pa.json_(pa.string_view()), ['{"a": 1}', "{}", None]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_nested_keys_are_read_however_they_are_stored(tmp_path, name):
    """Views and large forms inside lists, structs and maps are plain ones: rows of them can be taken and written."""
    kind, values = VIEWS[name]
    path = write_parquet(tmp_path / "t.parquet", uri=list("abc"), label=[0, 1, 0], key=pa.array(values, kind))
    listing = listing_of(source_config("manifest", path, columns={"keys": ["key"]}))
    taken = listing.rows.take(pa.array([2, 0]))
    assert taken.column("key").to_pylist() == [values[2], values[0]]
    assert not re.search("view|large", str(getattr(taken.schema.field("key").type, "storage_type", taken.schema)))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.list_view(pa.string_view()), [["a"], ["b"], []]),
        (pa.list_(pa.string(), 2), [["a", "b"], ["c", "d"], None]),
    ],
    ids=str,
)
def test_a_key_that_cannot_be_read_is_told_by_its_column_and_type(tmp_path, kind, values):
    """Where Arrow has no way to read or to carry over a column, that is said of the column."""
    path = write_parquet(tmp_path / "t.parquet", uri=list("abc"), label=[0, 1, 0], key=pa.array(values, kind))
    with pytest.raises(DatasetError, match=rf"t\.parquet.* column 'key'.* is {re.escape(str(kind)[:9])}"):
        listing_of(source_config("manifest", path, columns={"keys": ["key"]}))


def test_files_of_one_table_may_store_text_in_different_ways(tmp_path):
    """What one program writes as text and another as large text is one column."""
    (tmp_path / "t").mkdir()
    for number, kind in enumerate((pa.list_(pa.string()), pa.large_list(pa.large_string()))):
        key = pa.array([["a"], ["b"]], kind)
        write_parquet(tmp_path / "t" / f"{number}.parquet", uri=[f"{number}a", f"{number}b"], label=[0, 1], key=key)
    listing = listing_of(source_config("manifest", tmp_path / "t", columns={"keys": ["key"]}))
    assert listing.rows.column("key").to_pylist() == [["a"], ["b"]] * 2
