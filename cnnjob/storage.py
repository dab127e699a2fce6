"""One URI -> (filesystem, path), and files that are written whole or not at all.

The one place that opens URIs. Local disks: write beside, flush to the disk, rename. Object stores: an object
appears whole when its upload ends, so a plain write already is atomic. What is published is decided by a
manifest that is written last; see ``data.manifest`` and ``scoring.commit``.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from cnnjob.errors import IntegrityError

TEMPORARY_MARK = ".tmp-"
DIGEST_SPAN = 2**256
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""From linux/fs.h; see renameat2(2)."""


def resolve(uri: str) -> tuple[Any, str]:
    """The filesystem and the path on it. ``s3://``, ``file://`` and plain paths."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    return pafs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]


def is_local(uri: str) -> bool:
    """Whether the URI lies on a disk of this machine."""
    return isinstance(resolve(uri)[0], pafs.LocalFileSystem)


def local_path(uri: str) -> Path:
    """The path of a URI for which ``is_local`` holds."""
    return Path(resolve(uri)[1])


def join(uri: str, *parts: str) -> str:
    """The URI of something below ``uri``."""
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    """Whether a file or a folder is there."""
    filesystem, path = resolve(uri)
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def size(uri: str) -> int | None:
    """Bytes of a file; None where there is none."""
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    return int(info.size) if info.type == pafs.FileType.File else None


def list_files(uri: str) -> list[str]:
    """Paths of the files below ``uri``, relative to it, sorted; none where it does not exist."""
    filesystem, path = resolve(uri)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=True)
    found = [info.path for info in filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
    return sorted(os.path.relpath(name, path) for name in found)


def remove(uri: str) -> None:
    """Remove a file or a folder with all below it; no error where there is none."""
    filesystem, path = resolve(uri)
    kind = filesystem.get_file_info(path).type
    with suppress(FileNotFoundError):
        if kind == pafs.FileType.Directory:
            filesystem.delete_dir(path)
        elif kind == pafs.FileType.File:
            filesystem.delete_file(path)


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: There is none.
    """
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def read_json(uri: str) -> Any:
    """The JSON document in a file.

    Raises:
        FileNotFoundError: There is none.
        IntegrityError: It is not JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{uri} is damaged: it is not readable JSON ({error})") from error


def write_bytes(uri: str, content: bytes | pa.Buffer) -> None:
    """Write a file whole or not at all; an existing one is replaced at once. Parents are created."""
    filesystem, path = resolve(uri)
    filesystem.create_dir(str(Path(path).parent), recursive=True)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        return
    temporary = Path(f"{path}{TEMPORARY_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(uri: str, document: Any) -> None:
    """Write a JSON document whole or not at all, readable by people and the same for the same content."""
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=False, default=str)
    write_bytes(uri, (text + "\n").encode())


def sha256(content: Any) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def digest_of(document: Any) -> str:
    """SHA-256 of a document of plain values, independent of the order of its keys."""
    return sha256(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode())


def publish_folder(staged: Path, target: Path) -> None:
    """Put a finished local folder in the place of ``target``, at once; the old one is removed after.

    Where the kernel can, the two are exchanged (renameat2(2), RENAME_EXCHANGE), so a reader never finds nothing.
    Elsewhere the old folder is moved aside first: for an instant there is none, and never half a one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sync_tree(staged)
    if target.exists():
        if exchange(staged, target):
            shutil.rmtree(staged)
        else:
            aside = target.with_name(f"{target.name}{TEMPORARY_MARK}old-{uuid.uuid4().hex[:8]}")
            target.rename(aside)
            staged.rename(target)
            shutil.rmtree(aside)
    else:
        staged.rename(target)
    sync_folder(target.parent)


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


def sum_of_digests(parts: Iterable[bytes]) -> int:
    """Sum of the SHA-256 digests of the parts, modulo 2**256: a digest of a multiset, whatever its order.

    Sums of several sets add up to that of their union, so shards can be digested apart. See "incremental
    hashing" (Bellare and Micciancio, 1997), where this is AdHash.
    """
    total = 0
    for part in parts:
        total += int.from_bytes(hashlib.sha256(part).digest())
    return total % DIGEST_SPAN


def show_sum(total: int) -> str:
    """A sum of digests as 64 hexadecimal digits."""
    return f"{total % DIGEST_SPAN:064x}"
