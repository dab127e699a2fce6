"""The encoded bytes of single files, bounded: what a folder and a manifest of URIs have in common.

What is wrong with one file is a refusal of its row; what is wrong with the storage of a folder stops the job. A table
may name any place, so of its files also a host that does not answer costs their rows, see ``remote``.
"""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cnnjob import storage
from cnnjob.data.decode import Refusal
from cnnjob.data.sources import remote
from cnnjob.data.sources.base import Content
from cnnjob.data.sources.walk import text_of
from cnnjob.errors import UserError
from cnnjob.schema import ID

PATH = "_path"
SIZE = "_size"
MTIME = "_mtime_ns"
UNKNOWN = -1
"""Size of a file that was not looked at when it was listed."""
UNLISTED_BYTES = 1_000_000
"""What an encoded image is taken to have where its size was not listed: a camera's JPEG has a few of these."""

_GONE = {errno.ENOENT: "is not there", errno.ENOTDIR: "is not there", errno.ELOOP: "is a link that leads nowhere"}
_UNREADABLE = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "is a folder",
    errno.ENXIO: "is not a regular file",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EIO: "the disk does not give its bytes",
}


@dataclass(frozen=True)
class FileReader:
    """Reads files below a folder.

    Attributes:
        root: The folder that relative paths are below.
        max_bytes: Of a file; one byte more is read at most.
        anywhere: Whether a table names them, each in a place of its own.
    """

    root: str
    max_bytes: int
    anywhere: bool = False

    def read(self, rows: pa.Table) -> Iterator[Content]:
        """The bytes of listed files."""
        sizes, times = (rows.column(name).to_pylist() for name in (SIZE, MTIME))
        for uri, size, mtime_ns in zip(self._places(rows), sizes, times, strict=True):
            yield self._content(uri, size, mtime_ns)

    def uris(self, rows: pa.Table) -> list[str]:
        """Where listed files lie; empty where the table does not say."""
        sizes = rows.column(SIZE).to_pylist()
        return ["" if size is None else _shown(uri) for uri, size in zip(self._places(rows), sizes, strict=True)]

    def _places(self, rows: pa.Table) -> Iterator[bytes | str]:
        for row_id, path in zip(rows.column(ID).to_pylist(), rows.column(PATH).to_pylist(), strict=True):
            # The path is listed where it is not the id.
            yield self.uri_of(os.fsencode(row_id) if path is None else path)

    def uri_of(self, name: bytes) -> bytes | str:
        """Where a path or URI of the listing lies: bytes for a local file, text for a URI."""
        if b"://" in name:
            uri = name.decode("utf-8", "replace")
            with suppress(UserError):
                return os.fsencode(storage.local_path(uri)) if storage.is_local(uri) else uri
            return uri
        if "://" in self.root:
            return storage.join(self.root, name.decode("utf-8", "replace"))
        return os.path.join(os.fsencode(self.root), name)  # noqa: PTH118 - bytes

    def _content(self, uri: bytes | str, size: int | None, mtime_ns: int | None) -> bytes | Refusal:
        if size is None:
            return Refusal("gone", "the table has no uri for it")
        if size > self.max_bytes:
            return Refusal("too_many_bytes", f"{size} bytes, more than limits.max_bytes {self.max_bytes}")
        return self._remote(uri, size, mtime_ns) if isinstance(uri, str) else self._file(uri, size, mtime_ns)

    def _file(self, uri: bytes, size: int, mtime_ns: int | None) -> bytes | Refusal:
        try:
            return self._local(uri, size, mtime_ns)
        except ValueError as error:  # a name with a zero byte
            return Refusal("unreadable", f"{error}")
        except OSError as error:
            if error.errno in _GONE:
                return Refusal("gone", f"{_shown(uri)} {_GONE[error.errno]}")
            if error.errno in _UNREADABLE:
                return Refusal("unreadable", f"{_shown(uri)}: {_UNREADABLE[error.errno]}")
            with storage.told(_shown(uri)):
                raise

    def _local(self, path: bytes, size: int, mtime_ns: int | None) -> bytes | Refusal:
        # Without O_NONBLOCK, opening a pipe would wait for its other end for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with io.FileIO(descriptor) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Refusal("unreadable", f"{_shown(path)} is not a regular file")
            if size != UNKNOWN and (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
                return Refusal("changed", f"it was listed with {size} bytes, and was written to since")
            if status.st_size > self.max_bytes:
                return Refusal("too_many_bytes", f"{status.st_size} bytes, more than limits.max_bytes {self.max_bytes}")
            return _read_all(file, self.max_bytes + 1)

    def _remote(self, uri: str, size: int, mtime_ns: int | None) -> bytes | Refusal:
        found = remote.fetch(uri, self.max_bytes, self.root) if self.anywhere else self._of_the_folder(uri)
        if isinstance(found, Refusal):
            return found
        content, changed_s = found
        if size not in (UNKNOWN, len(content)):
            return Refusal("changed", f"it was listed with {size} bytes and has {len(content)}")
        # A store tells the time in whole seconds where it is read, whatever it does where it is listed.
        if size != UNKNOWN and mtime_ns and changed_s and changed_s != mtime_ns // 10**9:
            return Refusal("changed", f"it was listed with {size} bytes, and was written to since")
        return content

    def _of_the_folder(self, uri: str) -> tuple[bytes, int] | Refusal:
        """A file of a folder that has been listed: where its store fails, or refuses access now, the job stops."""
        try:
            storage.resolve(uri)
        except UserError as error:  # an address that nothing could open
            return Refusal("unreadable", str(error))
        try:
            return storage.read_dated(uri, self.max_bytes)
        except FileNotFoundError:
            return Refusal("gone", f"{uri} is not there")


def listed_sizes(rows: pa.Table) -> np.ndarray | None:
    """int64 bytes of each listed file, ``UNLISTED_BYTES`` where they are not known; None for rows of another source."""
    if SIZE not in rows.column_names:
        return None
    sizes = rows.column(SIZE).fill_null(0).to_numpy()
    return np.where(sizes < 0, UNLISTED_BYTES, sizes)


def root_of(uri: str) -> str:
    """The folder of a source as a path where it is one: local files are opened as such, a URI of them too."""
    return str(storage.local_path(uri)) if storage.is_local(uri) else uri


def _read_all(file: io.FileIO, limit: int) -> bytes:
    """At most ``limit`` bytes; one read of an unbuffered file may return fewer than there are."""
    content = file.read(limit)
    while content and len(content) < limit and (more := file.read(limit - len(content))):
        content += more
    return content


def _shown(uri: bytes | str) -> str:
    return uri if isinstance(uri, str) else text_of(uri)
