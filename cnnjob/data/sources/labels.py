"""Labels and splits as a table has them -> class indices and split indices."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnjob.data.sources.base import check_labels
from cnnjob.errors import DatasetError
from cnnjob.schema import SPLITS

MAX_NUMBERED_CLASSES = 10_000
"""Numbers beyond this are taken for a mistake (an id, a date) unless the class names are given."""


def labels_of(
    column: pa.ChunkedArray, class_names: Sequence[str] | None, where: str, row: Callable[[int], str]
) -> tuple[pa.Array, tuple[str, ...]]:
    """Class indices, and the names they stand for.

    Integers, also written as text, are indices themselves; other text is a class name. Without given names, text is
    numbered in sorted order, and integers are named by themselves, 0 to the largest.

    Args:
        column: Integers or text; null where the class is not known.
        class_names: As given in the config.
        where: For messages.
        row: How people call the row at a place in the column.

    Returns:
        int32 indices, null where a row has no class or one that is not among the given names; and the names.

    Raises:
        DatasetError: Numbers out of range, or a type that is no label.
    """
    values = column.combine_chunks()
    if values.null_count == len(values):
        raise DatasetError(f"{where}: no row has a label.")
    if pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    if pa.types.is_string(values.type):
        numbered = _as_numbers(values)
        if numbered is None or (class_names and set(class_names) >= set(pc.unique(values.drop_null()).to_pylist())):
            return _named(values, class_names)
        values = numbered
    if not pa.types.is_integer(values.type):
        raise DatasetError(f"{where}: labels are {values.type}; they should be class names or whole numbers from 0 on.")
    return _numbered(values, class_names, where, row)


def given_of(column: pa.ChunkedArray, where: str, row: Callable[[int], str]) -> pa.Array:
    """int8 indices into ``schema.SPLITS``; of ``row`` see ``labels_of``.

    Raises:
        DatasetError: A row has another word, or none.
    """
    try:
        words = column.combine_chunks().cast(pa.string())
    except pa.ArrowException as error:
        wanted = "with the method given they are train, val or test"
        raise DatasetError(f"{where}: splits are {column.type}; {wanted}.") from error
    found = pc.index_in(words, pa.array(SPLITS))
    if found.null_count:
        at = int(np.flatnonzero(np.asarray(pc.is_null(found)))[0])
        raise DatasetError(
            f"{where}: {row(at)} has the split {words[at].as_py()!r}; with the method given it is train, val or test."
        )
    return found.cast(pa.int8())


def _as_numbers(values: pa.Array) -> pa.Array | None:
    """Text of whole numbers as int64; None where some is other text, or has leading zeros, which a name may have."""
    known = values.drop_null()
    if not len(known) or not pc.all(pc.match_substring_regex(known, r"^(0|[1-9][0-9]{0,8})$")).as_py():
        return None
    return values.cast(pa.int64())


def _named(values: pa.Array, class_names: Sequence[str] | None) -> tuple[pa.Array, tuple[str, ...]]:
    names = tuple(class_names) if class_names else tuple(sorted(pc.unique(values.drop_null()).to_pylist()))
    return pc.index_in(values, pa.array(names, pa.string())), names


def _numbered(
    values: pa.Array, class_names: Sequence[str] | None, where: str, row: Callable[[int], str]
) -> tuple[pa.Array, tuple[str, ...]]:
    known, places = values.drop_null().to_numpy(), np.flatnonzero(np.asarray(values.is_valid()))
    if class_names:
        names = tuple(class_names)
    else:
        largest = int(known.max()) if len(known) else -1
        names = tuple(str(number) for number in range(min(largest + 1, MAX_NUMBERED_CLASSES)))
    check_labels(known, names, where, lambda at: row(int(places[at])))
    return values.cast(pa.int32()), names
