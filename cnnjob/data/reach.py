"""Files that were out of reach when rows were refused: nothing in a listing tells when they can be read again."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from cnnjob import storage
from cnnjob.errors import CnnjobError
from cnnjob.schema import DETAIL, REASON, URI

_REASONS = {"gone", "unreadable"}
_LOOKS_AT_ONCE = 16


def may_return(refused: Mapping[str, int]) -> bool:
    """Whether there can be such files among rows refused, by reason; where not, the table need not be read."""
    return bool(refused.keys() & _REASONS)


def any_within_reach(refused: Iterable[Mapping[str, str]]) -> bool:
    """Whether one of the files that were out of reach can be read now.

    Args:
        refused: Rows as in ``schema.REFUSED``.
    """
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        return any(pool.map(_is_readable, {row[URI] for row in refused if _was_out_of_reach(row)}))


def _was_out_of_reach(row: Mapping[str, str]) -> bool:
    """Whether the file could not be opened: the detail begins with its place then, and not where bytes were refused."""
    closed = row[REASON] == "unreadable" and row[DETAIL].startswith(row[URI])
    return bool(row[URI]) and (row[REASON] == "gone" or closed)


def _is_readable(uri: str) -> bool:
    try:
        storage.read_bounded(uri, 0)
    except (CnnjobError, OSError, ValueError):
        return False
    return True
