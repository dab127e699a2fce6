"""What storage does with what fsspec opens: archives, memory, web servers."""

import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from cnnjob import storage
from cnnjob.errors import StorageError, UserError
from tests.servers import serving, told


@pytest.fixture
def archive(tmp_path) -> Path:
    """A zip archive with two files."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("in/one.txt", "hello")
        file.writestr("two.txt", "x" * 3_000_000)
    return path


def test_archives_are_read_where_they_lie(archive):
    """Files inside a zip archive are listed and read by a zip:// address."""
    root = f"zip://::{archive}"
    assert storage.list_files(root) == ["in/one.txt", "two.txt"]
    assert storage.read_bytes(storage.join(root, "in", "one.txt")) == b"hello"
    assert len(storage.read_bytes(storage.join(root, "two.txt"))) == 3_000_000
    assert len(storage.read_bounded(storage.join(root, "two.txt"), 2_000_000)) == 2_000_001
    assert storage.exists(storage.join(root, "in"))
    assert not storage.exists(storage.join(root, "none"))


def test_archives_that_are_missing_or_damaged(archive, tmp_path):
    """A missing archive is as a missing file; a damaged one, and writing into one, is the user's mistake."""
    assert not storage.exists(f"zip://a::{tmp_path}/none.zip")
    assert storage.list_files(f"zip://a::{tmp_path}/none.zip") == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"zip://a::{tmp_path}/none.zip")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    assert "no zip file" in told(lambda: storage.read_bytes(f"zip://a::{tmp_path}/bad.zip"), UserError)
    told(lambda: storage.write_bytes(f"zip://new::{archive}", b"x"), UserError)


def test_fsspec_stores_are_written_and_removed(tmp_path):
    """A store of fsspec takes files, whose folders need not be there, and lets them be removed."""
    folder = f"memory://{tmp_path.name}-new"
    for name in ("a/b", "a/c"):
        storage.write_bytes(storage.join(folder, name), pa.py_buffer(b"x"))
    storage.remove(storage.join(folder, "a/b"))
    assert storage.list_files(folder) == ["a/c"]
    storage.remove(folder)
    assert storage.list_files(folder) == []


def test_http_servers_are_read(tmp_path):
    """A file on an HTTP server is read, whole or in part, with its query kept."""
    with serving((200, b"x" * 3_000_000)) as (endpoint, requests):
        assert len(storage.read_bytes(f"{endpoint}/a?sig=1")) == 3_000_000
        assert len(storage.read_bounded(f"{endpoint}/a?sig=1", 10)) == 11
        assert storage.size(f"{endpoint}/a?sig=1") == 3_000_000
    assert set(requests) == {"HEAD /a?sig=1", "GET /a?sig=1"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, FileNotFoundError),
        (401, UserError),
        (403, UserError),
        (418, UserError),
        (500, StorageError),
        (503, StorageError),
    ],
)
def test_http_failures_are_no_missing_files(status, kind):
    """Only a 404 is a missing file; other answers are told for what they are, without the query's secret."""
    with serving((status, b"")) as (endpoint, _):
        for action in (storage.read_bytes, lambda uri: storage.read_bounded(uri, 1)):
            with pytest.raises(kind) as raised:
                action(f"{endpoint}/a?sig=SECRET")
            assert status == 404 or "SECRET" not in str(raised.value)
        if status == 404:
            assert not storage.exists(f"{endpoint}/a?sig=SECRET")
        else:
            told(lambda: storage.exists(f"{endpoint}/a?sig=SECRET"), kind)


def test_http_servers_that_are_gone():
    """A closed port is told as the world's failure."""
    with serving((200, b"")) as (endpoint, _):
        pass
    told(lambda: storage.read_bytes(f"{endpoint}/a"), StorageError)
    told(lambda: storage.write_bytes(f"{endpoint}/a", b"x"), UserError)
