"""Between the two passes of preparing: which split each row goes to, what is dropped, and the shards.

Functions of what the staged units say; no picture is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.duplicates import Duplicates, find_duplicates
from cnnjob.data.shards import ShardPlan, cut_shards, rows_per_shard
from cnnjob.data.split import assign
from cnnjob.data.staging import StagedUnit
from cnnjob.schema import DETAIL, ID, REASON, SPLITS, URI

_DROPPED = -1


@dataclass(frozen=True)
class DatasetPlan:
    """What the second pass writes.

    Attributes:
        shards: In order.
        refused: Every row that is in no shard, as in ``schema.REFUSED``, in order of id.
        duplicates: Pictures in two splits, by the splits.
    """

    shards: tuple[ShardPlan, ...]
    refused: list[dict[str, str]]
    duplicates: dict[str, int]


def plan_dataset(
    units: Sequence[StagedUnit], ids: pa.ChunkedArray, config: PrepareConfig, tag: str = ""
) -> DatasetPlan:
    """Plan the shards.

    Args:
        units: All staged units, in any order.
        ids: Of the listing.
        config: Splits, duplicates, size of shards.
        tag: A part of the files' names, for folders in which several versions lie for a while.
    """
    ordered = sorted(units, key=lambda unit: unit.number)
    draws, given, labels, places, rows, pictures = (
        np.concatenate([getattr(unit, name) for unit in ordered])
        for name in ("draws", "given", "labels", "places", "rows", "pictures")
    )
    sizes = [len(unit.rows) for unit in ordered]
    numbers = np.repeat(np.array([unit.number for unit in ordered], dtype=np.int32), sizes)
    positions = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    splits = assign(draws, given, labels, config.split)
    duplicates = find_duplicates(pictures, splits)
    refused = [row for unit in ordered for row in unit.refused]
    if config.split.duplicates == "drop":
        refused += _dropped(duplicates, splits, rows, ids)
        splits = splits.copy()
        splits[duplicates.rows] = _DROPPED
    limit = rows_per_shard(sum(unit.image_bytes for unit in ordered) / max(1, len(rows)) or 1, config.shards)
    shards = []
    for code, split in enumerate(SPLITS):
        chosen = np.flatnonzero(splits == code)
        chosen = chosen[_order(places[chosen], rows[chosen], ids)]
        for number, (start, stop) in enumerate(cut_shards(len(chosen), limit)):
            part = chosen[start:stop]
            shards.append(ShardPlan(split, f"{split}/{number:05d}{tag}.parquet", numbers[part], positions[part]))
    return DatasetPlan(tuple(shards), sorted(refused, key=lambda row: row[ID]), duplicates.counted)


def _order(places: np.ndarray, rows: np.ndarray, ids: pa.ChunkedArray) -> np.ndarray:
    """By place; rows of the same place, which 64 bits make rare, by id."""
    order = np.argsort(places, kind="stable")
    found = places[order]
    for place in np.unique(found[1:][found[1:] == found[:-1]]):
        start, stop = np.searchsorted(found, place, "left"), np.searchsorted(found, place, "right")
        tied = order[start:stop]
        names = ids.take(pa.array(rows[tied])).to_pylist()
        order[start:stop] = tied[sorted(range(len(tied)), key=names.__getitem__)]
    return order


def _dropped(
    duplicates: Duplicates, splits: np.ndarray, rows: np.ndarray, ids: pa.ChunkedArray
) -> list[dict[str, str]]:
    names = ids.take(pa.array(rows[duplicates.rows])).to_pylist()
    originals = ids.take(pa.array(rows[duplicates.originals])).to_pylist()
    kept_in = [SPLITS[split] for split in splits[duplicates.originals]]
    return [
        {ID: name, URI: name, REASON: "duplicate_image", DETAIL: f"the same picture is {original} in {split}"}
        for name, original, split in zip(names, originals, kept_in, strict=True)
    ]
