"""Files that were out of reach when rows were refused: nothing in a listing tells when they can be read again.

Each is read to its end, as far as a row's is: one that only begins to be read would be refused again by each run.
"""

import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.data.decode import Refusal
from cnnjob.data.sources import remote
from cnnjob.errors import CnnjobError
from cnnjob.schema import DETAIL, REASON, URI
from cnnjob.store_errors import shown

_REASONS = {"gone", "unreadable"}
_LOOKS_AT_ONCE = 16
_PIECE_BYTES = 1 << 20


def any_within_reach(counts: Mapping[str, int], table: str, max_bytes: int) -> bool:
    """Whether one of the files that were out of reach can be read now, or nothing tells any more which those were.

    Args:
        counts: Rows refused, by reason.
        table: URI of the table of refused rows, see ``schema.REFUSED``.
        max_bytes: Of a row's file; of a larger one no more is read.
    """
    if not counts.keys() & _REASONS:
        return False
    try:
        refused = pq.read_table(pa.BufferReader(storage.read_bytes(table))).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return True
    uris = sorted({row[URI] for row in refused if _was_out_of_reach(row)})
    pool = ThreadPoolExecutor(_LOOKS_AT_ONCE)
    try:
        return any(pool.map(partial(_is_readable, max_bytes=max_bytes), uris))
    finally:
        # One is enough: the others are not read.
        pool.shutdown(cancel_futures=True)


def _was_out_of_reach(row: Mapping[str, str]) -> bool:
    """Whether the file could not be opened: the detail begins with its place then, and not where bytes were refused."""
    closed = row[REASON] == "unreadable" and row[DETAIL].startswith((row[URI], shown(row[URI])))
    return bool(row[URI]) and (row[REASON] == "gone" or closed)


def _is_readable(uri: str, *, max_bytes: int) -> bool:
    try:
        if storage.is_local(uri):
            return _is_file(os.fsencode(storage.local_path(uri)), max_bytes)
    except (CnnjobError, OSError, ValueError):
        return False
    return not isinstance(remote.fetch(uri, max_bytes), Refusal)


def _is_file(path: bytes, max_bytes: int) -> bool:
    """Whether it is a file and can be read: of a pipe the other end, and of a device its end, may never come."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        left = max_bytes + 1
        while left > 0 and (piece := os.read(descriptor, min(left, _PIECE_BYTES))):
            left -= len(piece)
        return True
    finally:
        os.close(descriptor)
