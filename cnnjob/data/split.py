"""Which split a row belongs to, and where it lies in the shards.

BLAKE2b, keyed by purpose, gives 64 uniform bits for each row from its id and the seed. By `hash` a row therefore
keeps its split and its place among others when data grow, whatever the order of the listing and the number of
workers.
"""

import hashlib

import numpy as np

from cnnjob.config.prepare import SplitConfig
from cnnjob.schema import SPLITS

_SPAN = 2.0**64
TRAIN, VAL, TEST = range(len(SPLITS))


def hash64(seed: int, purpose: str, row_id: str) -> int:
    """64 bits that depend on the seed, the purpose and the id only; uniform over 0 .. 2**64 - 1."""
    key = f"{purpose}:{seed}".encode()
    return int.from_bytes(hashlib.blake2b(row_id.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest())


def draw_of(row_id: str, config: SplitConfig) -> int:
    """What decides a row's split: uniform over 0 .. 2**64 - 1."""
    return hash64(config.seed, "split", row_id)


def place_of(row_id: str, config: SplitConfig) -> int:
    """The key by which rows are ordered within a split (ties: by id): a shuffle that any worker can compute."""
    return hash64(config.seed, "place", row_id)


def assign(draws: np.ndarray, given: np.ndarray, labels: np.ndarray, config: SplitConfig) -> np.ndarray:
    """The split of every row.

    Args:
        draws: uint64, see ``draw_of``.
        given: int8, what the source says; -1 where it says nothing.
        labels: int32.
        config: The method and the shares.

    Returns:
        int8 indices into ``schema.SPLITS``. A row's is the same in any order of the rows.
    """
    match config.method:
        case "hash":
            return _by_hash(draws, config.val, config.test)
        case "stratified":
            return _stratified(draws, labels, config)
        case "given":
            return _given(draws, given, config)


def _by_hash(draws: np.ndarray, val: float, test: float) -> np.ndarray:
    """Shares hold approximately: each is a probability, the same for every row."""
    shares = draws.astype(np.float64) / _SPAN
    return np.where(shares < test, TEST, np.where(shares < test + val, VAL, TRAIN)).astype(np.int8)


def _stratified(draws: np.ndarray, labels: np.ndarray, config: SplitConfig) -> np.ndarray:
    """In each class the rows with the smallest draws are tested, the next ones validated; shares are rounded."""
    splits = np.full(len(draws), TRAIN, dtype=np.int8)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(draws[rows], kind="stable")]
        test, val = round(config.test * len(rows)), round(config.val * len(rows))
        splits[rows[:test]] = TEST
        splits[rows[test : test + val]] = VAL
    return splits


def _given(draws: np.ndarray, given: np.ndarray, config: SplitConfig) -> np.ndarray:
    """As the source says; where it has none for validation or test, a share of its training rows, by hash."""
    val = config.val if not (given == VAL).any() else 0.0
    test = config.test if not (given == TEST).any() else 0.0
    return np.where(given == TRAIN, _by_hash(draws, val, test), given).astype(np.int8)
