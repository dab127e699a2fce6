"""One URI -> (filesystem, path), and files that are written whole or not at all.

The one place that opens URIs: local paths, ``file://``, ``s3://BUCKET/KEY?region=...`` and what fsspec opens, such as
``zip://FOLDER::/a/b.zip``. Local disks: write beside, flush to the disk, rename. Object stores: an object appears
whole when its upload ends, so a plain write already is atomic. What is published is decided by a manifest that is
written last; see ``data.manifest`` and ``scoring.commit``.

What a store raises is told as a UserError or a StorageError, see ``told``; only a missing file that was to be read
stays a FileNotFoundError.
"""

import datetime as dt
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from cnnjob import local_disk, object_store, s3_store, store_errors
from cnnjob.errors import IntegrityError, UserError
from cnnjob.store_errors import told_unless_missing

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WITH_QUERY = ("s3", "http", "https")
_PIECE_BYTES = 2**20

told = store_errors.told
"""Context manager around any access to a store outside this module."""
is_s3 = s3_store.is_s3
"""Whether a URI is an ``s3://`` address."""


@dataclass(frozen=True)
class Entry:
    """A file of a listing.

    Attributes:
        path: Relative to the listed folder.
        size: Bytes; -1 where the store does not say.
        mtime_ns: Of the last change, in ns since 1970; 0 where the store does not say.
    """

    path: str
    size: int
    mtime_ns: int


def resolve(uri: str) -> tuple[Any, str]:
    """The filesystem and the path on it.

    A text without ``SCHEME://`` is a local path, whatever else is in it. The path of an ``s3://`` or ``file://`` URI
    may be percent-encoded; the query of ``s3://`` can have ``region``, ``endpoint_override``, ``scheme`` and
    ``anonymous``, and what it leaves open comes from the standard ``AWS_*`` variables.

    Raises:
        UserError: The URI is not one of these, or has credentials in it.
        FileNotFoundError: The archive that the URI looks into is not there.
        StorageError: The region of a bucket could not be found out.
    """
    prefix, path, tail = _split(uri)
    if not prefix:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    with told_unless_missing(uri):
        if prefix == "s3://":
            return s3_store.open_s3(path, tail.removeprefix("?"))
        if prefix != "file://":
            return object_store.open_fsspec(uri)
    if not path.startswith("/"):
        raise UserError(f"{uri}: a file:// address has three slashes and no host, as in file:///data/digits")
    return pafs.LocalFileSystem(), unquote(path)


def _split(uri: str) -> tuple[str, str, str]:
    """The scheme with its slashes, the path, and what stays behind it: a query, or the rest of a chain."""
    match = _SCHEME.match(uri)
    if not match:
        return "", uri, ""
    scheme, rest = match[1].lower(), uri[match.end() :]
    mark = {"file": "\0"}.get(scheme, "?" if scheme in _WITH_QUERY else "::")
    path, found, tail = rest.partition(mark)
    return f"{scheme}://", path, found + tail


def is_local(uri: str) -> bool:
    """Whether the URI lies on a disk of this machine."""
    return _split(uri)[0] in {"", "file://"}


def local_path(uri: str) -> Path:
    """The path of a URI for which ``is_local`` holds."""
    return Path(resolve(uri)[1])


def real(uri: str) -> str:
    """A local path without links, so that what is exchanged is the folder and never a link to it; a URI as it is."""
    return os.path.realpath(local_path(uri)) if is_local(uri) else uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """The URI of something below ``uri``; a query or the rest of a chain keeps its place.

    The parts are names as a listing has them, not encoded; each may have slashes.

    Raises:
        UserError: A part has ``::``, which inside a chain would be the next link.
    """
    prefix, path, tail = _split(uri)
    if tail.startswith("::") and any("::" in part for part in parts):
        raise UserError(f"{store_errors.shown(uri)}: a name with '::' in it cannot be read here: {'/'.join(parts)!r}")
    names = [_encoded(prefix, part) for part in parts]
    return prefix + "/".join([path.rstrip("/"), *names] if path else names) + tail


def parent(uri: str) -> str:
    """The URI of the folder that ``uri`` lies in, such that ``join(parent(uri), name(uri))`` is ``uri`` again."""
    prefix, path, tail = _split(uri)
    if not prefix:
        return str(Path(uri).parent)
    above = path.rstrip("/").rpartition("/")[0]
    return prefix + (above or "/"[: path.startswith("/")]) + tail


def name(uri: str) -> str:
    """The last part of the URI's path, decoded; empty at the root."""
    prefix, path, _ = _split(uri)
    last = path.rstrip("/").rpartition("/")[2]
    return unquote(last) if prefix in {"s3://", "file://"} else last


def _encoded(prefix: str, part: str) -> str:
    if prefix == "s3://":
        return part.replace("%", "%25").replace("?", "%3F")
    return quote(part) if prefix == "file://" else part


def exists(uri: str) -> bool:
    """Whether a file or a folder is there."""
    return bool(_info(uri).type != pafs.FileType.NotFound)


def size(uri: str) -> int | None:
    """Bytes of a file; None where there is none."""
    info = _info(uri)
    return int(info.size) if info.type == pafs.FileType.File else None


def _info(uri: str) -> Any:
    try:
        with told_unless_missing(uri):
            filesystem, path = resolve(uri)
            return filesystem.get_file_info(path)
    except FileNotFoundError:
        return pafs.FileInfo(uri, pafs.FileType.NotFound)


def list_files(uri: str) -> list[str]:
    """Paths of the files below ``uri``, relative to it, sorted; none where it does not exist.

    One listing, about 0.6 KB of memory a file; ``entries`` is for folders of any size.

    Raises:
        UserError: There is no such bucket, or access was refused.
        StorageError: The store failed.
    """
    return sorted(sizes(uri))


def sizes(uri: str) -> dict[str, int]:
    """The files that ``list_files`` lists with their bytes, -1 where the store does not say; in no promised order."""
    try:
        with told_unless_missing(uri):
            filesystem, path = resolve(uri)
            infos = object_store.listing(filesystem, path, may_be_gone=is_local(uri))
    except FileNotFoundError:
        if is_local(uri):
            raise
        return {}
    files = (info for info in infos if info.type == pafs.FileType.File)
    return {_relative(info, path): -1 if info.size is None else info.size for info in files}


def entries(uri: str) -> Iterator[Entry]:
    """The files below a folder that is not local, in no promised order, while they are listed.

    Objects that only mark a folder are left out. See ``object_store.walk`` for requests and memory.

    Raises:
        UserError: There is no such bucket or folder, access was refused, or an object's name cannot be addressed.
        StorageError: The store failed.
    """
    with told(uri):
        filesystem, path = resolve(uri)
    infos = object_store.walk(filesystem, path)
    while True:
        with told(uri):
            info = next(infos, None)
        if info is None:
            return
        yield Entry(_relative(info, path), -1 if info.size is None else info.size, info.mtime_ns or 0)


def _relative(info: Any, folder: str) -> str:
    return str(info.path).removeprefix(folder.rstrip("/")).lstrip("/")


def remove(uri: str) -> None:
    """Remove a file or a folder with all below it; no error where there is none.

    On S3 pyarrow then puts an empty object in the place of the folder above, which no listing here returns.
    """
    with suppress(FileNotFoundError), told_unless_missing(uri):
        filesystem, path = resolve(uri)
        kind = filesystem.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            filesystem.delete_dir(path)
        elif kind == pafs.FileType.File:
            filesystem.delete_file(path)


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: There is none.
        UserError: Access was refused.
        StorageError: The store failed.
    """
    return _read(uri, sys.maxsize)[0]


def read_bounded(uri: str, max_bytes: int) -> bytes:
    """The first bytes of a file: all of a file of ``max_bytes``, and one byte more of a longer one.

    Raises:
        FileNotFoundError: There is none.
        UserError: Access was refused.
        StorageError: The store failed.
    """
    return _read(uri, max_bytes + 1)[0]


def read_dated(uri: str, max_bytes: int) -> tuple[bytes, int]:
    """As ``read_bounded``, and on S3 the second of the object's last change, since 1970; elsewhere 0."""
    return _read(uri, max_bytes + 1)


def _read(uri: str, limit: int) -> tuple[bytes, int]:
    with told_unless_missing(uri):
        filesystem, path = resolve(uri)
        if isinstance(filesystem, pafs.S3FileSystem):
            # One request for all of it; of a stream each read is a request, and pyarrow reads 256 KiB at a time.
            with filesystem.open_input_file(path) as file:
                return bytes(file.read(min(file.size(), limit))), _changed_s(file.metadata())
        pieces = []
        with filesystem.open_input_stream(path, compression=None) as stream:
            while limit and (piece := stream.read(min(limit, _PIECE_BYTES))):
                pieces.append(piece)
                limit -= len(piece)
        return b"".join(pieces), 0


def _changed_s(metadata: Mapping[str | bytes, bytes]) -> int:
    last = metadata.get("Last-Modified", metadata.get(b"Last-Modified"))
    return int(dt.datetime.fromisoformat(last.decode()).timestamp()) if last else 0


def copy(source: str, target: str) -> None:
    """Copy a file within one store; an existing one is replaced at once. Where the source is gone, the target stays.

    Raises:
        FileNotFoundError: Neither is there.
        StorageError: The store failed.
    """
    try:
        with told_unless_missing(target):
            filesystem, path = resolve(source)
            filesystem.copy_file(path, resolve(target)[1])
    except FileNotFoundError:
        if not exists(target):
            raise


def read_json(uri: str) -> Any:
    """The JSON document in a file.

    Raises:
        FileNotFoundError: There is none.
        IntegrityError: It is not JSON.
    """
    return parse_json(uri, read_bytes(uri))


def parse_json(uri: str, content: bytes) -> Any:
    """The JSON document that was read from a file.

    Raises:
        IntegrityError: It is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{uri} is damaged: it is not readable JSON ({error})") from error


def write_bytes(uri: str, content: bytes | pa.Buffer) -> None:
    """Write a file whole or not at all; an existing one is replaced at once. Local folders above it are created.

    Raises:
        UserError: There is no such bucket, no file can be made there, or access was refused.
        StorageError: The disk is full or failed, or the store did.
    """
    with told(uri):
        filesystem, path = resolve(uri)
        if isinstance(filesystem, pafs.LocalFileSystem):
            try:
                local_disk.write(Path(path), content)
            except FileNotFoundError as error:  # as of /proc; "does not exist" would be said of what is to be made
                raise UserError(
                    f"{uri} cannot be written: no file can be made in {Path(path).parent}. Choose another place."
                ) from error
            return
        if isinstance(filesystem, pafs.S3FileSystem) and len(content) >= s3_store.LARGE_BYTES:
            _, address, tail = _split(uri)
            filesystem, path = s3_store.open_s3(address, tail.removeprefix("?"), is_large=True)
        # Object stores need no folders: creating them would leave marker objects, or create a bucket.
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)


def write_json(uri: str, document: Any) -> None:
    """Write a JSON document whole or not at all."""
    write_bytes(uri, json_bytes(document))


def json_bytes(document: Any) -> bytes:
    """A document as JSON, readable by people and the same for the same content."""
    return (json.dumps(document, indent=1, ensure_ascii=False, sort_keys=False, default=str) + "\n").encode()
