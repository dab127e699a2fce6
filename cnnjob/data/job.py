"""Preparing a data set with Ray Data: list, decode units on all CPUs, plan, write the shards, publish at once.

The work is in plain functions; here they are spread, their receipts added up, and the folder put in place.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnnjob import interrupt, storage
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.attempts import count_attempt
from cnnjob.data.contact_sheet import draw_contact_sheet
from cnnjob.data.manifest import Image, Manifest, Split, Statistics, fingerprint_of
from cnnjob.data.place import Place, open_place
from cnnjob.data.plan import DatasetPlan, plan_dataset
from cnnjob.data.published import config_of, difference, manifest_at
from cnnjob.data.remedies import by_reason, check_refused, too_few_to_train
from cnnjob.data.shards import WrittenShard, write_shard
from cnnjob.data.sources.base import Listing, Source, Unit, check_unchanged, cut_units
from cnnjob.data.sources.files import listed_sizes
from cnnjob.data.sources.folder import too_few_classes
from cnnjob.data.spread import spread
from cnnjob.data.staging import StagedUnit, stage_unit, write_listing
from cnnjob.data.statistics import PixelCounts
from cnnjob.digests import digest_of, show_sum
from cnnjob.errors import DatasetError, StorageError
from cnnjob.phases import reached
from cnnjob.progress import Progress
from cnnjob.schema import DATASET_FORMAT_VERSION, ID, LABEL, SPLITS, refused_table
from cnnjob.versions import library_versions

ROWS_PER_UNIT = 1_024
"""Rows that one task decodes, at most. A task costs some 10 ms beside its rows, which are 50 ms of small images."""

BYTES_PER_UNIT = 64_000_000
"""What a task reads, or holds in memory, of its rows' images, about: a second or so of decoding."""


@dataclass(frozen=True)
class Job:
    """A listed job that is about to run.

    Attributes:
        config: What is asked for.
        listing: All rows of the source.
        source_digest: Of its input.
        place: Where it works.
    """

    config: PrepareConfig
    listing: Listing
    source_digest: str
    place: Place


@contextmanager
def begin(config: PrepareConfig, source: Source, progress: Progress) -> Iterator[Job]:
    """List the source and check what can be known before an image is read.

    What is staged is removed when the block ends well or the input was wrong, and kept for the next run of the same
    job when the world failed.

    Raises:
        DatasetError: The source is missing or damaged, has no rows, one class only, or two rows of one id.
        JobError: The same job is at work right now, on this disk.
        OvertakenError: On an object store, another job has published meanwhile.
    """
    digest = source.digest()
    key = digest_of([config_of(config), digest, _versions()])[:12]
    with open_place(config.output, key) as place:
        listing = source.listing(storage.join(place.staging, "unpacked"))
        _check_listing(config, listing)
        before = manifest_at(config.output)
        if before and (how := difference(before, config, digest)):
            progress.note(f"Replacing the data set in {config.output}, which was prepared {how}")
        yield Job(config, listing, digest, place)


def run(job: Job, progress: Progress) -> Manifest:
    """Prepare the data set and publish it. A Ray session must be open.

    Raises:
        RefusedRowsError: More rows were refused than allowed; nothing is published.
        DatasetError: No rows to train on, or of one class only.
        IntegrityError: Files whose rows are known by their place were exchanged meanwhile; nothing is published.
        StorageError: The storage failed; what is staged is kept, and the same job goes on from it.
    """
    units = _stage(job, progress)
    check_refused(units, len(job.listing.rows), job.config)
    plan = plan_dataset(units, job.listing.rows.column(ID), job.config, job.place.tag)
    shards = _write(job, plan, progress)
    manifest = _describe(job, plan, shards)
    _finish(job, manifest, plan)
    # Labels were read once, when the rows were listed, and each unit has looked at the files of its own pictures alone.
    check_unchanged(job.listing.identities)
    interrupt.check()
    job.place.publish(manifest)
    return manifest


def _check_listing(config: PrepareConfig, listing: Listing) -> None:
    rows = listing.rows
    ids = rows.column(ID)
    if pc.count_distinct(ids).as_py() < len(rows):
        counted = pc.value_counts(ids)
        twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
        raise DatasetError(
            f"the source has {len(twice)} ids that more than one row has: {', '.join(sorted(twice.to_pylist())[:10])}. "
            f"Ids name rows in every later table, so they must be unique; nothing was written."
        )
    labels = pc.unique(rows.column(LABEL).drop_null()).to_pylist()
    if len(labels) < 2:  # noqa: PLR2004 - nothing to tell apart
        names = [listing.class_names[label] for label in labels]
        raise DatasetError(f"{_too_few_classes(config, names)} Nothing was written.")


def _too_few_classes(config: PrepareConfig, names: Sequence[str]) -> str:
    """What is wrong where rows have so few classes, in the words of the source."""
    if config.source.kind == "folder":
        return too_few_classes(str(config.source.uri), names, is_given=config.split.method == "given")
    found = f"rows of only the class {names[0]!r}" if names else "no rows"
    return f"the source has {found}; a classifier needs at least two classes."


def _stage(job: Job, progress: Progress) -> list[StagedUnit]:
    config, rows = job.config, len(job.listing.rows)
    units = _units(job)
    listing = storage.join(job.place.staging, "listing.arrow")
    write_listing(listing, job.listing.rows, units)
    task = partial(
        _stage_unit,
        attempts=storage.join(job.place.staging, "attempts", uuid.uuid4().hex),
        listing=listing,
        reader=job.listing.reader,
        config=config,
        keys=job.listing.keys,
        folder=job.place.rows,
    )
    done: list[StagedUnit] = []
    counted = 0
    progress.advance("decoding", 0, rows, "rows")
    try:
        for unit in spread(task, units):
            done.append(unit)
            counted += len(unit.rows) + len(unit.refused)
            progress.advance("decoding", counted, rows, "rows")
    except StorageError as error:
        raise StorageError(
            f"{error} {counted} of {rows} rows were decoded and are kept; nothing was published. "
            f"The same command goes on from there."
        ) from error
    return done


def _stage_unit(unit: Unit, *, attempts: str, **options: Any) -> StagedUnit:
    """Stage one unit; an image that takes its process with it does so a few times and no more."""
    marks = storage.join(attempts, str(unit.number))
    count_attempt(marks, f"decoding rows {unit.start} to {unit.stop - 1} of the listing")
    return stage_unit(unit, **options)


def _units(job: Job) -> list[Unit]:
    """Units of bounded work and memory: what is read and decoded, where that was listed, and what is held of it."""
    image, listing = job.config.image, job.listing
    packed = image.channels * image.height * image.width if image.storage == "packed" else 0
    listed = listed_sizes(listing.rows)
    sizes = None if listed is None else np.maximum(listed, packed)
    rows = max(1, min(ROWS_PER_UNIT, BYTES_PER_UNIT // max(1, packed)))
    row_bytes = max(packed, listing.mean_bytes)
    return cut_units(len(listing.rows), rows, listing.runs, sizes, BYTES_PER_UNIT, row_bytes)


def _write(job: Job, plan: DatasetPlan, progress: Progress) -> list[WrittenShard]:
    if storage.is_local(job.place.folder):
        storage.remove(job.place.folder)
    task = partial(
        write_shard,
        staged=job.place.rows,
        folder=job.place.folder,
        config=job.config,
        keys=job.listing.keys,
        num_classes=len(job.listing.class_names),
    )
    written: list[WrittenShard] = []
    progress.advance("writing shards", 0, len(plan.shards), "shards")
    for shard in spread(task, plan.shards):
        written.append(shard)
        reached("shard", number=len(written))
        progress.advance("writing shards", len(written), len(plan.shards), "shards")
    return sorted(written, key=lambda shard: shard.shard.path)


def _describe(job: Job, plan: DatasetPlan, shards: list[WrittenShard]) -> Manifest:
    config, class_names = job.config, job.listing.class_names
    splits = {split: _split([s for s in shards if s.split == split], len(class_names)) for split in SPLITS}
    train = splits["train"]
    if sum(count > 0 for count in train.class_counts) < 2:  # noqa: PLR2004 - nothing to tell apart
        raise DatasetError(
            f"the training split has {train.rows} rows of {sum(count > 0 for count in train.class_counts)} classes; "
            f"there is nothing to learn from. Nothing was written. {too_few_to_train(config)}."
        )
    pixels = sum((shard.pixels for shard in shards if shard.pixels), PixelCounts.zero(config.image.channels))
    image = Image(channels=config.image.channels, **config.image.model_dump())
    return Manifest(
        format_version=DATASET_FORMAT_VERSION,
        fingerprint=fingerprint_of(class_names, image, splits),
        class_names=class_names,
        image=image,
        splits=splits,
        statistics=Statistics(
            mean=tuple(pixels.mean),
            std=tuple(pixels.std),
            pixel_histogram=tuple(tuple(row) for row in pixels.counts.tolist()),
            class_shares=tuple(count / train.rows for count in train.class_counts),
        ),
        rows_in=len(job.listing.rows),
        refused=by_reason(plan.refused),
        refused_table=f"refused{job.place.tag}.parquet",
        contact_sheet=f"contact_sheet{job.place.tag}.png",
        duplicates=plan.duplicates,
        passed_over=dict(job.listing.passed_over),
        source={"digest": job.source_digest, "rows": len(job.listing.rows)},
        config=config_of(config),
        versions=_versions(),
    )


def _split(shards: list[WrittenShard], num_classes: int) -> Split:
    counts = [sum(shard.class_counts[label] for shard in shards) for label in range(num_classes)]
    return Split(
        rows=sum(shard.shard.rows for shard in shards),
        class_counts=tuple(counts),
        shards=tuple(shard.shard for shard in shards),
        fingerprint=show_sum(sum(shard.row_digest for shard in shards)),
    )


def _finish(job: Job, manifest: Manifest, plan: DatasetPlan) -> None:
    """What stands beside the shards, for people."""
    sink = pa.BufferOutputStream()
    pq.write_table(refused_table(plan.refused), sink)
    storage.write_bytes(storage.join(job.place.folder, manifest.refused_table), sink.getvalue())
    sheet = draw_contact_sheet(job.place.folder, manifest, plan.refused)
    storage.write_bytes(storage.join(job.place.folder, manifest.contact_sheet), sheet)


def _versions() -> dict[str, str]:
    return library_versions("cnnjob", "pyarrow", "pillow", "imagecodecs", "ray")
