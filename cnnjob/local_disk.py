"""What only a local disk can: content that is there before its name is, and folders that change places at once."""

import ctypes
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from cnnjob.phases import reached

TEMPORARY_MARK = ".tmp-"
_ASIDE = f"{TEMPORARY_MARK}old-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""From linux/fs.h; see renameat2(2)."""


def write(path: Path, content: bytes | pa.Buffer) -> None:
    """Write a file whole or not at all; an existing one is replaced at once. Folders above it are created."""
    with beside(path, content) as temporary:
        reached("rename", file=path.name)
        temporary.replace(path)


@contextmanager
def beside(path: Path, content: bytes | pa.Buffer) -> Iterator[Path]:
    """A file beside a local path, with the content on the disk, to be given the path's name; gone after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{TEMPORARY_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish_folder(staged: Path, target: Path, *, is_flushed: bool = False) -> None:
    """Put a finished local folder in the place of ``target``, at once; the old one is removed after.

    Files that are known to be on the disk (``is_flushed``) are not flushed again, only the folder that names them.

    Where the kernel can, the two are exchanged (renameat2(2), RENAME_EXCHANGE), so a reader never finds nothing.
    Elsewhere the old folder is moved beside the staged one first, where no reader looks: for an instant there is none,
    and never half a one. Killed in that instant, ``undo_move`` puts it back.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_flushed:
        sync_folder(staged)
    else:
        sync_tree(staged)
    if target.exists():
        if exchange(staged, target):
            shutil.rmtree(staged)
        else:
            aside = staged.with_name(f"{staged.name}{_ASIDE}{uuid.uuid4().hex[:8]}")
            target.rename(aside)
            reached("moved aside")
            staged.rename(target)
            shutil.rmtree(aside)
    else:
        staged.rename(target)
    sync_folder(target.parent)


def undo_move(folder: Path, target: Path) -> None:
    """Put back what a publisher that died had moved aside into ``folder``, unless ``target`` is there again."""
    for aside in folder.glob(f"*{_ASIDE}*"):
        if not target.exists():
            aside.rename(target)


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths of one filesystem at once. False where the kernel or the filesystem cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 is None:
        return False
    result = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to the disk, so that a rename never outlives its content."""
    for path in _walk(folder):
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(folder: Path) -> Iterator[Path]:
    for root, _, files in os.walk(folder):
        for name in files:
            yield Path(root, name)
        yield Path(root)
