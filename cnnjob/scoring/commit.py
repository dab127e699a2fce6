"""Publishing a date: one file is created by exactly one writer, and the date is what it says from then on.

1. The quarantine and the receipts are written under names of the version.
2. **Commit**: the next manifest of the log is created. Who comes second has lost, and is told who won.
3. Roll forward: the date's folder becomes what the manifest says. On a local disk the parts are linked into a folder
   beside the root, which is exchanged with ``date=D`` in one step of the kernel; on an object store they are copied
   under names unique to the version, and the old ones removed after.
4. Clean up: stagings that can no longer be published, manifests beyond the history.

Killed before 2 the old version stands; killed after it the new one does: readers find its parts where they were staged
until 3 is done, and the next run finishes it.
"""

import datetime as dt
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from cnnjob import exclusive, local_disk, storage
from cnnjob.errors import CnnjobError, LostPartsError, OvertakenError
from cnnjob.phases import reached
from cnnjob.schema import SCORES_FORMAT_VERSION, refused_table
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, ScoringModel
from cnnjob.scoring.table import (
    LOG,
    MANIFEST,
    Part,
    ScoresManifest,
    Table,
    as_document,
    current,
    numbered,
    numbers,
    read,
)
from cnnjob.scoring.work import Receipt, part_uri

PLAN = "plan.json"
BESIDE = ("quarantine", "receipts")
_PUBLISHING = "publish-"
_PART = re.compile(r"part-\d{5,}-\d{8}T\d{12}-[0-9a-f]{8}\.parquet")
"""Names of parts, as ``_describe`` makes them."""


def publish(
    table: Table,
    plan: Plan,
    ledger: Ledger,
    model: ScoringModel,
    config: dict[str, Any],
    scored_at: dt.datetime,
    *,
    base: ScoresManifest | None,
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
        history: Versions of which the log keeps the manifest.

    Raises:
        OvertakenError: Another job has published the date since.
    """
    manifest = _describe(table, plan, ledger, model, config, scored_at, base)
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
    roll_forward(table, manifest)
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
        LostPartsError: Somebody removed parts of it.
    """
    manifest = current(table)
    if manifest is not None:
        roll_forward(table, manifest)
        clean_up(table, manifest, history)
    return manifest


def roll_forward(table: Table, manifest: ScoresManifest) -> None:
    """Make the date's folder what its newest manifest says; nothing to do where it is."""
    if not _is_in_place(table, manifest):
        if storage.is_local(table.root):
            _roll_local(table, manifest)
        else:
            _copy(table, manifest)
    reached("rolled forward")


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
            if number <= manifest.number and (storage.TEMPORARY_MARK in name or not (is_of_kept or is_number)):
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


def _is_in_place(table: Table, manifest: ScoresManifest) -> bool:
    """Whether the date's folder has the version's parts, and the copy of its manifest, for people, is its own."""
    if _present(table) != manifest.file_names:
        return False
    try:
        return bool(storage.read_json(storage.join(table.meta, MANIFEST))["version"] == manifest.version)
    except FileNotFoundError:
        return False


def _present(table: Table) -> set[str]:
    """Parts in the date's folder, of any version. What else somebody has put there is not the table's."""
    return {name for name in storage.list_files(table.partition) if _PART.fullmatch(name)}


def _foreign(partition: Path) -> list[Path]:
    """What lies in a date's folder and is of no version."""
    there = partition.iterdir() if partition.exists() else ()
    return [path for path in there if not _PART.fullmatch(path.name)]


def _lost(table: Table, manifest: ScoresManifest) -> LostPartsError:
    return LostPartsError(
        f"parts of {table.date} of {table.root}, version {manifest.version}, are gone: neither {table.partition} nor "
        f"{table.staging_of(manifest)} has them."
    )


def _roll_local(table: Table, manifest: ScoresManifest) -> None:
    meta = storage.local_path(table.meta)
    # The kernel gives the lock back when its holder dies. It keeps two runs from exchanging the same folder twice.
    with FileLock(meta / ".rolling"):
        newest = current(table)
        if newest is None or newest.number != manifest.number:
            return
        for leftover in meta.glob(f"{_PUBLISHING}*"):
            shutil.rmtree(leftover)
        for leftover in meta.glob(f"{MANIFEST}{storage.TEMPORARY_MARK}*"):
            leftover.unlink()
        if _present(table) != manifest.file_names:
            _exchange(table, manifest, meta / f"{_PUBLISHING}{manifest.version}")
        storage.write_json(str(meta / MANIFEST), as_document(manifest))


def _exchange(table: Table, manifest: ScoresManifest, folder: Path) -> None:
    folder.mkdir()
    staging = table.staging_of(manifest)
    for other in _foreign(storage.local_path(table.partition)):
        # It goes along: a folder is exchanged with all that lies in it.
        if other.is_dir() and not other.is_symlink():
            shutil.copytree(other, folder / other.name, symlinks=True, copy_function=os.link)
        else:
            os.link(other, folder / other.name, follow_symlinks=False)
    for part in manifest.parts:
        # Where the staging is gone, this version has been in place, and somebody has put something beside its parts.
        staged, published = storage.local_path(part_uri(staging, part.unit)), storage.local_path(table.partition)
        try:
            os.link(staged if staged.exists() else published / part.name, folder / part.name)
        except FileNotFoundError as error:
            shutil.rmtree(folder)
            raise _lost(table, manifest) from error
        reached("link", part=part.name[:10])
    reached("exchange")
    # The parts are links to files that were flushed before their receipts said that they are there.
    local_disk.publish_folder(folder, storage.local_path(table.partition), is_flushed=True)


def _copy(table: Table, manifest: ScoresManifest) -> None:
    staging = table.staging_of(manifest)
    present = _present(table)
    try:
        for part in manifest.parts:
            if part.name not in present:
                reached("copy", part=part.name[:10])
                storage.copy(part_uri(staging, part.unit), storage.join(table.partition, part.name))
    except FileNotFoundError as error:
        # A newer version has been rolled forward meanwhile, and what is old was removed.
        if _newest(table).number == manifest.number:
            raise _lost(table, manifest) from error
    newest = _newest(table)
    reached("remove", number=newest.number)
    # Listed and copied before ``newest`` was asked for, none of these is of a version that is newer than it.
    for name in sorted((present | manifest.file_names) - newest.file_names):
        storage.remove(storage.join(table.partition, name))
    if newest.number == manifest.number:
        storage.write_json(storage.join(table.meta, MANIFEST), as_document(manifest))


def _newest(table: Table) -> ScoresManifest:
    newest = current(table)
    assert newest is not None, "a version has been committed"
    return newest
