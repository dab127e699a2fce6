"""Files that were out of reach when rows were refused: nothing in a listing tells when they can be read again."""

import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.errors import CnnjobError
from cnnjob.schema import DETAIL, REASON, URI

_REASONS = {"gone", "unreadable"}
_LOOKS_AT_ONCE = 16


def any_within_reach(counts: Mapping[str, int], table: str) -> bool:
    """Whether one of the files that were out of reach can be read now, or nothing tells any more which those were.

    Args:
        counts: Rows refused, by reason.
        table: URI of the table of refused rows, see ``schema.REFUSED``.
    """
    if not counts.keys() & _REASONS:
        return False
    try:
        refused = pq.read_table(pa.BufferReader(storage.read_bytes(table))).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return True
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        return any(pool.map(_is_readable, {row[URI] for row in refused if _was_out_of_reach(row)}))


def _was_out_of_reach(row: Mapping[str, str]) -> bool:
    """Whether the file could not be opened: the detail begins with its place then, and not where bytes were refused."""
    closed = row[REASON] == "unreadable" and row[DETAIL].startswith(row[URI])
    return bool(row[URI]) and (row[REASON] == "gone" or closed)


def _is_readable(uri: str) -> bool:
    try:
        if storage.is_local(uri):
            return _is_file(os.fsencode(storage.local_path(uri)))
        storage.read_bounded(uri, 0)
    except (CnnjobError, OSError, ValueError):
        return False
    return True


def _is_file(path: bytes) -> bool:
    """Whether it can be opened and is a file: of a pipe the other end, and of a device its end, may never come."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
