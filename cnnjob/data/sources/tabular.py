"""Reading the columns of a CSV or Parquet table that a listing needs, and saying well what is not there."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.errors import DatasetError
from cnnjob.schema import ID

FILE = "_file"
GROUP = "_group"
OFFSET = "_offset"
_CSV = (".csv", ".csv.gz", ".tsv")
_PARQUET = (".parquet", ".pq")
_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "','"}
URI_COLUMN = "_uri"
_READ_OPTIONS = pacsv.ReadOptions(block_size=1 << 26)
"""A row has to fit into a block, 64 MiB here and 1 MiB by default."""


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
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            # Arrow tells damaged content as an OSError without a number; those of the world have been told already.
            raise DatasetError(f"{uri} cannot be read as a table: {_one_line(error)}.") from error
    try:
        return pa.concat_tables(pieces)
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{files[0]} and the files beside it have columns of different types: {error}") from error


def _read_file(
    number: int, uri: str, wanted: Mapping[str, str], id_column: str | None, keys: Sequence[str], images: str | None
) -> pa.Table:
    is_csv = storage.name(uri).lower().endswith(_CSV)
    if is_csv and images is not None:
        raise DatasetError(f"{uri}: images inside a table need Parquet; a CSV has no bytes. Use columns.uri.")
    names = _csv_names(uri) if is_csv else _parquet_names(uri, images)
    found = {ID: id_column or ID} if id_column is not None or ID in names else {}
    columns = {**wanted, **found}
    if is_csv and len(names) == 1 and names[0] not in columns.values():
        _check_separator(names[0], uri)
    _check_there([*columns.values(), *keys, *([images] if images else [])], names, uri)
    needed = list(dict.fromkeys([*columns.values(), *keys]))
    table = _read_csv(uri, needed) if is_csv else _read_parquet(uri, needed)
    texts = {ID: "ids are text or whole numbers", URI_COLUMN: "paths and URIs are text"}
    own = {}
    for name, column in columns.items():
        where = f"{uri}: the column {column!r}"
        values = _plain(table.column(column), where)
        own[name] = _known(_as_text(values, where, texts[name]) if name in texts else values)
    own.update({key: _plain(table.column(key), f"{uri}: the key column {key!r}") for key in keys})
    for values in own.values():
        # Parquet promises that its text is UTF-8, and nobody has looked.
        values.validate(full=True)
    if images is not None:
        own.update(_places(number, uri))
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


def _plain(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Values as their type is without dictionaries, views and large offsets, wherever these lie in it.

    They are ways of storing values that differ from file to file, and not all of Arrow's functions take them.
    """
    plain = _plain_type(column.type)
    if plain == column.type:
        return column
    try:
        if isinstance(plain, pa.BaseExtensionType):
            return pa.chunked_array(
                [plain.wrap_array(each.storage.cast(plain.storage_type)) for each in column.chunks], plain
            )
        return column.cast(plain)
    except pa.ArrowException as error:
        raise DatasetError(
            f"{where} is {column.type}, which cannot be made {plain}: {_one_line(error)}. Write it in another type."
        ) from error


def _plain_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if kind.num_fields:
        return _plain_nested(kind)
    if types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    return pa.json_(_plain_type(kind.storage_type)) if isinstance(kind, pa.JsonType) else kind


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        # A view of lists itself is taken everywhere, and Arrow's cast of it to lists gives broken ones (tried).
        make = pa.list_view if types.is_list_view(kind) else pa.large_list_view
        return make(_plain_field(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field))
    if types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type))


def _as_text(column: pa.ChunkedArray, where: str, wanted: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowException as error:
        raise DatasetError(f"{where} is {column.type}; {wanted}. Name another column under columns.") from error


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that is empty is none, as it is in a CSV, where nothing tells the two apart."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)


def _read_csv(uri: str, needed: list[str]) -> pa.Table:
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


def _csv_names(uri: str) -> list[str]:
    filesystem, path = storage.resolve(uri)
    options = _parse_options(uri)
    # What is wrong with a row is told when it is read: the names may say more of it.
    options.invalid_row_handler = lambda _: "skip"
    with storage.told(uri), filesystem.open_input_stream(path) as stream:
        return list(pacsv.open_csv(stream, _READ_OPTIONS, options).schema.names)


def _check_separator(name: str, uri: str) -> None:
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


def _read_parquet(uri: str, needed: list[str]) -> pa.Table:
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
        try:
            return parquet.read(columns=needed, use_threads=False)
        except pa.ArrowException:
            for name in needed:
                _check_column(parquet, name, uri)
            raise


def _check_column(parquet: pq.ParquetFile, name: str, uri: str) -> None:
    """Say which column it is that cannot be read, and its type."""
    try:
        parquet.read(columns=[name], use_threads=False)
    except pa.ArrowException as error:
        kind = parquet.schema_arrow.field(name).type
        raise DatasetError(
            f"{uri} cannot be read as a table: its column {name!r} is {kind}: {_one_line(error)}. Write it in another "
            f"type, or leave it out."
        ) from error


def _parquet_names(uri: str, images: str | None) -> list[str]:
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
    if images is not None and images in schema.names and not _holds_images(schema.field(images).type):
        raise DatasetError(
            f"{uri}: the column {images!r} is {schema.field(images).type}, and encoded images are binary, or structs "
            f"with a field `bytes`."
        )
    return list(schema.names)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    types = pa.types
    forms = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_form(kind) for is_form in forms)


def _places(number: int, uri: str) -> dict[str, pa.Array]:
    """File, row group and offset in it of every row."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    offsets = [np.arange(count, dtype=np.int64) for count in counts]
    return {
        FILE: pa.array(np.full(sum(counts), number, np.int32)),
        GROUP: pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts)),
        OFFSET: pa.array(np.concatenate([np.empty(0, np.int64), *offsets])),
    }


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
