"""Publishing a date: one file is created by exactly one writer, and the date is what it says from then on.

1. The quarantine and the receipts are written under names of the version.
2. **Commit**: the next manifest of the log is created. Who comes second has lost, and is told who won.
3. Roll forward: the date's folder becomes what the manifest says, see ``rolling``.
4. Clean up: stagings that can no longer be published, manifests beyond the history.

Killed before 2 the old version stands; killed after it the new one does: readers find its parts where they were staged
until 3 is done, and the next run finishes it.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob import exclusive, local_disk, storage
from cnnjob.errors import CnnjobError, OvertakenError
from cnnjob.phases import reached
from cnnjob.schema import SCORES_FORMAT_VERSION, key_types, refused_table
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, ScoringModel
from cnnjob.scoring.rolling import roll_forward
from cnnjob.scoring.table import (
    LOG,
    Part,
    ScoresManifest,
    Table,
    as_document,
    current,
    numbered,
    numbers,
    read,
)
from cnnjob.scoring.work import Receipt

PLAN = "plan.json"
BESIDE = ("quarantine", "receipts")


def publish(
    table: Table,
    plan: Plan,
    ledger: Ledger,
    model: ScoringModel,
    config: dict[str, Any],
    scored_at: dt.datetime,
    *,
    base: ScoresManifest | None,
    keys: Sequence[pa.Field] = (),
    history: int = 10,
) -> ScoresManifest:
    """Publish the verified parts of a plan as the date's new version; see the module's docstring.

    Args:
        table: The date.
        plan: The work.
        ledger: A receipt for each unit.
        model: The model.
        config: The resolved config.
        scored_at: When the plan was made.
        base: What was published when the work began: what is replaced.
        keys: Columns that were carried over.
        history: Versions of which the log keeps the manifest.

    Raises:
        OvertakenError: Another job has published the date since.
    """
    manifest = _describe(table, plan, ledger, model, config, scored_at, base, keys)
    # Two jobs of the same plan write the same manifest: who published it makes it this job's own.
    document = {**as_document(manifest), "publisher": uuid.uuid4().hex}
    try:
        _write_beside(table, manifest, ledger.in_order())
        reached("commit")
        is_ours = exclusive.create(table.log(manifest.number), storage.json_bytes(document))
    except CnnjobError as error:
        # Who has won removes what others of this number are writing.
        _check_not_lost(table, manifest, error)
        raise
    if not is_ours:
        _check_not_lost(table, manifest, None)
    reached("committed")
    # What was staged has been read back and compared just now.
    roll_forward(table, manifest, is_verified=True)
    clean_up(table, manifest, history)
    return manifest


def _check_not_lost(table: Table, manifest: ScoresManifest, cause: Exception | None) -> None:
    won = current(table)
    # Where the store failed, the version that is there may be this job's own: then the failure is what is told.
    is_own = cause is not None and won is not None and won.version == manifest.version
    if won is not None and won.number >= manifest.number and not is_own:
        _forget(table, manifest)
        raise lost(table, won) from cause


def lost(table: Table, won: ScoresManifest) -> OvertakenError:
    """The error of a job that was slower than another one for the same date."""
    return OvertakenError(
        f"another job published {table.date} of {table.root} while this one worked: version {won.version}, "
        f"{won.rows} rows of model {won.model['name']} version {won.model['version']}. This job published nothing; "
        f"run the same command again to replace that version."
    )


def recover(table: Table, history: int = 10) -> ScoresManifest | None:
    """Finish what a dead run committed, and return what is published.

    Raises:
        LostPartsError: Somebody removed parts of it, or wrote over them.
    """
    manifest = current(table)
    if manifest is not None:
        roll_forward(table, manifest)
        clean_up(table, manifest, history)
    return manifest


def clean_up(table: Table, manifest: ScoresManifest, history: int) -> None:
    """Remove what no run can publish any more, and all but ``history`` versions of what tells of them.

    It fails no publication: another run may clean up at the same time, and what is left the next one removes.
    """
    with suppress(CnnjobError, OSError):
        _clean_up(table, manifest, history)


def _clean_up(table: Table, manifest: ScoresManifest, history: int) -> None:
    reached("clean up")
    folders = {PurePosixPath(path).parts[0] for path in storage.list_files(table.stagings)}
    for name, base in sorted(numbered(folders).items()):
        # A plan replaces what was published when it was made. One from before this version has lost already. The number
        # is part of the name: a folder that is removed here is none that a job with a chance works in.
        if base < manifest.number:
            storage.remove(storage.join(table.stagings, name))
    reached("stagings removed")
    _forget_old(table, numbers(table)[:-history])
    kept = {number: read(table.log(number)).version for number in numbers(table)[-history:]}
    for kind in (LOG, *BESIDE):
        folder = storage.join(table.meta, kind)
        for name, number in numbered(storage.list_files(folder)).items():
            # What has a larger number is of a job that is about to publish; one with this number has lost.
            is_of_kept = number in kept and (kind == LOG or kept[number] in name)
            is_number = kind == LOG and name.endswith(".json")
            if number <= manifest.number and (local_disk.TEMPORARY_MARK in name or not (is_of_kept or is_number)):
                storage.remove(storage.join(folder, name))


def _forget_old(table: Table, old: Sequence[int]) -> None:
    """Empty the manifests of old versions. Their numbers stay taken, or a slow job could think that it published."""
    for number in reversed(old):
        if not storage.size(table.log(number)):
            return
        storage.write_bytes(table.log(number), b"")


def _describe(
    table: Table,
    plan: Plan,
    ledger: Ledger,
    model: ScoringModel,
    config: dict[str, Any],
    scored_at: dt.datetime,
    base: ScoresManifest | None,
    keys: Sequence[pa.Field],
) -> ScoresManifest:
    version = f"{scored_at:%Y%m%dT%H%M%S%f}-{plan.digest[:8]}"
    return ScoresManifest(
        format_version=SCORES_FORMAT_VERSION,
        number=base.number + 1 if base else 1,
        date=table.date.isoformat(),
        version=version,
        plan_digest=plan.digest,
        listing_digest=plan.listing_digest,
        rows=ledger.rows,
        refused=ledger.refused,
        parts=[
            Part(f"part-{r.number:05d}-{version}.parquet", r.unit, r.rows, r.bytes, r.sha256)
            for r in ledger.in_order()
            if r.rows
        ],
        model={"name": model.name, "version": model.version, "digest": model.digest},
        class_names=list(model.class_names),
        counts=ledger.counts.tolist(),
        pixels=ledger.pixels.tolist(),
        scored_at=scored_at.isoformat(),
        config=config,
        replaced=base.version if base else None,
        keys=key_types(keys),
    )


def _write_beside(table: Table, manifest: ScoresManifest, receipts: Sequence[Receipt]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(refused_table([row for receipt in receipts for row in receipt.refused]), sink)
    quarantine, told = (table.beside(kind, manifest.number, manifest.version) for kind in BESIDE)
    storage.write_bytes(quarantine, sink.getvalue())
    reached("quarantine")
    storage.write_json(told, [_told(receipt) for receipt in receipts])


def _told(receipt: Receipt) -> dict[str, Any]:
    """What the receipts of a version say of a unit; its counts are in the manifest's sums."""
    told = {name: value for name, value in vars(receipt).items() if name not in ("counts", "pixels")}
    return {**told, "refused": len(receipt.refused)}


def _forget(table: Table, manifest: ScoresManifest) -> None:
    """Remove what was written beside a version that was not published, unless the winner's is the same."""
    won = current(table)
    for kind in BESIDE:
        if won is None or (won.number, won.version) != (manifest.number, manifest.version):
            storage.remove(table.beside(kind, manifest.number, manifest.version))
