"""IDX, the format of MNIST and Fashion-MNIST: a file of images and one of labels for each split, raw or .gz.

The format, from yann.lecun.com/exdb/mnist: two zero bytes, a type (0x08: unsigned byte), the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values.
"""

import re
import struct
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from cnnjob import storage
from cnnjob.config.prepare import SourceConfig
from cnnjob.data.sources.base import Listing, check_labels, check_unchanged, identity_of
from cnnjob.data.sources.records import (
    RecordFile,
    RecordReader,
    damaged,
    list_records,
    names_in,
    open_gzip,
    read_gzip,
    unpack_gzip,
)
from cnnjob.digests import digest_of
from cnnjob.errors import DatasetError
from cnnjob.schema import ID

_NAME = re.compile(r"^(?P<set>.*-)?(?P<split>train|t10k|test|val)-(?P<part>images|labels)[-.]idx\d-ubyte(?P<gz>\.gz)?$")
_SPLITS = {"train": "train", "val": "val", "test": "test", "t10k": "test"}
_UNSIGNED_BYTE = 0x08
_COLOR_DIMENSIONS = 4
_MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class _Header:
    dimensions: tuple[int, ...]

    @property
    def size(self) -> int:
        return 4 + 4 * len(self.dimensions)

    @property
    def file_bytes(self) -> int:
        return self.size + prod(self.dimensions)


class IdxSource:
    """The pairs of IDX files in a folder."""

    def __init__(self, config: SourceConfig) -> None:
        self._folder = str(config.uri)
        self._class_names = config.class_names

    def digest(self) -> str:
        """Of the files' names, sizes and times."""
        return digest_of(list(self._identities.values()))

    def listing(self, scratch: str) -> Listing:
        """Read headers and labels; unpack .gz files of images into ``scratch``.

        Raises:
            DatasetError: See ``Source``.
            IntegrityError: A file was written to meanwhile: pictures and labels may be of two sets.
        """
        # Before what is in the files: one that is exchanged in between is then another one when it is read.
        identities = self._identities
        files, counts, labels, shapes = [], [], [], set()
        for split, (images, label_file) in self._pairs.items():
            header = _read_header(images)
            found = _read_labels(label_file)
            if len(header.dimensions) < 3 or len(found) != header.dimensions[0]:  # noqa: PLR2004 - N x H x W
                raise DatasetError(
                    f"{images} has dimensions {header.dimensions} and {label_file} {len(found)} labels: they do not "
                    f"belong together. Correct the folder."
                )
            raw = _unpacked(images, header, scratch)
            files.append(RecordFile(raw, split, identities[images], header.size))
            counts.append(len(found))
            labels.append(found)
            shapes.add(header.dimensions[1:])
        if len(shapes) != 1:
            raise DatasetError(f"{self._folder}: the files have pictures of different sizes: {sorted(shapes)}.")
        every = np.concatenate(labels)
        names = self._class_names or tuple(str(number) for number in range(int(every.max(initial=-1)) + 1))
        rows = list_records(files, counts, every)
        check_labels(every, names, self._folder, lambda at: str(rows.column(ID)[at]))
        check_unchanged(identities.values())
        reader = RecordReader(tuple(files), 0, shapes.pop())
        return Listing(rows, names, reader, identities=list(identities.values()))

    @cached_property
    def _identities(self) -> dict[str, list[object]]:
        """Of each file."""
        return {uri: identity_of(uri) for pair in self._pairs.values() for uri in pair}

    @cached_property
    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Images and labels by split; raw files before .gz ones."""
        names = [name for name in names_in(self._folder, "a folder of IDX files") if "/" not in name]
        found: dict[str, dict[str, str]] = {}
        sets = set()
        for name in names:
            if match := _NAME.match(name):
                sets.add(match["set"] or "")
                found.setdefault(_SPLITS[match["split"]], {}).setdefault(
                    match["part"], storage.join(self._folder, name)
                )
        if len(sets) > 1:
            raise DatasetError(
                f"{self._folder} has several sets of IDX files ({', '.join(sorted(sets))}); give each "
                f"a folder of its own."
            )
        complete = {split: parts for split, parts in found.items() if len(parts) == 2}  # noqa: PLR2004 - a pair
        if not complete or len(complete) < len(found):
            lacking = [
                f"{split} has only {', '.join(parts)}" for split, parts in found.items() if split not in complete
            ]
            detail = "; ".join(lacking) or f"{len(names)} other files are there"
            raise DatasetError(
                f"{self._folder} has no complete pair of IDX files ({detail}). Expected are names such as "
                f"train-images-idx3-ubyte(.gz) and train-labels-idx1-ubyte(.gz)."
            )
        return {split: (parts["images"], parts["labels"]) for split, parts in complete.items()}


def _read_header(uri: str) -> _Header:
    start = _head(uri, 4)
    if len(start) < 4 or start[:2] != b"\0\0":  # noqa: PLR2004 - the magic number
        raise DatasetError(f"{uri} is not an IDX file: it begins with {start.hex() or 'nothing'}, not with 0000.")
    kind, count = start[2], start[3]
    if kind != _UNSIGNED_BYTE or not 1 <= count <= _MAX_DIMENSIONS:
        raise DatasetError(f"{uri} has values of type 0x{kind:02x} in {count} dimensions; pictures are bytes (0x08).")
    content = _head(uri, 4 + 4 * count)
    if len(content) < 4 + 4 * count:
        raise damaged(uri, 4 + 4 * count, len(content))
    header = _Header(struct.unpack(f">{count}I", content[4:]))
    if 0 in header.dimensions[1:]:
        raise DatasetError(f"{uri} has dimensions {header.dimensions}: pictures without a pixel.")
    if len(header.dimensions) == _COLOR_DIMENSIONS and header.dimensions[3] != 3:  # noqa: PLR2004 - RGB
        raise DatasetError(f"{uri} has dimensions {header.dimensions}; color pictures are N x H x W x 3.")
    found = storage.size(uri)
    if not storage.name(uri).endswith(".gz") and found != header.file_bytes:
        raise damaged(uri, header.file_bytes, found)
    return header


def _head(uri: str, count: int) -> bytes:
    if storage.name(uri).endswith(".gz"):
        with open_gzip(uri) as stream:
            return read_gzip(stream, count, uri)
    filesystem, path = storage.resolve(uri)
    with storage.told(uri), filesystem.open_input_file(path) as file:
        return bytes(file.read(count))


def _read_labels(uri: str) -> np.ndarray:
    header = _read_header(uri)
    if len(header.dimensions) != 1:
        raise DatasetError(f"{uri} has dimensions {header.dimensions}; labels have one.")
    content = _head(uri, header.file_bytes + 1)
    if len(content) != header.file_bytes:
        raise damaged(uri, header.file_bytes, len(content))
    return np.frombuffer(content, dtype=np.uint8, offset=header.size).astype(np.int64)


def _unpacked(uri: str, header: _Header, scratch: str) -> str:
    if not storage.name(uri).endswith(".gz"):
        return uri
    target = storage.join(scratch, storage.name(uri).removesuffix(".gz"))
    # Also where an earlier run has: of what that found nothing says that it was this file.
    unpack_gzip(uri, target, header.file_bytes)
    return target
