import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob.data.decode import Refusal
from cnnjob.data.sources.open import open_source
from cnnjob.errors import ConfigError, DatasetError
from cnnjob.schema import GIVEN, ID, LABEL
from tests.piles import contents, listing_of, source_config, write_parquet


@pytest.fixture
def pile(tmp_path):
    """Six files, to be named by tables."""
    (tmp_path / "images").mkdir()
    for number in range(6):
        (tmp_path / "images" / f"{number}.bin").write_bytes(f"content {number}".encode())
    return tmp_path


def write_csv(folder, text: str, name: str = "table.csv"):
    (folder / name).write_text(text)
    return folder / name


def write_numbered(path, count: int, row_group_size: int):
    """A table whose row k has the image ``k``."""
    numbers = range(count)
    images = [b"%d" % k for k in numbers]
    return write_parquet(
        path, row_group_size, id=[str(k) for k in numbers], image=images, label=[k % 2 for k in numbers]
    )


def refused(values: dict) -> dict[str, str]:
    return {name: value.reason for name, value in values.items() if isinstance(value, Refusal)}


def test_a_csv_names_files(pile):
    """Rows are named by their id column, else by their URI; relative URIs are below the table's folder."""
    absolute = pile / "images" / "1.bin"
    table = write_csv(pile, f"uri,label\nimages/0.bin,cat\n{absolute},dog\nfile://{absolute},cat\n")
    listing = listing_of(source_config("manifest", table))
    assert listing.class_names == ("cat", "dog")
    assert contents(listing) == {
        "images/0.bin": b"content 0",
        str(absolute): b"content 1",
        f"file://{absolute}": b"content 1",
    }
    table = write_csv(pile, "id,uri,label\n007,images/0.bin,cat\n7,images/1.bin,dog\n")
    assert contents(listing_of(source_config("manifest", table))) == {"007": b"content 0", "7": b"content 1"}


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_of_tables_is_where_relative_uris_start(pile, end):
    """In Parquet files of a folder, at any depth, a relative URI starts at that folder and not at the first file's."""
    for name in ("a", "b"):
        (pile / "t" / name).mkdir(parents=True)
        (pile / "t" / name / "x.bin").write_bytes(f"{name}'s".encode())
    (pile / "t" / "x.bin").write_bytes(b"the folder's")
    write_parquet(pile / "t" / "a" / "0.parquet", id=["a0", "a1"], uri=["a/x.bin", "x.bin"], label=[0, 1])
    write_parquet(pile / "t" / "b" / "0.parquet", id=["b0", "b1"], uri=["b/x.bin", "x.bin"], label=[0, 1])
    listing = listing_of(source_config("manifest", f"{pile}/t{end}"))
    expected = {"a0": b"a's", "a1": b"the folder's", "b0": b"b's", "b1": b"the folder's"}
    assert contents(listing) == expected
    assert listing.reader.uris(listing.rows) == [
        str(pile / "t" / name) for name in ("a/x.bin", "x.bin", "b/x.bin", "x.bin")
    ]


def test_relative_uris_beside_the_files_of_a_flat_folder(pile):
    """Where all files lie in the folder itself, a relative URI starts beside them."""
    write_parquet(pile / "images" / "0.parquet", uri=["0.bin"], label=[0])
    write_parquet(pile / "images" / "1.parquet", uri=["1.bin"], label=[1])
    for uri in (pile / "images", f"file://{pile}/images"):
        assert contents(listing_of(source_config("manifest", uri))) == {"0.bin": b"content 0", "1.bin": b"content 1"}


def test_columns_are_configurable(pile):
    """Every column may have another name; keys of a CSV are text, as they are written."""
    table = write_csv(
        pile, "sku,file,kind,price,when\n12,images/0.bin,cat,1.5,2026-01-31\n13,images/1.bin,dog,2,2026-02-01\n"
    )
    columns = {"id": "sku", "uri": "file", "label": "kind", "keys": ["price", "when"]}
    listing = listing_of(source_config("manifest", table, columns=columns))
    assert listing.rows.column("price").to_pylist() == ["1.5", "2"]
    assert listing.rows.column(ID).to_pylist() == ["12", "13"]


def test_parquet_holds_encoded_bytes(pile):
    """Bytes inside a Parquet table are read row by row, over row groups and files; a missing image is its row's own."""
    folder = pile / "parts"
    folder.mkdir()
    write_parquet(
        folder / "a.parquet",
        3,
        id=[f"a{k}" for k in range(10)],
        image=[b"%d" % k for k in range(10)],
        label=[k % 2 for k in range(10)],
    )
    write_parquet(folder / "b.parquet", 4, id=["b0", "b1"], image=[b"x", None], label=[0, 1])
    listing = listing_of(source_config("manifest", folder, columns={"image": "image"}))
    found = contents(listing)
    assert refused(found) == {"b1": "empty"}
    assert {name: value for name, value in found.items() if name != "b1"} == {f"a{k}": b"%d" % k for k in range(10)} | {
        "b0": b"x"
    }
    assert listing.runs == (3, 3, 3, 1, 2)


def test_rows_inside_a_table_are_read_from_any_place(pile):
    """A unit in the middle of a row group gets its own rows."""
    path = write_numbered(pile / "t.parquet", 3000, row_group_size=5000)
    listing = listing_of(source_config("manifest", path, columns={"image": "image"}))
    rows = listing.rows.slice(1111, 700)
    assert list(listing.reader.read(rows)) == [b"%d" % k for k in range(1111, 1811)]


def test_structs_with_bytes_are_images(pile):
    """A column of structs with a field `bytes`, as Hugging Face writes it, is read."""
    path = write_parquet(
        pile / "t.parquet",
        id=["a", "b"],
        image=[{"bytes": b"1", "path": None}, {"bytes": b"2", "path": "x"}],
        label=[0, 1],
    )
    assert contents(listing_of(source_config("manifest", path, columns={"image": "image"}))) == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize(
    ("labels", "names", "class_names", "expected"),
    [
        (["dog", "cat", None], None, ("cat", "dog"), [1, 0, None]),
        (["dog", "cow", "cat"], ["dog", "cat"], ("dog", "cat"), [0, None, 1]),
        ([2, 0, None], None, ("0", "1", "2"), [2, 0, None]),
        (["2", "0", "1"], ["a", "b", "c"], ("a", "b", "c"), [2, 0, 1]),
        (["10", "2", "0"], ["0", "2", "10"], ("0", "2", "10"), [2, 1, 0]),
        (["01", "02", "01"], None, ("01", "02"), [0, 1, 0]),
        (["dog", "", "cat"], None, ("cat", "dog"), [1, None, 0]),
        (["", "1", "0"], None, ("0", "1"), [None, 1, 0]),
    ],
)
def test_labels_are_names_or_numbers(pile, labels, names, class_names, expected):
    """Text is a class name, numbers count from 0, an unknown, empty or missing one is no class; in a CSV as well."""
    lines = [f"{uri},{'' if label is None else label}" for uri, label in zip("abc", labels, strict=True)]
    tables = [
        write_parquet(pile / "t.parquet", uri=["a", "b", "c"], label=labels),
        write_csv(pile, "\n".join(["uri,label", *lines, ""])),
    ]
    for table in tables:
        listing = listing_of(source_config("manifest", table, class_names=names))
        assert listing.class_names == class_names
        assert listing.rows.column(LABEL).to_pylist() == expected


TEXTS = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
BYTES = (pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary()))


def stored_as(values: list, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_dictionary(kind):
        return pa.array(values, kind)
    return pa.array(values, kind.value_type).dictionary_encode()


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_text_is_read_however_it_is_stored(pile, kind):
    """Ids, URIs, labels, splits and keys are text in any of Arrow's forms, such as the views that Polars writes."""
    uris = [f"images/{k}.bin" for k in range(3)]
    columns = {"id": ["a", "b", "c"], "uri": uris, "label": ["x", "y", "x"], "split": ["train", "test", "val"]}
    columns = {name: stored_as(values, kind) for name, values in columns.items()}
    path = write_parquet(pile / "t.parquet", **columns, key=stored_as(["k", "", "k"], kind))
    listing = listing_of(source_config("manifest", path, columns={"keys": ["key"]}, method="given"))
    assert contents(listing) == {name: f"content {k}".encode() for k, name in enumerate("abc")}
    assert [listing.rows.column(name).to_pylist() for name in (LABEL, GIVEN)] == [[0, 1, 0], [0, 2, 1]]
    assert listing.rows.column("key").to_pylist() == ["k", "", "k"]
    assert listing.class_names == ("x", "y")


@pytest.mark.parametrize("kind", BYTES, ids=str)
def test_bytes_are_read_however_they_are_stored(pile, kind):
    """Encoded images are bytes in any of Arrow's forms."""
    images = stored_as([b"1", b"1", None], kind)
    path = write_parquet(pile / "t.parquet", id=["a", "b", "c"], image=images, label=[0, 1, 0])
    found = contents(listing_of(source_config("manifest", path, columns={"image": "image"})))
    assert refused(found) == {"c": "empty"}
    assert (found["a"], found["b"]) == (b"1", b"1")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([b"\xff" * 16, b"\x80" * 16], pa.binary(16)), "fixed_size_binary[16]"),
        (pa.array([b"\xff", b"\x80"]), "binary"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct<a: int64>"),
        (pa.array([[1], [2]]), "list<element: int64>"),
    ],
    ids=["uuid", "binary", "struct", "list"],
)
def test_a_column_that_is_no_text_is_told_by_its_type(pile, values, kind):
    """An id, a URI or a split that has no form as text is told by its column and the type it has."""
    given = {"id": ["a", "b"], "uri": ["a", "b"], "label": [0, 1], "split": ["train", "test"]}
    told = {
        "id": f"the column 'id' is {kind}; ids are text or whole numbers",
        "uri": f"the column 'uri' is {kind}; paths and URIs are text",
        "split": f"splits are {kind}; with the method given they are train, val or test",
    }
    for name, words in told.items():
        path = write_parquet(pile / "t.parquet", **{**given, name: values})
        with pytest.raises(DatasetError, match=re.escape(words)):
            listing_of(source_config("manifest", path, method="given"))


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, 3], ["a", "b"], r"row 2 \(the first is row 1\) has 3, and there are 2 classes"),
        ([-1, 3], None, "row 1 .* has -1"),
        ([None, 0, None, 3], ["a", "b"], "row 4 .* has 3"),
        ([0, 20260131], None, "out of range"),
        ([0.5, 1.0], None, "double"),
        ([None, None], None, "no row has a label"),
        (["", ""], ["a", "b"], "no row has a label"),
    ],
)
def test_labels_out_of_range_are_refused(pile, labels, names, words):
    """Numbers that name no class, and values that are no labels, are the user's mistake."""
    path = write_parquet(pile / "t.parquet", uri=list("abcd")[: len(labels)], label=labels)
    with pytest.raises(DatasetError, match=words):
        listing_of(source_config("manifest", path, class_names=names))


def test_a_row_is_told_as_it_is_counted_in_its_file(pile):
    """In a CSV the header counts, as in a spreadsheet; of several Parquet files it is the row of the one it is in."""
    table = write_csv(pile, "uri,label\na,\nb,1\nc,\nd,9\n")
    with pytest.raises(DatasetError, match=r"row 5 \(the header is row 1\) has 9"):
        listing_of(source_config("manifest", table, class_names=["x", "y"]))
    (pile / "t").mkdir()
    write_parquet(pile / "t" / "0.parquet", uri=["a", "b", "c"], label=[0, None, 1])
    write_parquet(pile / "t" / "1.parquet", 1, uri=["d", "e"], label=[None, 9])
    with pytest.raises(DatasetError, match=r"row 2 \(the first is row 1\) of 1\.parquet has 9"):
        listing_of(source_config("manifest", pile / "t", class_names=["x", "y"]))


def test_given_splits_are_a_column(pile):
    """With the method given, a column says the split; another word is refused with its row."""
    text = "uri,label,split\na,x,train\nb,y,val\nc,x,test\n"
    listing = listing_of(source_config("manifest", write_csv(pile, text), method="given"))
    assert listing.rows.column(GIVEN).to_pylist() == [0, 1, 2]
    with pytest.raises(DatasetError, match=r"row 3 \(the header is row 1\) has the split 'eval'"):
        listing_of(source_config("manifest", write_csv(pile, text.replace("val", "eval")), method="given"))


def test_a_missing_column_is_told_with_those_there(pile):
    """A column that is not there: its name, the columns that are, and the one that was meant."""
    table = write_csv(pile, "uri,lable\na,x\n")
    with pytest.raises(DatasetError, match=r"no column 'label'; its columns are uri, lable\. Did you mean 'lable'"):
        listing_of(source_config("manifest", table))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"uri,label\na,b,c\n", "cannot be read as a table"),
        ("t.csv", b"uri,label\na,b\na,b\na,b,c\n", "Row #4: Expected 2 columns, got 3: a,b,c"),
        (
            "t.csv",
            b"uri;label\na,1;b\n",
            "one column is 'uri;label': it seems to be separated by ';' and should be by ','",
        ),
        ("t.csv", b"uri\tlabel\na\tb\n", "it seems to be separated by tabs and should be by ','"),
        ("t.tsv", b"uri,label\na,b\n", "it seems to be separated by ',' and should be by tabs"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n\n", "is empty"),
        ("t.csv", b"x" * 200_000, "cannot be read as a table"),
        ("t.csv", "uri,label\na,b\n".encode("utf-16"), "Write it again as UTF-8"),
        ("t.csv", b"uri,label\n", "has no rows"),
        ("t.csv", b"uri,label\n\xff\xfe,b\n", "Row #2.*Write it again as UTF-8"),
        ("t.parquet", b"PAR1 and nothing else PAR1", "cannot be read as a table"),
        ("t.json", b"{}", "should end in"),
        ("t.csv", b"uri,label\na,cat\n,cat\n", r"rows without an id, such as row 3 \(the header is row 1\)"),
    ],
)
def test_damaged_tables_are_refused(pile, name, content, words):
    """What is no table, has no rows, or has rows without a name is one clear mistake."""
    (pile / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        listing_of(source_config("manifest", pile / name))


def test_a_row_that_is_no_text_leaves_no_traceback(pile, capfd):
    """Arrow hands a row of too few columns to Python as text: one that is none is told once, and nothing beside it."""
    (pile / "t.csv").write_bytes(b"uri,label\na,b\nk\xe4tzchen\n")
    with pytest.raises(DatasetError, match="Row #3: Expected 2 columns, got 1"):
        listing_of(source_config("manifest", pile / "t.csv"))
    assert capfd.readouterr().err == ""


def test_files_of_a_table_agree(tmp_path):
    """A column of two types, or one that a file lacks, is told in the table's own words: both files and types."""
    write_parquet(tmp_path / "a.parquet", id=["0"], uri=["a"], kind=["cat"])
    write_parquet(tmp_path / "b.parquet", id=["1"], uri=["b"], kind=[1])
    source = source_config("manifest", tmp_path, columns={"label": "kind"})
    with pytest.raises(DatasetError, match=r"^the column 'kind' is string in .*a.parquet, and int64 in .*b.parquet"):
        listing_of(source)
    write_parquet(tmp_path / "b.parquet", uri=["b"], kind=["dog"])
    with pytest.raises(DatasetError, match=r"^the column 'id' is string in .*a.parquet, and missing in .*b.parquet"):
        listing_of(source)


@pytest.mark.parametrize("column", ["id", "uri", "label"])
def test_text_that_is_none_is_refused(pile, column):
    """Parquet does not look whether its text is UTF-8: what is not is found before a task stumbles over it."""
    texts = {name: pa.array(["a", "b"]) for name in ("id", "uri", "label")}
    broken = pa.array([b"a", b"\xff\xfe"], pa.binary())
    texts[column] = pa.StringArray.from_buffers(2, *broken.buffers()[1:])
    pq.write_table(pa.table(texts), pile / "t.parquet")
    with pytest.raises(DatasetError, match="cannot be read as a table"):
        listing_of(source_config("manifest", pile / "t.parquet"))


def test_files_that_are_not_there_cost_their_rows(pile):
    """A URI that leads nowhere, or none, is its row's own refusal; where there is none, none is shown."""
    uris = ["images/0.bin", "images/9.bin", ""]
    lines = [f"{number},{uri},{number % 2}\n" for number, uri in enumerate(uris)]
    tables = [
        write_csv(pile, "id,uri,label\n" + "".join(lines)),
        write_parquet(pile / "t.parquet", id=["0", "1", "2"], uri=uris, label=[0, 1, 0]),
        write_parquet(pile / "n.parquet", id=["0", "1", "2"], uri=[*uris[:2], None], label=[0, 1, 0]),
    ]
    for table in tables:
        listing = listing_of(source_config("manifest", table))
        assert refused(contents(listing)) == {"1": "gone", "2": "gone"}
        assert listing.reader.uris(listing.rows) == [str(pile / "images/0.bin"), str(pile / "images/9.bin"), ""]


def test_the_digest_follows_rows_and_files(pile):
    """Another row, or a file that was written to, is another input."""
    table = write_csv(pile, "uri,label\nimages/0.bin,cat\nimages/1.bin,dog\n")
    config = source_config("manifest", table)
    digests = [open_source(config).digest(), open_source(config).digest()]
    os.utime(pile / "images" / "1.bin", ns=(5, 5))
    digests.append(open_source(config).digest())
    write_csv(pile, "uri,label\nimages/0.bin,cat\nimages/1.bin,cat\n")
    digests.append(open_source(config).digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_config_mistakes_are_told_together(tmp_path):
    """Two sources of images, a key that is taken and missing uri are all told at once."""
    columns = {"uri": "u", "image": "i", "keys": ["label", "a", "a"]}
    with pytest.raises(ConfigError) as told:
        source_config("manifest", "x", columns=columns, class_names=["a", "a"], method="hash")
    text = str(told.value)
    assert "both are given" in text
    assert "'label' in keys" in text
    assert "at least two names" in text


def test_rows_that_lie_apart_are_found_by_their_offsets(pile):
    """Single rows of several row groups are found by their offsets."""
    path = write_numbered(pile / "t.parquet", 400, row_group_size=100)
    listing = listing_of(source_config("manifest", path, columns={"image": "image"}))
    chosen = np.array([3, 50, 99, 100, 250, 399])
    found = list(listing.reader.read(listing.rows.take(chosen)))
    assert found == [b"%d" % k for k in chosen]


@pytest.mark.parametrize("images", [[[1, 2], [3]], [1, 2], [{"path": "a"}, {"path": "b"}]])
def test_columns_that_hold_no_images_are_refused(pile, images):
    """Lists, numbers and structs without bytes are no encoded images."""
    path = write_parquet(pile / "t.parquet", id=["a", "b"], label=[0, 1], image=images)
    with pytest.raises(DatasetError, match="encoded images are binary"):
        listing_of(source_config("manifest", path, columns={"image": "image"}))


def test_addresses_that_nothing_opens_cost_their_rows(pile):
    """A protocol nobody knows, a folder, a zero byte, a file:// of another host: each is its row's own refusal."""
    uris = ["images/0.bin", "gopher://x/y", f"file://{pile}/images", "a\0b", "file://C:/x.png", "x" * 300, "s3:///x"]
    path = write_parquet(pile / "t.parquet", uri=uris, label=[0, 1] * 3 + [0])
    found = refused(contents(listing_of(source_config("manifest", path))))
    assert set(found) == set(uris[1:])
    assert set(found.values()) == {"unreadable"}


def test_labels_beyond_any_class_are_told(pile):
    """A number of 64 bits is out of range like any other."""
    path = write_parquet(pile / "t.parquet", uri=["a", "b"], label=pa.array([0, 2**64 - 1], pa.uint64()))
    with pytest.raises(DatasetError, match="out of range"):
        listing_of(source_config("manifest", path))


def test_large_cells_are_read(pile):
    """A cell of several megabytes in a column that nobody asked for is no obstacle."""
    table = write_csv(pile, f"uri,label,notes\nimages/0.bin,cat,{'x' * 5_000_000}\nimages/1.bin,dog,\n")
    assert len(listing_of(source_config("manifest", table)).rows) == 2
