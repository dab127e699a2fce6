"""Every column name and Arrow schema that the project writes; readers and writers take them from here.

What the columns mean stands in DESIGN.md, "Artifacts". A schema's metadata carry what a reader needs beside
the columns, so that a file explains itself.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

DATASET_FORMAT_VERSION = 2
BUNDLE_FORMAT_VERSION = 1
SCORES_FORMAT_VERSION = 2
CHECKPOINT_FORMAT_VERSION = 2

SPLITS = ("train", "val", "test")

ID = "id"
IMAGE = "image"
LABEL = "label"
PREDICTION = "prediction"
CONFIDENCE = "confidence"
PROBABILITIES = "probabilities"
MODEL_NAME = "model_name"
MODEL_VERSION = "model_version"
SCORED_AT = "scored_at"
URI = "uri"
REASON = "reason"
DETAIL = "detail"
GIVEN = "_given"

REASONS = (
    "empty",
    "truncated",
    "not_an_image",
    "format_not_allowed",
    "too_many_bytes",
    "too_many_pixels",
    "wrong_size",
    "mode_not_supported",
    "unreadable",
    "gone",
    "changed",
    "duplicate_id",
    "duplicate_image",
    "label_unknown",
)
"""Why a row is refused: one list for preparing and for scoring."""

LISTING = pa.schema([pa.field(ID, pa.string()), pa.field(LABEL, pa.int32()), pa.field(GIVEN, pa.int8())])
"""Rows of a source: label null where it is not known, the given split (index into ``SPLITS``) where there is one."""

REFUSED = pa.schema([(ID, pa.string()), (URI, pa.string()), (REASON, pa.string()), (DETAIL, pa.string())])
"""Refused rows: the refusals table of a data set and the quarantine of a scored date."""


def dataset_schema(
    shape: tuple[int, int, int], color: str, *, encoded: str | None = None, keys: Sequence[pa.Field] = ()
) -> pa.Schema:
    """Rows of a prepared data set.

    Args:
        shape: Channels, height, width.
        color: ``rgb`` or ``gray``.
        encoded: For a data set that keeps the original bytes: how they are decoded, as JSON.
        keys: Further columns that are carried along.

    Returns:
        ``id`` string; ``image`` fixed-size binary of C*H*W bytes (uint8, row-major CHW), or the original bytes as
        binary; ``label`` int32; the keys. A fixed-size binary is one copy from Parquet to NumPy; an Arrow tensor is
        stored as a list and is not.
    """
    channels, height, width = shape
    metadata = {"shape": json.dumps(shape), "layout": "CHW", "dtype": "uint8", "color": color}
    if encoded is not None:
        metadata["encoded"] = encoded
    stored = pa.binary() if encoded is not None else pa.binary(channels * height * width)
    return pa.schema(
        [
            pa.field(ID, pa.string(), nullable=False),
            pa.field(IMAGE, stored, nullable=False, metadata=metadata),
            pa.field(LABEL, pa.int32(), nullable=False),
            *keys,
        ]
    )


def scores_schema(classes: Sequence[str], layout: str, keys: Sequence[pa.Field] = ()) -> pa.Schema:
    """Rows of a table of scores.

    Args:
        classes: Class names; the order of the probabilities, also kept in the schema's metadata.
        layout: ``list`` for one fixed-size list, ``columns`` for a float32 column ``p_CLASS`` for each class.
        keys: Columns that are carried over from the input, last.
    """
    if layout == "list":
        probabilities = [pa.field(PROBABILITIES, pa.list_(pa.float32(), len(classes)), nullable=False)]
    else:
        probabilities = [pa.field(f"p_{name}", pa.float32(), nullable=False) for name in classes]
    return pa.schema(
        [
            pa.field(ID, pa.string(), nullable=False),
            pa.field(PREDICTION, pa.string(), nullable=False),
            pa.field(CONFIDENCE, pa.float32(), nullable=False),
            *probabilities,
            pa.field(MODEL_NAME, pa.string(), nullable=False),
            pa.field(MODEL_VERSION, pa.string(), nullable=False),
            pa.field(SCORED_AT, pa.timestamp("us", tz="UTC"), nullable=False),
            *keys,
        ],
        metadata={
            "cnnjob.format_version": str(SCORES_FORMAT_VERSION),
            "cnnjob.class_names": json.dumps(list(classes), ensure_ascii=False),
        },
    )


def key_types(keys: Sequence[pa.Field]) -> dict[str, str]:
    """The types of key columns by name, as readers of several dates tell them apart.

    Arrow's large and view forms and the names of a list's elements are left out: pyarrow, DuckDB and Polars read files
    that differ in them as one table (tried).
    """
    return {key.name: _read_type(key.type) for key in keys}


def _read_type(kind: pa.DataType) -> str:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if is_text or is_bytes:
        return "string" if is_text else "binary"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_read_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {_read_type(field.type)}' for field in kind)}>"
    return str(kind)


def has_no_type(kind: pa.DataType) -> bool:
    """Whether a column, or what lies in it, is of Arrow's type null, which what is written without a value has."""
    return pa.types.is_null(kind) or any(has_no_type(kind.field(at).type) for at in range(kind.num_fields))


def refused_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Refused rows as a table; an empty one has the same columns."""
    return pa.Table.from_pylist(list(rows), schema=REFUSED)
