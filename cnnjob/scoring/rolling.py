"""Rolling a committed version forward: the date's folder becomes what its newest manifest says.

On a local disk the parts are linked into a folder beside the root, which is exchanged with ``date=D`` in one step of
the kernel; on an object store they are copied under names unique to the version, and the old ones removed after.

A part is in place where its file is as long as the manifest says, which a listing tells. Any other is taken from where
it was staged. Jobs of the same plan and base stage under the same names, also one that has lost already and does not
know it; so a later run takes a staged part only if its bytes are those that were published. The job that publishes has
just compared them, and does not read them again.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from cnnjob import local_disk, storage
from cnnjob.digests import sha256
from cnnjob.errors import FormatVersionError, IntegrityError, LostPartsError
from cnnjob.phases import reached
from cnnjob.scoring.table import MANIFEST, Part, ScoresManifest, Table, as_document, current, parse
from cnnjob.scoring.work import part_uri, staged_part

_PUBLISHING = "publish-"
_PART = re.compile(r"part-\d{5,}-\d{8}T\d{12}-[0-9a-f]{8}\.parquet")
"""Names of parts, as ``commit`` makes them."""


def roll_forward(table: Table, manifest: ScoresManifest, *, is_verified: bool = False) -> None:
    """Make the date's folder what its newest manifest says; nothing to do where it is.

    Args:
        table: The date.
        manifest: Its newest, when this began.
        is_verified: The staged parts have just been compared with it.

    Raises:
        LostPartsError: Parts are neither published nor staged as the manifest has them.
    """
    if not _is_in_place(table, manifest):
        if storage.is_local(table.root):
            _roll_local(table, manifest, is_verified=is_verified)
        else:
            _copy(table, manifest, is_verified=is_verified)
    reached("rolled forward")


def _is_in_place(table: Table, manifest: ScoresManifest) -> bool:
    """Whether the date's folder has the version's parts, and the copy of its manifest, for people, is its own."""
    if _present(table) != manifest.file_sizes:
        return False
    copy = storage.join(table.meta, MANIFEST)
    try:
        return parse(copy, storage.read_bytes(copy)) == manifest
    except (FileNotFoundError, IntegrityError, FormatVersionError):
        return False


def _present(table: Table) -> dict[str, int]:
    """Parts in the date's folder, of any version, with their bytes. What else lies there is not the table's."""
    return {name: size for name, size in storage.sizes(table.partition).items() if _PART.fullmatch(name)}


def _foreign(partition: Path) -> list[Path]:
    """What lies in a date's folder and is of no version."""
    there = partition.iterdir() if partition.exists() else ()
    return [path for path in there if not _PART.fullmatch(path.name)]


def _lost(table: Table, manifest: ScoresManifest, part: Part) -> LostPartsError:
    return LostPartsError(
        f"parts of {table.date} of {table.root}, version {manifest.version}, are gone or were written over, such as "
        f"{part.name}: neither {table.partition} nor {table.staging_of(manifest)} has them as they were published."
    )


def _roll_local(table: Table, manifest: ScoresManifest, *, is_verified: bool) -> None:
    meta = storage.local_path(table.meta)
    # The kernel gives the lock back when its holder dies. It keeps two runs from exchanging the same folder twice.
    with FileLock(meta / ".rolling"):
        newest = current(table)
        if newest is None or newest.number != manifest.number:
            return
        for leftover in meta.glob(f"{_PUBLISHING}*"):
            shutil.rmtree(leftover)
        for leftover in meta.glob(f"{MANIFEST}{local_disk.TEMPORARY_MARK}*"):
            leftover.unlink()
        present = _present(table)
        if present != manifest.file_sizes:
            folder = meta / f"{_PUBLISHING}{manifest.version}"
            _exchange(table, manifest, folder, present, is_verified=is_verified)
        storage.write_json(str(meta / MANIFEST), as_document(manifest))


def _exchange(
    table: Table, manifest: ScoresManifest, folder: Path, present: Mapping[str, int], *, is_verified: bool
) -> None:
    folder.mkdir()
    partition, staging = storage.local_path(table.partition), storage.local_path(table.staging_of(manifest))
    for other in _foreign(partition):
        # It goes along: a folder is exchanged with all that lies in it.
        if other.is_dir() and not other.is_symlink():
            shutil.copytree(other, folder / other.name, symlinks=True, copy_function=os.link)
        else:
            os.link(other, folder / other.name, follow_symlinks=False)
    for part in manifest.parts:
        # Where it is there already, this version has been in place, and lacks or has something beside it.
        is_there = present.get(part.name) == part.bytes
        source = partition / part.name if is_there else Path(part_uri(str(staging), part.unit))
        if not _link(source, folder / part.name, None if is_there or is_verified else part.sha256):
            shutil.rmtree(folder)
            raise _lost(table, manifest, part)
        reached("link", part=part.name[:10])
    reached("exchange")
    # The parts are links to files that were flushed before their receipts said that they are there.
    local_disk.publish_folder(folder, partition, is_flushed=True)


def _link(source: Path, target: Path, digest: str | None) -> bool:
    """Link a file to a further name; False where there is none, or where its bytes are to be others."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    # Read after it is linked: who stages a part again gives its name to another file, and leaves this one.
    return digest is None or sha256(target.read_bytes()) == digest


def _copy(table: Table, manifest: ScoresManifest, *, is_verified: bool) -> None:
    present = _present(table)
    for part in manifest.parts:
        if present.get(part.name) != part.bytes:
            reached("copy", part=part.name[:10])
            try:
                _copy_part(table, manifest, part, is_verified=is_verified)
            except FileNotFoundError as error:
                # A newer version has been rolled forward meanwhile, and what is old was removed.
                if _newest(table).number != manifest.number:
                    break
                raise _lost(table, manifest, part) from error
    newest = _newest(table)
    reached("remove", number=newest.number)
    # Listed and copied before ``newest`` was asked for, none of these is of a version that is newer than it.
    for name in sorted((present.keys() | manifest.file_names) - newest.file_names):
        storage.remove(storage.join(table.partition, name))
    if newest.number == manifest.number:
        storage.write_json(storage.join(table.meta, MANIFEST), as_document(manifest))


def _copy_part(table: Table, manifest: ScoresManifest, part: Part, *, is_verified: bool) -> None:
    staging, published = table.staging_of(manifest), storage.join(table.partition, part.name)
    try:
        if is_verified:
            storage.copy(part_uri(staging, part.unit), published)
        else:
            storage.write_bytes(published, staged_part(staging, part.unit, part.sha256))
    except FileNotFoundError:
        # Another run that rolls the same version forward has copied it, and has removed the staging.
        if storage.size(published) != part.bytes:
            raise


def _newest(table: Table) -> ScoresManifest:
    newest = current(table)
    assert newest is not None, "a version has been committed"
    return newest
