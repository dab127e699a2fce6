"""A CSV file, .tsv with tabs, packed or not: the names of its columns, and columns as text."""

import csv
import io

import pyarrow as pa
import pyarrow.csv as pacsv

from cnnjob import storage
from cnnjob.errors import DatasetError

_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "','"}
_READ_OPTIONS = pacsv.ReadOptions(block_size=1 << 26)
"""A row has to fit into a block, 64 MiB here and 1 MiB by default."""


def read_csv(uri: str, needed: list[str]) -> pa.Table:
    """Columns of a file as text; a cell that is empty, quoted or not, is null."""
    filesystem, path = storage.resolve(uri)
    convert = pacsv.ConvertOptions(
        include_columns=needed,
        # Values stay as they are written: 007 is not 7, neither as an id nor as a key.
        column_types=dict.fromkeys(needed, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=True,
    )
    try:
        with storage.told(uri), filesystem.open_input_stream(path) as stream:
            return pacsv.read_csv(stream, _READ_OPTIONS, _parse_options(uri), convert)
    except pa.ArrowInvalid:
        # Once more in one thread, which alone knows the number of a row that is wrong.
        with storage.told(uri), filesystem.open_input_stream(path) as stream:
            options = pacsv.ReadOptions(block_size=_READ_OPTIONS.block_size, use_threads=False)
            return pacsv.read_csv(stream, options, _parse_options(uri), convert)


def csv_names(uri: str) -> list[str]:
    """Of the header alone: what is wrong with a row is told when it is read, and the names may say more of it."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_stream(path) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
        rows = csv.reader(text, delimiter=_parse_options(uri).delimiter)
        names = next(filter(None, rows), None)
    if names is None:
        raise DatasetError(f"{uri} is empty; a table has a row of names at least.")
    # One that is no UTF-8 raises.
    return [name.encode(errors="surrogateescape").decode() for name in names]


def check_separator(name: str, uri: str) -> None:
    """Refuse a file whose only column's name has another separator in it.

    Raises:
        DatasetError: With both separators.
    """
    wanted = _parse_options(uri).delimiter
    found = next((mark for mark in _SEPARATORS if mark in name), None)
    if found is not None:
        raise DatasetError(
            f"{uri}: its one column is {name!r}: it seems to be separated by {_SEPARATORS[found]} and should be "
            f"by {_SEPARATORS[wanted]}. Write it again so; a table in a .tsv is separated by tabs."
        )


def _parse_options(uri: str) -> pacsv.ParseOptions:
    return pacsv.ParseOptions(
        delimiter="\t" if storage.name(uri).lower().endswith(".tsv") else ",", newlines_in_values=True
    )
