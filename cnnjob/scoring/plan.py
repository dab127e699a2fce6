"""What a scoring job will do, decided before it starts: a function of (listing, config, model digest).

Units are what one call reads, scores and writes. A unit's name is a digest of everything that can change one of
its rows, so a finished unit is recognized by its name alone, whichever run wrote it.
"""

from dataclasses import dataclass

from cnnjob import storage
from cnnjob.config.score import ScoreConfig
from cnnjob.data.manifest import Manifest, Shard
from cnnjob.data.rows import Span
from cnnjob.schema import SCORES_FORMAT_VERSION, SPLITS


@dataclass(frozen=True)
class ScoringModel:
    """What the plan needs to know of the model.

    Attributes:
        name: Registered name.
        version: Its version.
        digest: Digest of its bundle.
        class_names: In the order of the probabilities.
        shape: Channels, height, width.
    """

    name: str
    version: str
    digest: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Unit:
    """One piece of the work.

    Attributes:
        name: Digest of what it reads and of what it is scored with.
        number: Its place in the plan; parts are in this order.
        spans: Rows of shards, in order.
        rows: How many.
    """

    name: str
    number: int
    spans: tuple[Span, ...]
    rows: int


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
    context = {
        "format_version": SCORES_FORMAT_VERSION,
        "model": [model.name, model.version, model.digest],
        "probabilities": config.probabilities,
    }
    units = []
    for number, spans in enumerate(_cut(shards, config.units.target_rows)):
        entries = [[span.shard.path, span.shard.sha256, span.start, span.stop] for span in spans]
        rows = sum(span.stop - span.start for span in spans)
        units.append(Unit(storage.digest_of({**context, "entries": entries}), number, spans, rows))
    return Plan(
        digest=storage.digest_of([unit.name for unit in units]),
        listing_digest=storage.digest_of([[shard.path, shard.sha256] for shard in shards]),
        units=tuple(units),
        rows=sum(unit.rows for unit in units),
    )


def _cut(shards: list[Shard], target_rows: int) -> list[tuple[Span, ...]]:
    """Runs of at most ``target_rows`` rows, in order: small shards together, large ones in pieces."""
    found: list[tuple[Span, ...]] = []
    current: list[Span] = []
    room = target_rows
    for shard in shards:
        start = 0
        while start < shard.rows:
            stop = min(shard.rows, start + room)
            current.append(Span(shard, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                found.append(tuple(current))
                current, room = [], target_rows
    return [*found, tuple(current)] if current else found
