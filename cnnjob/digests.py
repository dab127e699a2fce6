"""SHA-256 of bytes, of documents, and of sets of rows."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

SPAN = 2**256


def sha256(content: Any) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def digest_of(document: Any) -> str:
    """SHA-256 of a document of plain values, independent of the order of its keys."""
    return sha256(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode())


def sum_of_digests(parts: Iterable[bytes]) -> int:
    """Sum of the SHA-256 digests of the parts, modulo 2**256: a digest of a multiset, whatever its order.

    Sums of several sets add up to that of their union, so shards can be digested apart. See "incremental
    hashing" (Bellare and Micciancio, 1997), where this is AdHash.
    """
    total = 0
    for part in parts:
        total += int.from_bytes(hashlib.sha256(part).digest())
    return total % SPAN


def show_sum(total: int) -> str:
    """A sum of digests as 64 hexadecimal digits."""
    return f"{total % SPAN:064x}"
