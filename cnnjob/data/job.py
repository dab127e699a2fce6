"""Preparing a data set with Ray Data: decode units on all CPUs, then write the shards, then publish at once.

The work is in plain functions; here they are spread, their receipts added up, and the folder put in place.
"""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.decode import Refusal, canonical
from cnnjob.data.manifest import (
    MANIFEST,
    REFUSED_TABLE,
    Image,
    Manifest,
    Split,
    Statistics,
    fingerprint_of,
    read_manifest,
)
from cnnjob.data.shards import PLACE, ShardPlan, WrittenShard, plan_shards, rows_per_shard, stage_rows, write_shard
from cnnjob.data.sources.base import Source, Unit, cut_units, describe
from cnnjob.data.split import place_of, split_of
from cnnjob.data.spread import spread
from cnnjob.data.statistics import PixelCounts
from cnnjob.errors import DatasetError, IntegrityError, RefusedRowsError, UserError
from cnnjob.progress import Progress
from cnnjob.schema import (
    DATASET_FORMAT_VERSION,
    DETAIL,
    ID,
    IMAGE,
    LABEL,
    REASON,
    SPLITS,
    URI,
    dataset_schema,
    refused_table,
)
from cnnjob.versions import library_versions

ROWS_PER_UNIT = 512
"""Rows that one task decodes: a second or so of work, and a few MB at 32x32."""


@dataclass(frozen=True)
class StagedUnit:
    """What a decoded unit left in the staging folder.

    Attributes:
        files: URI of the staged rows, by split.
        places: uint64 places of those rows, by split.
        pixels: Counts over its training rows.
        refused: Its refused rows, as in ``schema.REFUSED``.
        rows: Rows read.
    """

    files: dict[str, str]
    places: dict[str, np.ndarray]
    pixels: PixelCounts
    refused: list[dict[str, str]]
    rows: int


def current(config: PrepareConfig, source: Source) -> Manifest | None:
    """The data set that is already there, if this source and config made it and all its files are in place."""
    try:
        manifest = read_manifest(config.output)
    except (UserError, IntegrityError):
        return None
    same = manifest.config == _config_of(config) and manifest.source == describe(source)
    sizes = (
        (storage.size(storage.join(config.output, s.path)), s.bytes)
        for split in manifest.splits.values()
        for s in split.shards
    )
    return manifest if same and all(found == said for found, said in sizes) else None


def refuse_foreign(output: str) -> None:
    """Refuse to replace a folder that is not a prepared data set.

    Raises:
        DatasetError: The output exists and has no manifest.
    """
    if storage.list_files(output) and not storage.exists(storage.join(output, MANIFEST)):
        raise DatasetError(
            f"{output} exists and is not a prepared data set, and would be replaced. Choose another output."
        )


def run(config: PrepareConfig, source: Source, progress: Progress) -> Manifest:
    """Prepare a data set and publish it. A Ray session must be open.

    Raises:
        RefusedRowsError: More rows were refused than allowed; nothing is published.
        DatasetError: Duplicate ids, or no rows to train on.
    """
    output = storage.local_path(config.output)
    _remove_leftovers(output)
    staging = output.with_name(f".{output.name}{storage.TEMPORARY_MARK}{uuid.uuid4().hex[:8]}")
    try:
        units = _stage(config, source, staging, progress)
        _check_refused(config, units, source.num_rows)
        shards = _write(config, source, units, staging / "dataset", progress)
        manifest = _describe(config, source, units, shards)
        _finish(manifest, units, staging / "dataset")
        storage.publish_folder(staging / "dataset", output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def stage_unit(unit: Unit, *, source: Source, config: PrepareConfig, folder: str) -> StagedUnit:
    """Decode one unit and stage its rows by split. A plain function: it needs no Ray."""
    image = config.image
    columns: dict[str, dict[str, list[Any]]] = {split: {PLACE: [], ID: [], IMAGE: [], LABEL: []} for split in SPLITS}
    refused = []
    pixels = PixelCounts.zero(image.channels)
    for raw in source.read(unit):
        found = canonical(raw.pixels, image)
        if isinstance(found, Refusal):
            refused.append({ID: raw.id, URI: raw.uri, REASON: found.reason, DETAIL: found.detail})
            continue
        split = split_of(raw.id, config.split)
        if split == "train":
            pixels += PixelCounts.of(found[None])
        row = {PLACE: place_of(raw.id, config.split), ID: raw.id, IMAGE: found.tobytes(), LABEL: raw.label}
        for name, value in row.items():
            columns[split][name].append(value)
    schema = _schema(config).insert(0, pa.field(PLACE, pa.uint64()))
    files, places = {}, {}
    for split, values in columns.items():
        if values[ID]:
            files[split] = storage.join(folder, f"{split}-{unit.number:06d}.arrow")
            places[split] = stage_rows(files[split], pa.table(values, schema=schema))
    return StagedUnit(files, places, pixels, refused, unit.stop - unit.start)


def _stage(config: PrepareConfig, source: Source, staging: Path, progress: Progress) -> list[StagedUnit]:
    task = partial(stage_unit, source=source, config=config, folder=str(staging / "rows"))
    done = []
    rows = 0
    for unit in spread(task, cut_units(source.num_rows, ROWS_PER_UNIT), num_cpus=1):
        done.append(unit)
        rows += unit.rows
        progress.advance("decoding", rows, source.num_rows, "rows")
    return done


def _write(
    config: PrepareConfig, source: Source, units: list[StagedUnit], folder: Path, progress: Progress
) -> list[WrittenShard]:
    image = config.image
    rows = rows_per_shard(image.channels * image.height * image.width, config.shards)
    plans = list(_plans(units, rows))
    staged = {split: sorted(unit.files[split] for unit in units if split in unit.files) for split in SPLITS}

    def task(plan: ShardPlan) -> WrittenShard:
        num_classes = len(source.class_names)
        return write_shard(plan, staged[plan.split], str(folder), _schema(config), config.shards, num_classes)

    written = []
    for shard in spread(task, plans, num_cpus=1):
        written.append(shard)
        progress.advance("writing shards", len(written), len(plans), "shards")
    duplicates = [name for shard in written for name in shard.duplicate_ids]
    if duplicates:
        raise DatasetError(
            f"the source has rows with the same id: {', '.join(sorted(duplicates)[:10])}. Ids name rows in every "
            f"later table, so they must be unique; nothing was written."
        )
    return sorted(written, key=lambda shard: shard.shard.path)


def _plans(units: list[StagedUnit], rows: int) -> Iterator[ShardPlan]:
    for split in SPLITS:
        places = [unit.places[split] for unit in units if split in unit.places]
        yield from plan_shards(split, np.concatenate(places or [np.empty(0, np.uint64)]), rows)


def _check_refused(config: PrepareConfig, units: list[StagedUnit], rows: int) -> None:
    reasons = _refused_by_reason(units)
    refused = sum(reasons.values())
    bound = config.limits.max_refused_share
    if refused > bound * rows:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        first = next(row for unit in units for row in unit.refused)
        raise RefusedRowsError(
            f"{refused} of {rows} rows were refused ({counted}), such as {first[URI]}: {first[DETAIL]}. "
            f"limits.max_refused_share is {bound}; nothing was written."
        )


def _describe(config: PrepareConfig, source: Source, units: list[StagedUnit], shards: list[WrittenShard]) -> Manifest:
    splits = {split: _split([s for s in shards if s.split == split], len(source.class_names)) for split in SPLITS}
    if not splits["train"].rows:
        raise DatasetError("the training split has no rows; there is nothing to learn from. Nothing was written.")
    pixels = sum((unit.pixels for unit in units), PixelCounts.zero(config.image.channels))
    train = splits["train"]
    image = Image(channels=config.image.channels, **config.image.model_dump())
    class_names = tuple(source.class_names)
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
        rows_in=source.num_rows,
        refused=_refused_by_reason(units),
        source=describe(source),
        config=_config_of(config),
        versions=library_versions("cnnjob", "pyarrow", "pillow", "ray"),
    )


def _split(shards: list[WrittenShard], num_classes: int) -> Split:
    counts = [sum(shard.class_counts[label] for shard in shards) for label in range(num_classes)]
    return Split(
        rows=sum(shard.shard.rows for shard in shards),
        class_counts=tuple(counts),
        shards=tuple(shard.shard for shard in shards),
        fingerprint=storage.show_sum(sum(shard.row_digest for shard in shards)),
    )


def _finish(manifest: Manifest, units: list[StagedUnit], folder: Path) -> None:
    table = refused_table(
        [row for unit in sorted(units, key=lambda u: min(u.files.values(), default="")) for row in unit.refused]
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.sort_by(ID), folder / REFUSED_TABLE)
    storage.write_json(str(folder / MANIFEST), manifest.model_dump(mode="json"))


def _refused_by_reason(units: list[StagedUnit]) -> dict[str, int]:
    reasons = [row[REASON] for unit in units for row in unit.refused]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _schema(config: PrepareConfig) -> pa.Schema:
    image = config.image
    return dataset_schema((image.channels, image.height, image.width), image.color)


def _config_of(config: PrepareConfig) -> dict[str, Any]:
    """The config as the manifest keeps it: where the data set lies is not part of what it is."""
    return config.model_dump(mode="json", exclude={"output"})


def _remove_leftovers(output: Path) -> None:
    """Remove what killed runs for the same output left beside it."""
    for leftover in output.parent.glob(f".{output.name}{storage.TEMPORARY_MARK}*"):
        shutil.rmtree(leftover, ignore_errors=True)
