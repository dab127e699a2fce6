"""A small document that is replaced only by who knows its newest version: compare-and-swap. No lock, and no clock.

S3: a conditional put on the ETag, see ``conditional``. Local disks: the document is a folder of two files, the content
of one version and an empty pointer whose name has the version's tag. To replace is to rename the pointer from the
expected tag to the new one, rename(2) finds its source for one caller only, and a tag never comes back::

    current.TAG.BEFORE    the pointer: there is exactly one at any instant
    TAG.BEFORE            the content, written and flushed before the pointer names it; BEFORE is the tag it replaces

The first version is a folder that is renamed to its place, which rename(2) refuses where one is that is not empty.
"""

import errno
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cnnjob import conditional, local_disk, storage
from cnnjob.errors import StorageError
from cnnjob.phases import reached

_POINTER, _FIRST = "current.", "none"
_LOOKS = 1000
"""A reader that finds a version gone looks again: each time, another writer has replaced the document."""


@dataclass(frozen=True)
class Document:
    """One version of a document.

    Attributes:
        content: All of it.
        tag: What ``replace`` takes as ``expected``; opaque.
    """

    content: bytes
    tag: str


def read(uri: str) -> Document | None:
    """The newest version, whole; None where there is none.

    Raises:
        UserError: The store has no conditional writes, or access was refused.
        StorageError: The store failed.
    """
    if storage.is_local(uri):
        with storage.told(uri):
            return _read_local(storage.local_path(uri))
    found = conditional.get(uri)
    return None if found is None else Document(found.content, found.tag)


def replace(uri: str, content: bytes, *, expected: str | None) -> bool:
    """Replace a document if its newest version still is the expected one; at most one of several callers succeeds.

    Killed at any instant, the document is the old version or the new one, whole, and the next call works.

    Args:
        uri: A local path or ``s3://``.
        content: Must differ from every other version, past and future, as with a unique id inside: S3 tells versions
            apart by content, and a writer whose answer got lost recognizes its own by it.
        expected: Tag of the version to replace; None: there is none yet.

    Returns:
        Whether this call won. Where not, another version is there, which ``read`` returns.

    Raises:
        UserError: The store has no conditional writes, or access was refused.
        StorageError: The store failed. The document is the old version or the new one: ``read`` tells.
    """
    if not storage.is_local(uri):
        reached("swap", file=storage.name(uri))
        won = conditional.put(uri, content, expected=expected)
        reached("swapped", file=storage.name(uri))
        return won
    with storage.told(uri):
        path = storage.local_path(uri)
        won = _create_local(path, content) if expected is None else _replace_local(path, content, expected)
    if won:
        with suppress(OSError):  # What is left over is no harm, and the next winner's.
            _clean_up(path)
    return won


def _read_local(path: Path) -> Document | None:
    for _ in range(_LOOKS):
        tag = _current(path)
        if tag is None:
            if not path.exists():
                return None
            continue
        try:
            return Document((path / tag).read_bytes(), tag)
        except FileNotFoundError:
            continue
    raise StorageError(
        f"{path}: no version of this document could be read in {_LOOKS} tries. If nobody writes it, files in this "
        f"folder were removed by hand: remove the folder, and run the same command again."
    )


def _current(path: Path) -> str | None:
    """The tag that the pointer names; None where it is not seen, as in the instant of its renaming."""
    try:
        names = _names(path)
    except FileNotFoundError:
        return None
    return next((name.removeprefix(_POINTER) for name in names if name.startswith(_POINTER)), None)


def _create_local(path: Path, content: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    tag = f"{uuid.uuid4().hex}.{_FIRST}"
    beside = path.with_name(f"{path.name}{storage.TEMPORARY_MARK}{tag}")
    try:
        beside.mkdir()
        reached("write", file=path.name)
        _write(beside / tag, content)
        (beside / f"{_POINTER}{tag}").touch()
        local_disk.sync_folder(beside)
        reached("swap", file=path.name)
        beside.rename(path)
    except OSError as error:
        # Who has won removes what the others were writing, so these may find their own files gone.
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT} and path.is_dir():
            return False
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    reached("swapped", file=path.name)
    local_disk.sync_folder(path.parent)
    return True


def _replace_local(path: Path, content: bytes, expected: str) -> bool:
    tag = f"{uuid.uuid4().hex}.{_own(expected)}"
    candidate = path / tag
    try:
        reached("write", file=path.name)
        _write(candidate, content)
        local_disk.sync_folder(path)
        reached("swap", file=path.name)
        (path / f"{_POINTER}{expected}").rename(path / f"{_POINTER}{tag}")
    except OSError as error:
        candidate.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):
            return False
        raise
    reached("swapped", file=path.name)
    local_disk.sync_folder(path)
    return True


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _clean_up(path: Path) -> None:
    """Remove what can no longer become a version: candidates for the place of a version that was replaced before.

    The files are listed before the pointer is looked at. So one that would replace another version than the newest
    would replace an older one, whose pointer is gone; what would replace the newest stays.
    """
    names = [name for name in _names(path) if not name.startswith(_POINTER)]
    newest = _current(path)
    if newest is None:
        return
    reached("clean", file=path.name)
    for name in names:
        if name != newest and name.partition(".")[2] != _own(newest):
            (path / name).unlink(missing_ok=True)
    beginning = f"{path.name}{storage.TEMPORARY_MARK}"
    for name in _names(path.parent):
        if name.startswith(beginning):
            # Moved first: nobody can put a folder in place of which a part is removed.
            dead = (path.parent / name).rename(path.with_name(f"{beginning}{uuid.uuid4().hex}.dead"))
            shutil.rmtree(dead)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _own(tag: str) -> str:
    """The part of a tag that is the version's own."""
    return tag.partition(".")[0]
