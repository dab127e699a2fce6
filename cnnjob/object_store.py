"""Stores that are no disk of this machine, as pyarrow's filesystems: what fsspec opens, and listings of any size."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from cnnjob.errors import UserError
from cnnjob.s3_store import check_key
from cnnjob.store_errors import explain, faults_kept, shown, tidy

_FREE_LISTINGS, _FILES_PER_LISTING = 1000, 250
"""A folder is listed by itself, at a request of some 30 ms, as long as that brings a quarter of the 1000 names that
one request can; the first thousand requests, half a minute, are not counted."""


def open_fsspec(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI that fsspec opens, and the path on it.

    Raises:
        UserError: fsspec does not know the protocol, or lacks the package for it, which is named.
        FileNotFoundError: The archive that the URI looks into is not there.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        filesystem, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{shown(uri)}: {tidy(str(error))}. A local path that looks like an address is written ./PATH."
        ) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise explain(uri, error) or UserError(f"{shown(uri)}: {tidy(str(error))}") from error
    return pafs.PyFileSystem(_Handler(filesystem)), str(path)


class _Handler(pafs.FSSpecHandler):  # type: ignore[misc]
    """fsspec for pyarrow, where a server that fails is not taken for a file that is missing.

    fsspec's HTTP filesystem raises FileNotFoundError *from* whatever went wrong, and pyarrow's own handler asks
    ``isfile`` first, which answers False to every error.
    """

    def get_file_info(self, paths: list[str]) -> list[Any]:
        found = []
        for path in paths:
            try:
                with faults_kept():
                    found.append(self._create_file_info(path, self.fs.info(path)))
            except FileNotFoundError:
                found.append(pafs.FileInfo(path, pafs.FileType.NotFound))
        return found

    def open_input_stream(self, path: str) -> Any:
        with faults_kept():
            return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    open_input_file = open_input_stream


def listing(filesystem: Any, folder: str, *, recursive: bool = True, may_be_gone: bool = False) -> list[Any]:
    """What pyarrow finds in a folder, as its FileInfo, all at once.

    Raises:
        FileNotFoundError: There is no such folder, unless it may be gone.
        UserError: S3 has an object there that cannot be addressed.
    """
    infos: list[Any] = filesystem.get_file_info(
        pafs.FileSelector(folder, recursive=recursive, allow_not_found=may_be_gone)
    )
    if isinstance(filesystem, pafs.S3FileSystem):
        for info in infos:
            check_key(info.path)
    return infos


def walk(filesystem: Any, root: str) -> Iterator[Any]:
    """The FileInfo of each file below a folder, in no promised order.

    pyarrow returns a listing whole, with 0.6 KB of memory a file (576 MiB for a million objects), so it is asked for
    folder after folder. Where the folders turn out small, the rest is listed at once: a request for each of a
    million folders would take hours.

    Raises:
        FileNotFoundError: There is no such folder.
        UserError: S3 has an object there that cannot be addressed.
    """
    waiting, done, found = [root], set[str](), 0
    while waiting and len(done) <= _FREE_LISTINGS + found // _FILES_PER_LISTING:
        folder = waiting.pop()
        infos = listing(filesystem, folder, recursive=False, may_be_gone=folder != root)
        done.add(folder.rstrip("/"))
        below = (info.path for info in infos if info.type == pafs.FileType.Directory)
        waiting += [path for path in below if path.rstrip("/") not in done]
        files = [info for info in infos if info.type == pafs.FileType.File]
        found += len(files)
        yield from files
    if waiting:
        for info in listing(filesystem, root):
            if info.type == pafs.FileType.File and info.path.rpartition("/")[0] not in done:
                yield info
