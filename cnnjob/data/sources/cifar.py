"""CIFAR-10 and CIFAR-100 in their binary version, a folder or the .tar.gz as it is published.

The format, from www.cs.toronto.edu/~kriz/cifar.html: records of one label byte (CIFAR-100: coarse, then fine) and
3,072 bytes of pixels, the red plane of 32x32, then green, then blue. The Python version is pickled; loading a pickle
runs whatever it says, so it is recognized and refused.
"""

import gzip
import re
import tarfile
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from cnnjob import storage
from cnnjob.config.prepare import SourceConfig
from cnnjob.data.sources.base import Listing, check_labels, check_unchanged, identity_of
from cnnjob.data.sources.records import RecordFile, RecordReader, list_records, names_in, unpacking
from cnnjob.digests import digest_of
from cnnjob.errors import DatasetError
from cnnjob.schema import ID

_SHAPE = (32, 32, 3)
_PIXEL_BYTES = 3072
_ROWS_AT_ONCE = 10_000
_CHUNK_BYTES = 1 << 20
_DATA = re.compile(r"^(data_batch_\d+|test_batch|train|test)\.bin$")
_NAMES = ("batches.meta.txt", "fine_label_names.txt", "coarse_label_names.txt")
_PICKLED = re.compile(r"^(data_batch_\d+|test_batch|batches\.meta)$")
_MAX_MEMBER_BYTES = 1 << 31
"""A file in the archive beyond this is not CIFAR's: the largest has 154 MB."""


@dataclass(frozen=True)
class _Variant:
    """CIFAR-10 or -100: how many label bytes, which is used, and the names' file."""

    label_bytes: int
    label_at: int
    names_file: str
    num_classes: int


class CifarSource:
    """A folder of binary batches, or the archive they come in."""

    def __init__(self, config: SourceConfig) -> None:
        self._uri = str(config.uri)
        self._config = config

    def digest(self) -> str:
        """Of the files' names, sizes and times."""
        return digest_of(list(self._identities.values()))

    def listing(self, scratch: str) -> Listing:
        """Read the labels; unpack an archive into ``scratch`` first.

        Raises:
            DatasetError: See ``Source``.
            IntegrityError: A file was written to meanwhile: pictures and labels may be of two sets.
        """
        # Before what is in the files: one that is exchanged in between is then another one when it is read.
        identities = self._identities
        if self._is_archive:
            self._unpack(storage.join(scratch, "cifar"))
            found = {PurePosixPath(name).name: name for name in storage.list_files(storage.join(scratch, "cifar"))}
            uris = {name: storage.join(scratch, "cifar", path) for name, path in found.items()}
        else:
            uris = {storage.name(uri): uri for uri in self._inputs}
        batches = sorted(name for name in uris if _DATA.match(name))
        if not batches:
            raise DatasetError(f"{self._uri} has none of CIFAR's binary files, such as data_batch_1.bin or train.bin.")
        variant = self._variant(batches)
        files = tuple(
            RecordFile(
                uris[name],
                "test" if name.startswith("test") else "train",
                identities[self._uri if self._is_archive else uris[name]],
            )
            for name in batches
        )
        labels = [_read_labels(file.uri, variant) for file in files]
        every = np.concatenate(labels)
        names = self._class_names(uris.get(variant.names_file), variant)
        rows = list_records(files, [len(found) for found in labels], every)
        check_labels(every, names, self._uri, lambda at: str(rows.column(ID)[at]))
        check_unchanged(identities.values())
        reader = RecordReader(files, variant.label_bytes, _SHAPE, planar=True)
        return Listing(rows, names, reader, identities=list(identities.values()))

    @property
    def _is_archive(self) -> bool:
        return storage.name(self._uri).endswith((".tar.gz", ".tgz", ".tar"))

    @cached_property
    def _identities(self) -> dict[str, list[object]]:
        """Of each file, or of the archive."""
        return {uri: identity_of(uri) for uri in self._inputs}

    @cached_property
    def _inputs(self) -> list[str]:
        """The archive, or the files of the folder that belong to the set."""
        if self._is_archive:
            return [self._uri]
        names = names_in(self._uri, "CIFAR's folder or archive")
        for name in names:
            _refuse_pickled(PurePosixPath(name).name, self._uri)
        wanted = [name for name in names if _is_wanted(PurePosixPath(name).name)]
        if len({PurePosixPath(name).name for name in wanted}) < len(wanted):
            raise DatasetError(f"{self._uri} has files of the same name in several folders; give one of the folders.")
        return [storage.join(self._uri, name) for name in wanted]

    def _variant(self, batches: list[str]) -> _Variant:
        if all(name in ("train.bin", "test.bin") for name in batches):
            if self._config.labels == "fine":
                return _Variant(2, 1, "fine_label_names.txt", 100)
            return _Variant(2, 0, "coarse_label_names.txt", 20)
        if any(name in ("train.bin", "test.bin") for name in batches):
            raise DatasetError(f"{self._uri} has files of both CIFAR-10 and CIFAR-100: {', '.join(batches)}.")
        return _Variant(1, 0, "batches.meta.txt", 10)

    def _class_names(self, names_uri: str | None, variant: _Variant) -> tuple[str, ...]:
        if self._config.class_names is not None:
            return self._config.class_names
        if names_uri is None:
            return tuple(str(number) for number in range(variant.num_classes))
        lines = storage.read_bounded(names_uri, 1 << 16).decode("utf-8", "replace").split("\n")
        names = tuple(line.strip() for line in lines if line.strip())
        if len(set(names)) < len(names):
            raise DatasetError(
                f"{names_uri} has a class name more than once. Fetch it again, or give all names in source.class_names."
            )
        return names

    def _unpack(self, target: str) -> None:
        # What an earlier run has unpacked need not be of this archive.
        storage.remove(target)
        filesystem, path = storage.resolve(self._uri)
        with (
            storage.told(self._uri),
            filesystem.open_input_stream(path, compression=None) as packed,
            unpacking(self._uri, tarfile.TarError),
            _unpacked(packed, is_packed=not storage.name(self._uri).endswith(".tar")) as stream,
        ):
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    self._unpack_member(archive, member, target)
            # Read to the end, where gzip has its checksum.
            while stream.read(_CHUNK_BYTES):
                pass

    def _unpack_member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
        """Copy one of the expected files; only its base name is used, so no member can name a place outside."""
        name = PurePosixPath(member.name).name
        if not member.isfile():
            return
        _refuse_pickled(name, self._uri)
        if not _is_wanted(name):
            return
        if member.size > _MAX_MEMBER_BYTES:
            raise DatasetError(f"{self._uri}: {member.name} has {member.size} bytes, which is not CIFAR's.")
        content = archive.extractfile(member)
        if content is not None:
            storage.write_bytes(storage.join(target, name), content.read())


def _unpacked(stream: Any, *, is_packed: bool) -> Any:
    return gzip.GzipFile(fileobj=stream) if is_packed else nullcontext(stream)


def _is_wanted(name: str) -> bool:
    return bool(_DATA.match(name)) or name in _NAMES


def _refuse_pickled(name: str, where: str) -> None:
    if _PICKLED.match(name):
        raise DatasetError(
            f"{where} has CIFAR's Python version ({name}), which is pickled: loading a pickle runs any code in it, so "
            f"it is never loaded. Get the binary version, such as cifar-10-binary.tar.gz."
        )


def _read_labels(uri: str, variant: _Variant) -> np.ndarray:
    """int64 labels of a file, read a few MB at a time."""
    record = variant.label_bytes + _PIXEL_BYTES
    size = storage.size(uri) or 0
    if size == 0 or size % record:
        raise DatasetError(
            f"{uri} has {size} bytes, which is not a multiple of its record's {record}: truncated or damaged. "
            f"Fetch it again."
        )
    labels = []
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file:
        while content := file.read(record * _ROWS_AT_ONCE):
            labels.append(np.frombuffer(content, dtype=np.uint8)[variant.label_at :: record].astype(np.int64))
    return np.concatenate(labels)
