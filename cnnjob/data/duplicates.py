"""The same picture in two splits: a test that was trained on flatters a model.

Pictures are compared by a digest of their canonical pixels, whatever their names, formats and labels.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from cnnjob.data.split import TEST, TRAIN, VAL
from cnnjob.schema import SPLITS

_PREFERENCE = {TRAIN: 0, TEST: 1, VAL: 2}
"""A picture stays where it comes first in this order: training rows are never dropped, and the test is not thinned
for the sake of the validation."""


@dataclass(frozen=True)
class Duplicates:
    """Pictures that are in two splits.

    Attributes:
        rows: int64, evaluation rows whose picture is also in a preferred split, ascending.
        originals: int64, for each of them a row of that split with the same picture.
        counted: How many, by the two splits, such as ``train, test``.
    """

    rows: np.ndarray
    originals: np.ndarray
    counted: dict[str, int]


def find_duplicates(pictures: np.ndarray, splits: np.ndarray) -> Duplicates:
    """Find them.

    Args:
        pictures: uint64 N x 2, digests of the pixels.
        splits: int8 N, indices into ``schema.SPLITS``.
    """
    preference = np.array([_PREFERENCE[split] for split in range(len(SPLITS))])[splits]
    order = np.lexsort((preference, pictures[:, 1], pictures[:, 0]))
    found = pictures[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (found[1:] != found[:-1]).any(axis=1)
    leader = order[np.flatnonzero(first)[np.cumsum(first) - 1]] if len(order) else order
    doubled = splits[order] != splits[leader]
    rows, originals = order[doubled], leader[doubled]
    ascending = np.argsort(rows)
    rows, originals = rows[ascending], originals[ascending]
    pairs = Counter(zip(splits[originals].tolist(), splits[rows].tolist(), strict=True))
    return Duplicates(
        rows, originals, {f"{SPLITS[kept]}, {SPLITS[row]}": count for (kept, row), count in sorted(pairs.items())}
    )
