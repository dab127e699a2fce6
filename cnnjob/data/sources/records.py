"""Pictures that lie one behind another in raw files, as records of one size: what IDX and CIFAR have in common."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa

from cnnjob import storage
from cnnjob.data.sources.base import check_unchanged, listing_table
from cnnjob.errors import DatasetError, IntegrityError
from cnnjob.schema import ID, SPLITS

FILE = "_file"
RECORD = "_record"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class RecordFile:
    """One file of records.

    Attributes:
        uri: The raw file.
        split: The split it is given for.
        identity: What the file that was listed was before, see ``identity_of``: this one, or the packed one it is from.
        header_bytes: Bytes before the first record.
    """

    uri: str
    split: str
    identity: list[object]
    header_bytes: int = 0


@dataclass(frozen=True)
class RecordReader:
    """Reads records of listed rows, a run of neighbours at once.

    Attributes:
        files: The listing's column ``file`` points here.
        skip_bytes: Bytes of a record before its pixels.
        shape: H, W for gray; H, W, 3 for color.
        planar: Color lies as three planes, 3 x H x W.
    """

    files: tuple[RecordFile, ...]
    skip_bytes: int
    shape: tuple[int, ...]
    planar: bool = False

    @property
    def record_bytes(self) -> int:
        """Size of a record."""
        return self.skip_bytes + int(np.prod(self.shape))

    def read(self, rows: pa.Table) -> Iterator[np.ndarray]:
        """The pixels of listed rows.

        Raises:
            IntegrityError: A file was written to since it was listed: the labels are those of other pictures.
        """
        files, records = rows.column(FILE).to_numpy(), rows.column(RECORD).to_numpy()
        listed = [self.files[number].identity for number in np.unique(files)]
        check_unchanged(listed)
        breaks = np.flatnonzero((np.diff(files) != 0) | (np.diff(records) != 1)) + 1
        for run in np.split(np.arange(len(rows)), breaks):
            if len(run):
                yield from self._records(self.files[files[run[0]]], int(records[run[0]]), len(run))
        check_unchanged(listed)

    def uris(self, rows: pa.Table) -> list[str]:
        """The ids, which name a split and a record of it."""
        return rows.column(ID).to_pylist()  # type: ignore[no-any-return]

    def _records(self, file: RecordFile, first: int, count: int) -> Iterator[np.ndarray]:
        """The pixels of neighbours, some megabytes read at a time."""
        step = max(1, _CHUNK_BYTES // self.record_bytes)
        for start in range(first, first + count, step):
            yield from self._read(file, start, min(step, first + count - start))

    def _read(self, file: RecordFile, first: int, count: int) -> np.ndarray:
        """uint8 N x H x W or N x H x W x 3."""
        offset = file.header_bytes + first * self.record_bytes
        filesystem, path = storage.resolve(file.uri)
        with storage.told(file.uri), filesystem.open_input_file(path) as stream:
            content = stream.read_at(count * self.record_bytes, offset)
        if len(content) < count * self.record_bytes:
            raise IntegrityError(
                f"{file.uri} has become shorter while it was read. Nothing was published; run the same command again."
            )
        records = np.frombuffer(content, dtype=np.uint8).reshape(count, self.record_bytes)[:, self.skip_bytes :]
        if self.planar:
            height, width, channels = self.shape
            return records.reshape(count, channels, height, width).transpose(0, 2, 3, 1)
        return records.reshape(count, *self.shape)


def list_records(files: Sequence[RecordFile], counts: Sequence[int], labels: np.ndarray) -> pa.Table:
    """The listing of files with so many records each, ids ``SPLIT/000123`` counted through each split."""
    seen = dict.fromkeys(SPLITS, 0)
    ids: list[str] = []
    for file, count in zip(files, counts, strict=True):
        ids += [f"{file.split}/{row:06d}" for row in range(seen[file.split], seen[file.split] + count)]
        seen[file.split] += count
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    records = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    given = np.array([SPLITS.index(file.split) for file in files], dtype=np.int8)[numbers]
    own: dict[str, Any] = {FILE: pa.array(numbers), RECORD: pa.array(records)}
    return listing_table(pa.array(ids, pa.string()), pa.array(labels.astype(np.int32)), pa.array(given), own)


def unpack_gzip(uri: str, target: str, expected_bytes: int) -> None:
    """Unpack a .gz file, with the size it should have.

    Raises:
        DatasetError: It is damaged, or longer or shorter than expected.
    """
    filesystem, path = storage.resolve(target)
    if storage.is_local(target):
        storage.local_path(target).parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with storage.told(target), open_gzip(uri) as source, filesystem.open_output_stream(path) as sink:
        while written <= expected_bytes and (piece := read_gzip(source, _CHUNK_BYTES, uri)):
            sink.write(piece)
            written += len(piece)
    if written != expected_bytes:
        raise damaged(uri, expected_bytes, f"{written}{' or more' if written > expected_bytes else ''}")


def open_gzip(uri: str) -> IO[bytes]:
    """A stream of the unpacked bytes."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri):
        return gzip.GzipFile(fileobj=filesystem.open_input_file(path))  # type: ignore[return-value]


def read_gzip(stream: IO[bytes], count: int, uri: str) -> bytes:
    """At most ``count`` bytes of a stream, fewer only at its end.

    Raises:
        DatasetError: The packed file is damaged.
    """
    with storage.told(uri), unpacking(uri):
        return stream.read(count)


@contextmanager
def unpacking(uri: str, *kinds: type[Exception]) -> Iterator[None]:
    """Tell what unpackers raise on a damaged file, those of gzip and of ``kinds``, as a DatasetError.

    Inside of ``storage.told``: gzip's error is an OSError, and would be taken for the disk's.
    """
    damages: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error, *kinds)
    try:
        yield
    except damages as error:
        raise DatasetError(
            f"{uri} cannot be unpacked: {str(error).rstrip('.')}. It is truncated or damaged; fetch it again."
        ) from error


def names_in(folder: str, wanted: str) -> list[str]:
    """Paths of the files below a source's folder, sorted.

    Raises:
        DatasetError: It is not there, or is a file; it should be what is ``wanted``.
    """
    with storage.told(folder):
        is_there, is_file = storage.exists(folder), storage.size(folder) is not None
        if is_there and not is_file:
            return storage.list_files(folder)
    raise DatasetError(f"{folder} {'is a file' if is_file else 'does not exist'}; source.uri should be {wanted}.")


def damaged(uri: str, expected: int, found: object) -> DatasetError:
    """The error of a file that is shorter or longer than it says."""
    return DatasetError(f"{uri} should have {expected} bytes and has {found}: truncated or damaged. Fetch it again.")
