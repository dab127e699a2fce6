"""What a scoring job will do, decided before it starts: a function of (inputs, config, model digest).

Units are what one call reads, scores and writes. A unit's name is a digest of everything that can change one of
its rows, so a finished unit is recognized by its name alone, whichever run wrote it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from cnnjob.config.score import ScoreConfig
from cnnjob.data.manifest import Manifest, Shard
from cnnjob.data.rows import Span
from cnnjob.data.sources.base import rows_of_next
from cnnjob.digests import digest_of
from cnnjob.schema import SCORES_FORMAT_VERSION, SPLITS

UNIT_ROWS = (16_384, 65_536)
"""Least and most rows of a unit, where there are as many. Fewer would make a table of too many small files."""

UNIT_FLOPS = 250_000_000_000
"""Of a unit, on a CPU: a second or two of a core. Each unit costs some milliseconds beside its rows, and what is lost
with a process, or waited for at the end of a job, is a unit."""

UNIT_PROBABILITIES = 1 << 24
"""Of a unit: 64 MiB, which are held until it is written."""


@dataclass(frozen=True)
class ScoringModel:
    """What the plan needs to know of the model.

    Attributes:
        name: Registered name.
        version: Its version.
        digest: Digest of its bundle.
        class_names: In the order of the probabilities.
        shape: Channels, height, width.
        flops: Floating point operations for one image.
    """

    name: str
    version: str
    digest: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    flops: int


@dataclass(frozen=True)
class Unit:
    """One piece of the work.

    Attributes:
        name: Digest of what it reads and of what it is scored with.
        number: Its place in the plan; parts are in this order.
        rows: How many it reads.
        spans: Rows of shards, in order; none where it is a batch of a listing.
    """

    name: str
    number: int
    rows: int
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The whole work.

    Attributes:
        digest: Digest of all units' names: the same inputs, model and config give the same plan.
        listing_digest: Digest of the inputs alone.
        units: In order.
        rows: Rows in.
    """

    digest: str
    listing_digest: str
    units: tuple[Unit, ...]
    rows: int


def plan_dataset(config: ScoreConfig, manifest: Manifest, model: ScoringModel) -> Plan:
    """Plan the scoring of a split of a prepared data set."""
    names = SPLITS if config.input.split == "all" else (str(config.input.split),)
    shards = [shard for name in names for shard in manifest.splits[name].shards]
    encoded = manifest.image.storage == "encoded"
    cuts = list(_cut(shards, rows_of_encoded(config, model.shape) if encoded else rows_of_packed(config, model)))
    entries = [[[span.shard.path, span.shard.sha256, span.start, span.stop] for span in spans] for spans in cuts]
    rows = [sum(span.stop - span.start for span in spans) for spans in cuts]
    listed = digest_of([[shard.path, shard.sha256] for shard in shards])
    return assemble(context_of(config, model), entries, rows, listed, cuts)


def context_of(config: ScoreConfig, model: ScoringModel, *more: Any) -> dict[str, Any]:
    """What can change a row, beside the row itself: the model, the config's keys that do, the format's version."""
    # A GPU's probabilities are those of a CPU but for the last bits, and bfloat16's are others.
    on_gpu = {"gpu": config.engine.precision} if config.engine.use_gpu else {}
    return {
        **on_gpu,
        "format_version": SCORES_FORMAT_VERSION,
        "model": [model.name, model.version, model.digest],
        "probabilities": config.probabilities,
        "more": more,
    }


def rows_of_packed(config: ScoreConfig, model: ScoringModel) -> int:
    """Rows in a unit of packed images, at most: what the config says, or what the model's work says."""
    least, most = UNIT_ROWS
    fitting = most if config.engine.use_gpu else min(most, UNIT_FLOPS // model.flops)
    return config.units.target_rows or max(least, min(fitting, UNIT_PROBABILITIES // len(model.class_names)))


def rows_of_encoded(config: ScoreConfig, shape: tuple[int, int, int]) -> int:
    """Rows in a unit of images that are decoded for it, at most: decoding takes what only the images know.

    Where a GPU scores what CPUs decode, all images of a unit travel between processes, within ``target_bytes``.
    """
    least, most = UNIT_ROWS
    if not config.engine.use_gpu:
        return config.units.target_rows or least
    return max(1, min(config.units.target_rows or most, config.units.target_bytes // prod(shape)))


def assemble(
    context: dict[str, Any],
    entries: Sequence[Any],
    rows: Sequence[int],
    listing_digest: str,
    spans: Sequence[tuple[Span, ...]] = (),
) -> Plan:
    """A plan from its units' entries.

    Args:
        context: See ``context_of``.
        entries: Of each unit, plain values that identify all it reads.
        rows: Of each unit.
        listing_digest: Of the inputs.
        spans: Of each unit, for a prepared data set.
    """
    names: list[str] = []
    again = Counter[str]()
    for entry in entries:
        name = digest_of({**context, "entries": entry})
        again[name] += 1
        # A listing may repeat a whole unit, row by row; each of them has its own refused rows to tell.
        names.append(name if again[name] == 1 else digest_of([name, again[name]]))
    units = tuple(Unit(name, number, rows[number], spans[number] if spans else ()) for number, name in enumerate(names))
    # Which model and config it was is in the digest of the whole too, where there is no unit.
    digest = digest_of([context, *(unit.name for unit in units)])
    return Plan(digest, listing_digest, units, sum(rows))


def _cut(shards: Sequence[Shard], target_rows: int) -> Iterator[tuple[Span, ...]]:
    """Runs of rows in order, as ``rows_of_next`` has them: small shards together, large ones in pieces."""
    left = sum(shard.rows for shard in shards)
    current: list[Span] = []
    room = rows_of_next(left, target_rows)
    for shard in shards:
        start = 0
        while start < shard.rows:
            stop = min(shard.rows, start + room)
            current.append(Span(shard, start, stop))
            room -= stop - start
            left -= stop - start
            start = stop
            if room == 0:
                yield tuple(current)
                current, room = [], rows_of_next(left, target_rows)
