import errno
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest

from cnnjob import storage
from cnnjob.data import rows as rows_module
from cnnjob.data.manifest import Shard
from cnnjob.data.rows import Span, _opened, read_rows, read_span, read_spans, spans
from cnnjob.errors import CnnjobError, IntegrityError, StorageError, UserError
from cnnjob.schema import ID
from tests.faults import Fault
from tests.helpers import Dataset, manifest_of, training_rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return training_rows(tmp_path_factory.mktemp("rows") / "set", 45)


def test_every_range_is_a_slice_of_the_whole(dataset):
    """Any range of rows, across shards and row groups, is that slice of the whole split."""
    split, shape = dataset.manifest.splits["train"], dataset.manifest.image.shape
    whole = read_rows(dataset.path, split, 0, split.rows, shape)
    assert len(set(whole.ids)) == split.rows == 45
    for start in range(0, 45, 4):
        for stop in range(start, 46, 3):
            part = read_rows(dataset.path, split, start, stop, shape)
            assert part.ids == whole.ids[start:stop]
            assert np.array_equal(part.images, whole.images[start:stop])
            assert np.array_equal(part.labels, whole.labels[start:stop])


def test_no_rows_are_an_empty_array(dataset):
    """An empty range has arrays of no rows and of the right shape."""
    rows = read_rows(dataset.path, dataset.manifest.splits["train"], 7, 7, dataset.manifest.image.shape)
    assert (rows.ids, rows.images.shape, rows.labels.shape) == ([], (0, 3, 8, 8), (0,))


def test_spans_skip_shards_outside_of_the_range():
    """A range touches only the shards that hold some of it."""
    split = manifest_of([10, 0, 5, 20]).splits["test"]
    assert spans(split, 12, 18) == [Span(split.shards[2], 2, 5), Span(split.shards[3], 0, 3)]


def test_spans_of_a_file_are_read_with_one_opening(dataset, monkeypatch):
    """Spans in any order, some of them row by row, give each its rows under its number; a file is opened once."""
    opened = []
    monkeypatch.setattr(rows_module, "_opened", lambda uri, shard: opened.append(uri) or _opened(uri, shard))
    split = dataset.manifest.splits["train"]
    expected = read_rows(dataset.path, split, 0, split.rows, dataset.manifest.image.shape).ids
    opened.clear()
    first = {shard.path: sum(each.rows for each in split.shards[:at]) for at, shard in enumerate(split.shards)}
    pieces = [*spans(split, 0, split.rows), *(spans(split, row, row + 3)[0] for row in range(split.rows - 1, -1, -2))]
    found = {number: [] for number in range(len(pieces))}
    for number, table in read_spans(dataset.path, pieces, (ID,)):
        found[number] += table.column(ID).to_pylist()
    for number, span in enumerate(pieces):
        begin = first[span.shard.path]
        assert found[number] == expected[begin + span.start : begin + span.stop]
    assert sorted(opened) == sorted(f"{dataset.path}/{path}" for path in first)


def test_missing_shard_is_an_integrity_error(dataset):
    """A shard that is gone is told with its path."""
    span = Span(Shard(path="train/99999.parquet", rows=3, bytes=1, sha256="", footer_sha256=""), 0, 3)
    with pytest.raises(IntegrityError, match="99999"):
        list(read_span(dataset.path, span, (ID,)))


def test_another_shard_is_an_integrity_error(dataset):
    """A file in a shard's place that is as sound as the shard is refused before a row of it is used."""
    one, other = dataset.manifest.splits["train"].shards[:2]
    with pytest.raises(IntegrityError, match="not the file that its manifest names"):
        list(read_span(dataset.path, Span(one.model_copy(update={"path": other.path}), 0, 1), (ID,)))


def test_a_shard_cut_short_is_an_integrity_error(tmp_path):
    """A shard that lost its end is refused."""
    dataset = training_rows(tmp_path / "set", 12)
    split = dataset.manifest.splits["train"]
    path = Path(dataset.path, split.shards[0].path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError):
        read_rows(dataset.path, split, 0, 12, dataset.manifest.image.shape)


@pytest.mark.slow
def test_a_flipped_bit_in_a_shard_changes_no_row(tmp_path):
    """Whichever byte of a shard has a bit flipped, reading it is refused or gives the same rows; mostly refused."""
    dataset = training_rows(tmp_path / "set", 12)
    split, shape = dataset.manifest.splits["train"], dataset.manifest.image.shape
    whole = read_rows(dataset.path, split, 0, split.rows, shape)
    path = Path(dataset.path, split.shards[0].path)
    sound = path.read_bytes()
    unnoticed = 0
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        try:
            found = read_rows(dataset.path, split, 0, split.rows, shape)
        except IntegrityError:
            continue
        unnoticed += 1
        assert found.ids == whole.ids, at
        assert np.array_equal(found.images, whole.images), at
        assert np.array_equal(found.labels, whole.labels), at
    assert unnoticed < len(sound) / 20


@pytest.fixture
def remote(dataset, s3_folder, proxy) -> Dataset:
    """The data set on a store behind the proxy."""
    for name in storage.list_files(dataset.path):
        storage.write_bytes(storage.join(s3_folder, name), storage.read_bytes(storage.join(dataset.path, name)))
    return Dataset(s3_folder, dataset.manifest)


def read_all(dataset: Dataset) -> list[str]:
    """The ids of all training rows, which are read with their images."""
    split = dataset.manifest.splits["train"]
    return read_rows(dataset.path, split, 0, split.rows, dataset.manifest.image.shape).ids


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("kind", ["busy", "break", "lose", "cut", "reset"])
def test_a_store_that_fails_is_not_damage(remote, proxy, kind, method):
    """Whatever the network or the server does while rows are read, nothing says that they should be prepared again."""
    proxy.faults = [Fault(kind, only=f"{method} /")]
    with pytest.raises(StorageError, match="run the same command again") as told:
        read_all(remote)
    assert "repare" not in str(told.value)
    proxy.faults = []
    assert len(read_all(remote)) == 45


def test_access_that_is_refused_is_not_damage(remote, monkeypatch):
    """Wrong credentials are the user's to mend, and nothing says that the data set should be prepared again."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="refused access") as told:
        read_all(remote)
    assert "repare" not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [None, lambda content: content[:-9], lambda content: content[:99] + content[100:]],
    ids=["gone", "cut", "gap"],
)
def test_damage_on_a_store_is_damage(remote, change):
    """A shard on S3 that is gone, cut short or lacks a byte is one to prepare again."""
    shard = storage.join(remote.path, remote.manifest.splits["train"].shards[0].path)
    content = storage.read_bytes(shard)
    storage.remove(shard)
    if change:
        storage.write_bytes(shard, change(content))
    with pytest.raises(IntegrityError, match="Prepare the data set again"):
        read_all(remote)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), UserError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (OSError(errno.ESTALE, "Stale file handle"), StorageError),
        (FileNotFoundError(errno.ENOENT, "No such file"), IntegrityError),
        (OSError("could not verify page integrity"), IntegrityError),
        (pa.ArrowInvalid("Parquet magic bytes not found in footer"), IntegrityError),
        (pa.ArrowNotImplementedError("Integers with less than 8 bits not implemented"), IntegrityError),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid start byte"), IntegrityError),
    ],
)
def test_what_a_disk_does_and_what_bytes_are_is_told_apart(dataset, monkeypatch, error, kind):
    """What the disk refuses or fails at is told as such; what is wrong with a file's bytes is damage."""
    monkeypatch.setattr(rows_module.pq.ParquetFile, "read_row_group", Mock(side_effect=error))
    with pytest.raises(CnnjobError) as told:
        read_all(dataset)
    assert type(told.value) is kind
    assert ("Prepare the data set again" in str(told.value)) == (kind is IntegrityError)
