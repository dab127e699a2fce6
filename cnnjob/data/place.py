"""Where a data set is written until it is whole, and how it is put in place at once.

On a local disk it is written beside the output and exchanged with it. On an object store, which has no rename, its
files lie in the output under names of their own version, and the manifest, written last and only over the one that
was there when the job began, decides which are the data set; what it does not name is removed after. The staging folder
is named by what is prepared from what: the next run of the same job finds it and goes on; another one removes it, on a
disk when it begins, on an object store, where nothing tells the dead from the living, when it has published.
"""

import glob
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
from filelock import FileLock, Timeout

from cnnjob import conditional, local_disk, storage
from cnnjob.data.manifest import MANIFEST, Manifest, read_manifest
from cnnjob.data.output import VERSIONED
from cnnjob.errors import (
    CnnjobError,
    DatasetError,
    FormatVersionError,
    JobError,
    OvertakenError,
    RefusedRowsError,
    UserError,
)

_LOCK = "lock"
_KEY = "[0-9a-f]" * 12
"""Of a job, as it ends the name of its staging folder: a pattern for ``glob`` and for ``re``."""


@dataclass(frozen=True)
class Place:
    """Where one run works.

    Attributes:
        output: The data set's folder.
        staging: What is needed until it is published.
        folder: Where the data set's files are written.
        tag: A part of their names.
        seen: On S3, the manifest that was there when the job began, see ``conditional.version_of``.
    """

    output: str
    staging: str
    folder: str
    tag: str
    seen: str | None = None

    @property
    def rows(self) -> str:
        """Folder of the staged rows."""
        return storage.join(self.staging, "rows")

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest and put the data set in place; what it replaces is removed after.

        Raises:
            OvertakenError: On an object store, another job has published meanwhile; its data set stays.
        """
        document, where = manifest.model_dump(mode="json"), storage.join(self.folder, MANIFEST)
        if storage.is_local(self.output):
            storage.write_json(where, document)
            with storage.told(self.output):
                local_disk.publish_folder(storage.local_path(self.folder), storage.local_path(self.output))
            return
        # Listed before: what comes after the manifest is a later job's.
        there, stagings = set(storage.list_files(self.output)), _other_stagings(self)
        if not manifest.files <= there:
            raise _overtaken(self.output)
        if not storage.is_s3(self.output):
            storage.write_json(where, document)
        elif not conditional.replace(where, storage.json_bytes(document), self.seen):
            raise _overtaken(self.output)
        # What cannot be removed now the next job removes.
        with suppress(CnnjobError):
            for name in sorted(there - manifest.files - {MANIFEST}):
                storage.remove(storage.join(self.output, name))
            for staging in stagings:
                storage.remove(staging)


@contextmanager
def open_place(output: str, key: str) -> Iterator[Place]:
    """The place of the job ``key``; removed when the job is done or its input was wrong, kept when the world failed.

    Args:
        output: The data set's folder.
        key: 12 hexadecimal digits, of what is prepared from what.

    Raises:
        JobError: The same job is at work right now, on this disk.
        OvertakenError: On an object store, another job has published meanwhile.
    """
    output = storage.real(output)
    mark = _mark(output)
    staging = storage.join(storage.parent(output), f"{mark}{key}")
    if storage.is_local(output):
        with _local_place(output, staging, mark) as place:
            yield place
        return
    seen = conditional.version_of(storage.join(output, MANIFEST)) if storage.is_s3(output) else None
    # No two tries write to the same file: another one's may be published already.
    place = Place(output, staging, output, f"-{uuid.uuid4().hex[:12]}", seen)
    try:
        yield place
    except BaseException as error:
        is_overtaken = _is_overtaken(place)
        if is_overtaken or not _is_worth_keeping(place, error):
            _remove_unpublished(place)
            storage.remove(staging)
        if is_overtaken and isinstance(error, Exception) and not isinstance(error, DatasetError | RefusedRowsError):
            # Another job took what it found beside its own for leftovers: this one may have failed for that.
            raise _overtaken(output) from error
        raise
    with suppress(CnnjobError):
        storage.remove(staging)


@contextmanager
def _local_place(output: str, staging: str, mark: str) -> Iterator[Place]:
    folder = storage.local_path(staging)
    lock = FileLock(folder / _LOCK)
    with storage.told(output):
        made = [parent for parent in folder.parents if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise JobError(f"the same job is writing {output} right now; wait for it, or stop it first.") from error
    place = Place(output, staging, storage.join(staging, "dataset"), "")
    keep = False
    try:
        local_disk.undo_move(folder, storage.local_path(output))
        _remove_leftovers(storage.local_path(output), mark, folder)
        yield place
    except BaseException as error:
        keep = _is_worth_keeping(place, error)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()
        lock.release()


def _is_worth_keeping(place: Place, error: BaseException) -> bool:
    """Whether the next run of the same job can go on from what is staged; a job that has to be changed cannot."""
    if isinstance(error, DatasetError | RefusedRowsError):
        return False
    # Access that is refused is the user's to mend, and may have been granted for the first half of the rows.
    return not isinstance(error, UserError) or bool(storage.list_files(place.rows))


def tidy(output: str) -> None:
    """Remove what a job that died just after it had published left beside a local output.

    On an object store nothing tells the dead from the living; the next job that prepares this output removes it.
    """
    output = storage.real(output)
    if storage.is_local(output):
        _remove_leftovers(storage.local_path(output), _mark(output))


def _mark(output: str) -> str:
    """How the names of staging folders for an output begin."""
    return f".{storage.name(output)}{local_disk.TEMPORARY_MARK}"


def _remove_leftovers(output: Path, mark: str, own: Path | None = None) -> None:
    """Remove what other jobs that are dead left beside the same output; a living one holds its lock."""
    for leftover in output.parent.glob(f"{glob.escape(mark)}{_KEY}"):
        if leftover == own:
            continue
        lock = FileLock(leftover / _LOCK)
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            local_disk.undo_move(leftover, output)
            shutil.rmtree(leftover, ignore_errors=True)


def _is_overtaken(place: Place) -> bool:
    """Whether another job has published since this one began, as far as the store tells."""
    if not storage.is_s3(place.output):
        return False
    where = storage.join(place.output, MANIFEST)
    with suppress(CnnjobError):
        # It may be this job's own, also where the answer to its writing got lost.
        return conditional.version_of(where) != place.seen and place.tag not in storage.read_bytes(where).decode()
    return False


def _overtaken(output: str) -> OvertakenError:
    return OvertakenError(
        f"another job has prepared {output} meanwhile, and its data set is there. Nothing of this one was published; "
        f"let one job at a time prepare a data set, and run the same command again to replace that one."
    )


def _other_stagings(place: Place) -> list[str]:
    """What other jobs for the same output left beside it on an object store, or are at: they come too late now."""
    parent, mark = storage.parent(place.output), _mark(place.output)
    filesystem, path = storage.resolve(parent)
    with storage.told(parent):
        beside = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    staged = re.compile(re.escape(mark) + _KEY)
    found = [storage.join(parent, info.base_name) for info in beside if staged.fullmatch(info.base_name)]
    return [uri for uri in found if uri != place.staging]


def _remove_unpublished(place: Place) -> None:
    """Remove what this try left in an output on an object store and no manifest names.

    Where there is a manifest that cannot be read, all stays: what it names is not known.
    """
    names = storage.list_files(place.output)
    try:
        # Read after the listing: it then names also what was published meanwhile.
        is_there = storage.exists(storage.join(place.output, MANIFEST))
        published = read_manifest(place.output).files if is_there else frozenset[str]()
    except (DatasetError, FormatVersionError):
        return
    for name in names:
        version = VERSIONED.fullmatch(name)
        if version and name not in published and version[1] == place.tag:
            storage.remove(storage.join(place.output, name))
