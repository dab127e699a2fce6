"""How long a million rows take to be listed and planned, and how much memory: `python -m tests.benchmarks.listing`.

The listing is synthetic: the walk over the folder is replaced by a million names; everything after it is the product's.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.plan import plan_dataset
from cnnjob.data.sources.base import cut_units
from cnnjob.data.sources.open import open_source
from cnnjob.data.sources.walk import Found, Walk
from cnnjob.data.split import draw_of, place_of
from cnnjob.data.staging import StagedUnit
from cnnjob.schema import ID, LABEL
from tests.piles import source_config

ROWS_PER_UNIT = 512


def main() -> None:
    """Print seconds and megabytes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    print(json.dumps(measure(parser.parse_args().rows), indent=1))  # noqa: T201 - a benchmark's output


def measure(rows: int) -> dict[str, float]:
    """Seconds of each step, and the growth of the peak memory over all of them in MB."""
    before = peak_mb()
    steps = {"rows": float(rows)}

    def names(_: Walk) -> Iterator[Found]:
        # In no order, as a file system has them.
        for number in range(rows):
            scattered = (number * 7_919) % rows
            yield Found(b"class-%02d/2026/01/31/%08d.jpeg" % (scattered % 50, scattered), 1000 + scattered, scattered)

    config = source_config("folder", "/")
    with mock.patch.object(Walk, "files", names):
        source = open_source(config)
        steps["listed_s"], _ = timed(source.digest)
        steps["classes_s"], listing = timed(lambda: source.listing(""))
    units = cut_units(len(listing.rows), ROWS_PER_UNIT)
    start = time.perf_counter()
    staged = [as_staged(listing.rows.slice(u.start, u.stop - u.start), u.start, u.number, config) for u in units]
    steps["hashed_s"] = time.perf_counter() - start
    steps["planned_s"], plan = timed(lambda: plan_dataset(staged, listing.rows.column(ID), config))
    assert sum(len(shard.units) for shard in plan.shards) == rows
    return steps | {"units": float(len(units)), "shards": float(len(plan.shards)), "peak_growth_mb": peak_mb() - before}


def as_staged(rows: pa.Table, start: int, number: int, config: PrepareConfig) -> StagedUnit:
    """What a task would return of these rows."""
    ids = rows.column(ID).to_pylist()
    places = np.array([place_of(row_id, config.split) for row_id in ids], np.uint64)
    draws = np.array([draw_of(row_id, config.split) for row_id in ids], np.uint64)
    numbers = np.arange(start, start + len(ids))
    pictures = np.stack([places, draws], axis=1)
    labels, given = rows.column(LABEL).to_numpy(), np.full(len(ids), -1, np.int8)
    return StagedUnit(number, numbers, places, draws, given, labels, pictures, len(ids) * 3072, [])


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def peak_mb() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
