"""A column as a file has it -> one of Arrow's plain types, text where text is asked for."""

import pyarrow as pa
import pyarrow.compute as pc

from cnnjob.errors import DatasetError


def plain(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Values as their type is without dictionaries, views and large offsets, wherever these lie in it.

    They are ways of storing values that differ from file to file, and not all of Arrow's functions take them.

    Raises:
        DatasetError: Some value has no such form.
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
            f"{where} is {column.type}, which cannot be made {plain}: {one_line(error)}. Write it in another type."
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


def as_text(column: pa.ChunkedArray, where: str, wanted: str) -> pa.ChunkedArray:
    """Values as text; ``where`` and ``wanted`` are for the message where they cannot be.

    Raises:
        DatasetError: Values of this type have no text.
    """
    try:
        return column.cast(pa.string())
    except pa.ArrowException as error:
        raise DatasetError(f"{where} is {column.type}; {wanted}. Name another column under columns.") from error


def known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that is empty is none, as it is in a CSV, where nothing tells the two apart."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)


def one_line(error: Exception) -> str:
    """What Arrow says, on one line and without its stop."""
    return " ".join(str(error).split())[:300].rstrip(".")
