"""Which split a row belongs to, and where it lies in the shards: functions of its id and the seed alone.

BLAKE2b, keyed by purpose, gives 64 uniform bits for each row. A row therefore keeps its split and its place
among others when data grow, whatever the order of the listing and the number of workers.
"""

import hashlib

from cnnjob.config.prepare import SplitConfig

_SPAN = 2**64


def hash64(seed: int, purpose: str, row_id: str) -> int:
    """64 bits that depend on the seed, the purpose and the id only; uniform over 0 .. 2**64 - 1."""
    key = f"{purpose}:{seed}".encode()
    return int.from_bytes(hashlib.blake2b(row_id.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest())


def split_of(row_id: str, config: SplitConfig) -> str:
    """The split of a row. Shares hold approximately: each is a probability, the same for every row."""
    share = hash64(config.seed, "split", row_id) / _SPAN
    if share < config.test:
        return "test"
    return "val" if share < config.test + config.val else "train"


def place_of(row_id: str, config: SplitConfig) -> int:
    """The key by which rows are ordered within a split (ties: by id): a shuffle that any worker can compute."""
    return hash64(config.seed, "place", row_id)
