"""Reading the columns of a CSV or Parquet table that a listing needs, and saying well what is not there."""

import csv
import difflib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.data.sources.columns import as_text, known, one_line, plain
from cnnjob.data.sources.csv_file import check_separator, csv_names, read_csv
from cnnjob.data.sources.parquet_file import parquet_names, places_in, read_parquet
from cnnjob.errors import DatasetError
from cnnjob.schema import ID

_CSV = (".csv", ".csv.gz", ".tsv")
_PARQUET = (".parquet", ".pq")
URI_COLUMN = "_uri"


def table_files(uri: str) -> list[str]:
    """The files of a table: itself, or the Parquet files of a folder, sorted.

    Raises:
        DatasetError: There is none, or it is neither CSV nor Parquet.
    """
    with storage.told(uri):
        if storage.size(uri) is not None:
            if not storage.name(uri).lower().endswith(_CSV + _PARQUET):
                raise DatasetError(f"{uri}: a manifest is a table, and its name should end in .csv, .tsv or .parquet.")
            return [uri]
        if not storage.exists(uri):
            raise DatasetError(f"{uri} does not exist; it should be a CSV or Parquet table.")
        names = [name for name in storage.list_files(uri) if name.lower().endswith(_PARQUET)]
    if not names:
        raise DatasetError(f"{uri} is a folder without a Parquet file; a table is CSV or Parquet.")
    return [storage.join(uri, name) for name in names]


def read_columns(
    files: Sequence[str], wanted: Mapping[str, str], id_column: str | None, keys: Sequence[str], images: str | None
) -> pa.Table:
    """The columns of a listing.

    Args:
        files: Of the table.
        wanted: Columns of the table, by the name they get here.
        id_column: The column of ids; None for ``id`` where there is one.
        keys: Columns that keep their names and types.
        images: A column of encoded images, which is not read: rows then say where theirs lies.

    Raises:
        DatasetError: A column is not there, or the table cannot be read.
    """
    pieces = []
    for number, uri in enumerate(files):
        try:
            pieces.append(_read_file(number, uri, wanted, id_column, keys, images))
        except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError) as error:
            # Arrow tells damaged content as an OSError without a number; those of the world have been told already.
            encoding = " Write it again as UTF-8." if "utf" in str(error).lower() else ""
            raise DatasetError(f"{uri} cannot be read as a table: {one_line(error)}.{encoding}") from error
    _check_types(pieces, files, {**wanted, ID: id_column or ID})
    return pa.concat_tables(pieces)


def _check_types(pieces: Sequence[pa.Table], files: Sequence[str], called: Mapping[str, str]) -> None:
    """Refuse files whose columns differ; ``called`` has what the table calls them."""
    first = {field.name: field.type for field in pieces[0].schema}
    for uri, piece in zip(files, pieces, strict=True):
        kinds = {field.name: field.type for field in piece.schema}
        for name in dict.fromkeys([*first, *kinds]):
            one, other = first.get(name, "missing"), kinds.get(name, "missing")
            if one != other:
                raise DatasetError(
                    f"the column {called.get(name, name)!r} is {one} in {files[0]}, and {other} in {uri}. Write "
                    f"it with one type in all files."
                )


def _read_file(
    number: int, uri: str, wanted: Mapping[str, str], id_column: str | None, keys: Sequence[str], images: str | None
) -> pa.Table:
    is_csv = storage.name(uri).lower().endswith(_CSV)
    if is_csv and images is not None:
        raise DatasetError(f"{uri}: images inside a table need Parquet; a CSV has no bytes. Use columns.uri.")
    names = csv_names(uri) if is_csv else parquet_names(uri, images)
    found = {ID: id_column or ID} if id_column is not None or ID in names else {}
    columns = {**wanted, **found}
    if is_csv and len(names) == 1 and names[0] not in columns.values():
        check_separator(names[0], uri)
    _check_there([*columns.values(), *keys, *([images] if images else [])], names, uri)
    needed = list(dict.fromkeys([*columns.values(), *keys]))
    table = read_csv(uri, needed) if is_csv else read_parquet(uri, needed)
    texts = {ID: "ids are text or whole numbers", URI_COLUMN: "paths and URIs are text"}
    own = {}
    for name, column in columns.items():
        where = f"{uri}: the column {column!r}"
        values = plain(table.column(column), where)
        own[name] = known(as_text(values, where, texts[name]) if name in texts else values)
    own.update({key: plain(table.column(key), f"{uri}: the key column {key!r}") for key in keys})
    for values in own.values():
        # Parquet promises that its text is UTF-8, and nobody has looked.
        values.validate(full=True)
    if images is not None:
        own.update(places_in(number, uri))
    return pa.table(own)


def row_of(files: Sequence[str], at: int) -> str:
    """The row at a place in the table, in the words of who looks for it in a file.

    In a CSV the header is counted too, as spreadsheets do and Arrow's messages.
    """
    if storage.name(files[0]).lower().endswith(_CSV):
        return f"row {at + 2} (the header is row 1)"
    for uri in files:
        filesystem, path = storage.resolve(uri)
        with storage.told(uri), filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
            rows = parquet.metadata.num_rows
        if at < rows:
            break
        at -= rows
    return f"row {at + 1} (the first is row 1){f' of {storage.name(uri)}' if len(files) > 1 else ''}"


def _check_there(wanted: Sequence[str], names: Sequence[str], uri: str) -> None:
    missing = [name for name in dict.fromkeys(wanted) if name not in names]
    if missing:
        close = difflib.get_close_matches(missing[0], names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise DatasetError(
            f"{uri} has no column {', '.join(repr(name) for name in missing)}; its columns are "
            f"{', '.join(names)}.{hint} Name the columns under columns."
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DatasetError(f"{uri} has the column {', '.join(twice)} more than once.")
