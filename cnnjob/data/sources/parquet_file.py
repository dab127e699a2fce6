"""A Parquet file: the names of its columns, columns that a listing needs, and where each of its rows lies."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.data.sources.columns import one_line
from cnnjob.errors import DatasetError

FILE = "_file"
GROUP = "_group"
OFFSET = "_offset"


def read_parquet(uri: str, needed: list[str]) -> pa.Table:
    """Columns of a file.

    Raises:
        DatasetError: One of them cannot be read.
    """
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
            f"{uri} cannot be read as a table: its column {name!r} is {kind}: {one_line(error)}. Write it in another "
            f"type, or leave it out."
        ) from error


def parquet_names(uri: str, images: str | None) -> list[str]:
    """The names of its columns, of which ``images`` has to hold encoded images.

    Raises:
        DatasetError: It is of another type.
    """
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


def places_in(number: int, uri: str) -> dict[str, pa.Array]:
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
