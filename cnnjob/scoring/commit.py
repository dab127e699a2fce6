"""Verify what was written, then publish it at once, and tell what is published.

A table has a root, where only committed parts lie (``date=D/NAME.parquet``), and a sibling ``ROOT.meta`` for
everything else: ``date=D/manifest.json``, receipts, quarantine, staging. Publishing a date on a local disk:

1. The parts are linked under names unique to the version into a folder beside the root.
2. ``manifest.next.json`` is written: what is about to be published.
3. The folder is exchanged with ``date=D`` in one step of the kernel.
4. ``manifest.next.json`` becomes ``manifest.json``.

Killed before 3, the old version stands; killed after it, the new one does, and ``recover`` finishes step 4.
"""

import datetime as dt
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import storage
from cnnjob.data.statistics import LEVELS
from cnnjob.errors import FormatVersionError, IntegrityError
from cnnjob.schema import ID, SCORES_FORMAT_VERSION, refused_table
from cnnjob.scoring.plan import Plan, ScoringModel, Unit
from cnnjob.scoring.work import Receipt, ids_digest, part_uri

MANIFEST = "manifest.json"
NEXT = "manifest.next.json"


@dataclass(frozen=True)
class Part:
    """A published file: its name in the date's folder, rows, bytes and hash."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ScoresManifest:
    """What a date says of itself.

    Attributes:
        format_version: Of this document and the table.
        date: YYYY-MM-DD.
        version: Unique to this publication; part of its parts' names.
        plan_digest: The plan it came from: the same inputs, model and config.
        listing_digest: Of the inputs.
        rows: Rows in the table.
        refused: Rows in quarantine, by reason.
        parts: The files, in the order of the plan.
        model: Name, version and digest.
        class_names: In the order of the probabilities.
        counts: Rows by predicted class.
        pixels: Counts of pixel values over a sample of rows, for drift.
        scored_at: When the plan was made.
        config: The resolved config.
        replaced: The version before; None for the first.
    """

    format_version: int
    date: str
    version: str
    plan_digest: str
    listing_digest: str
    rows: int
    refused: dict[str, int]
    parts: list[Part]
    model: dict[str, str]
    class_names: list[str]
    counts: list[int]
    pixels: list[list[int]]
    scored_at: str
    config: dict[str, Any]
    replaced: str | None


@dataclass(frozen=True)
class Table:
    """Where one date of a table lies.

    Attributes:
        root: URI of the table.
        date: The date.
    """

    root: str
    date: dt.date

    @property
    def partition(self) -> str:
        """Folder of the committed parts."""
        return storage.join(self.root, f"date={self.date.isoformat()}")

    @property
    def meta(self) -> str:
        """Folder of everything else about the date."""
        return storage.join(f"{self.root.rstrip('/')}.meta", f"date={self.date.isoformat()}")

    def staging(self, plan: Plan) -> str:
        """Folder of a plan's unpublished parts and receipts."""
        return storage.join(self.meta, "staging", plan.digest[:32])


def current(table: Table) -> ScoresManifest | None:
    """What is published for the date; None where nothing is.

    Raises:
        FormatVersionError: It was published in another version of the format.
    """
    return _read(storage.join(table.meta, MANIFEST))


def recoverable(table: Table) -> list[ScoresManifest]:
    """The manifests whose version may be the one in place: the published one, and one that is coming."""
    found = (_read(storage.join(table.meta, name)) for name in (MANIFEST, NEXT))
    return [manifest for manifest in found if manifest is not None]


def recover(table: Table) -> ScoresManifest | None:
    """Finish a publication that was killed after its exchange, and return what is published."""
    coming = _read(storage.join(table.meta, NEXT))
    if coming is not None:
        present = set(storage.list_files(table.partition))
        if present == {part.name for part in coming.parts}:
            meta = storage.local_path(table.meta)
            (meta / NEXT).replace(meta / MANIFEST)
        else:
            storage.remove(storage.join(table.meta, NEXT))
    return current(table)


def verify(table: Table, plan: Plan, receipts: Sequence[Receipt], expected_ids: int) -> None:
    """Check the staged parts against the plan, as they are read back from storage; receipts are not believed.

    Args:
        table: The date.
        plan: What was to be done.
        receipts: One for each unit.
        expected_ids: Sum of the digests of the input's ids, read from the input.

    Raises:
        IntegrityError: Rows, hashes or ids are not what they should be; nothing is published.
    """
    staging = table.staging(plan)
    done = {receipt.unit: receipt for receipt in receipts}
    missing = [unit.number for unit in plan.units if unit.name not in done]
    if missing:
        raise IntegrityError(f"units {missing[:10]} of the plan were not finished; run the same command again")
    found_ids, rows = 0, 0
    for unit in plan.units:
        ids = _read_ids(part_uri(staging, unit.name), unit, done[unit.name])
        found_ids += ids_digest(ids)
        rows += len(ids)
    if storage.show_sum(found_ids) != storage.show_sum(expected_ids):
        raise IntegrityError(
            f"the ids of the {rows} rows written are not those of the input; nothing was published. "
            f"Remove {staging} and run the same command again; please report this."
        )


def publish(
    table: Table,
    plan: Plan,
    receipts: Sequence[Receipt],
    model: ScoringModel,
    config: dict[str, Any],
    scored_at: dt.datetime,
) -> ScoresManifest:
    """Publish the verified parts of a plan as the date's new version, at once; see the module's docstring."""
    before = recover(table)
    staging = table.staging(plan)
    version = f"{scored_at:%Y%m%dT%H%M%S%f}-{plan.digest[:8]}"
    ordered = sorted(receipts, key=lambda receipt: receipt.number)
    parts = [
        Part(f"part-{receipt.number:05d}-{version}.parquet", receipt.rows, receipt.bytes, receipt.sha256)
        for receipt in ordered
    ]
    manifest = ScoresManifest(
        format_version=SCORES_FORMAT_VERSION,
        date=table.date.isoformat(),
        version=version,
        plan_digest=plan.digest,
        listing_digest=plan.listing_digest,
        rows=sum(part.rows for part in parts),
        refused=refused_of(ordered),
        parts=parts,
        model={"name": model.name, "version": model.version, "digest": model.digest},
        class_names=list(model.class_names),
        counts=_sum([receipt.counts for receipt in ordered], (len(model.class_names),)),
        pixels=_sum([receipt.pixels for receipt in ordered], (model.shape[0], LEVELS)),
        scored_at=scored_at.isoformat(),
        config=config,
        replaced=before.version if before else None,
    )
    for leftover in storage.local_path(table.meta).glob("publish-*"):
        shutil.rmtree(leftover)
    folder = _link_parts(storage.local_path(table.meta) / f"publish-{version}", staging, ordered, parts)
    quarantine = storage.local_path(storage.join(table.meta, f"quarantine-{version}.parquet"))
    pq.write_table(refused_table([]), quarantine)
    storage.write_json(storage.join(table.meta, f"receipts-{version}.json"), [asdict(receipt) for receipt in ordered])
    storage.write_json(storage.join(table.meta, NEXT), asdict(manifest))
    storage.publish_folder(folder, storage.local_path(table.partition))
    meta = storage.local_path(table.meta)
    (meta / NEXT).replace(meta / MANIFEST)
    storage.sync_folder(meta)
    shutil.rmtree(meta / "staging", ignore_errors=True)
    return manifest


def refused_of(receipts: Sequence[Receipt]) -> dict[str, int]:
    """Rows refused in all units, by reason."""
    total: dict[str, int] = {}
    for receipt in receipts:
        for reason, count in receipt.refused.items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items()))


def _link_parts(folder: Path, staging: str, receipts: Sequence[Receipt], parts: Sequence[Part]) -> Path:
    """The parts under their published names, in a folder of their own; links cost no bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for receipt, part in zip(receipts, parts, strict=True):
        os.link(storage.local_path(part_uri(staging, receipt.unit)), folder / part.name)
    return folder


def _read_ids(uri: str, unit: Unit, receipt: Receipt) -> pa.ChunkedArray:
    """The ids of a part; a part that is not what its receipt says is removed, so that the unit is done anew."""
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        content = b""
    if storage.sha256(content) == receipt.sha256:
        ids = pq.read_table(pa.BufferReader(content), columns=[ID], use_threads=False).column(ID)
        if len(ids) + sum(receipt.refused.values()) == unit.rows:
            return ids
    storage.remove(uri)
    raise IntegrityError(
        f"the part of unit {unit.number} is not what was written for its {unit.rows} rows; it was removed. "
        f"Run the same command again: only this unit is done anew."
    )


def _read(uri: str) -> ScoresManifest | None:
    try:
        document = storage.read_json(uri)
    except FileNotFoundError:
        return None
    version = document.get("format_version")
    if version != SCORES_FORMAT_VERSION:
        raise FormatVersionError.of("table of scores", uri, version, SCORES_FORMAT_VERSION)
    parts = [Part(**part) for part in document.pop("parts")]
    return ScoresManifest(**document, parts=parts)


def _sum(counts: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
    total = np.zeros(shape, dtype=np.int64)
    for each in counts:
        total += np.asarray(each)
    listed: list[Any] = total.tolist()
    return listed
