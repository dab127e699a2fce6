import os
import threading
from pathlib import Path

import pytest

from cnnjob import local_disk, storage
from cnnjob.digests import digest_of
from cnnjob.errors import IntegrityError, StorageError, UserError
from tests.helpers import dies_at


def fail(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    """A write that fails before its end leaves the old content and no other file."""
    path = tmp_path / "file"
    storage.write_bytes(str(path), b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageError, match="No space"):
        storage.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_first_write_leaves_nothing(tmp_path, monkeypatch, step):
    """A first write that fails leaves no file at all."""
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageError, match="No space"):
        storage.write_bytes(str(tmp_path / "file"), b"new")
    assert list(tmp_path.iterdir()) == []


def test_write_creates_parents_and_replaces(tmp_path):
    """Writing creates the folders above, and replaces what was there."""
    uri = str(tmp_path / "a" / "b" / "file")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"three")
    assert storage.read_bytes(uri) == b"three"
    assert storage.size(uri) == 5


def test_files_are_read_as_they_are(tmp_path):
    """Content comes back byte for byte, also under names that suggest compression."""
    storage.write_bytes(str(tmp_path / "file.gz"), b"no gzip at all")
    assert storage.read_bytes(str(tmp_path / "file.gz")) == b"no gzip at all"


def test_file_uris_are_paths(tmp_path):
    """A file:// URI and its path are the same place."""
    uri = f"file://{tmp_path}/file"
    storage.write_bytes(uri, b"x")
    assert storage.read_bytes(str(tmp_path / "file")) == b"x"
    assert storage.is_local(uri)
    assert storage.local_path(uri) == tmp_path / "file"


@pytest.mark.parametrize("name", ["a?b=c", "a::b", "zip::", "two\nlines", "a:", "100%25", "s3:", "ü 蝶", "#"])
def test_plain_paths_are_local_whatever_is_in_them(tmp_path, name):
    """A path without a scheme is local, with any characters in its name."""
    uri = storage.join(str(tmp_path), name)
    storage.write_bytes(uri, b"x")
    assert (tmp_path / name).read_bytes() == storage.read_bytes(uri) == b"x"
    assert storage.is_local(uri)
    assert storage.list_files(str(tmp_path)) == [name]


@pytest.mark.parametrize("name", ["a b?c=d", "100%25", "#1", "ü 蝶"])
def test_file_uris_take_any_name(tmp_path, name):
    """What is joined to a file:// URI is a name, whose characters have no meaning in the URI."""
    storage.write_bytes(storage.join(f"file://{tmp_path}", name), b"x")
    assert (tmp_path / name).read_bytes() == b"x"


JOINED = [
    ("s3://b/a?region=x", "c", "s3://b/a/c?region=x"),
    ("s3://b?region=x", "c/d", "s3://b/c/d?region=x"),
    ("s3://b/a", "what?.png", "s3://b/a/what%3F.png"),
    ("s3://b/a", "50%41", "s3://b/a/50%2541"),
    ("s3://b/a", "x::y", "s3://b/a/x::y"),
    ("zip://a::/p.zip", "b", "zip://a/b::/p.zip"),
    ("zip://::/p.zip", "b", "zip://b::/p.zip"),
    ("zip://a::http://h/p.zip?sig=1", "b", "zip://a/b::http://h/p.zip?sig=1"),
    ("http://h/a?sig=1", "b", "http://h/a/b?sig=1"),
    ("memory://a", "b?c", "memory://a/b?c"),
    ("memory:///a", "b", "memory:///a/b"),
    ("file:///", "a", "file:///a"),
    ("/a", "b?c", "/a/b?c"),
    ("a", "b", "a/b"),
]


@pytest.mark.parametrize(("folder", "below", "whole"), JOINED)
def test_join_keeps_queries_and_chains_at_their_place(folder, below, whole):
    """A name is joined to the path of a URI, before its query or the rest of its chain, and can be taken off again."""
    assert storage.join(folder, below) == whole
    assert storage.name(whole) == below.rpartition("/")[2]
    assert storage.join(storage.parent(whole), storage.name(whole)) == whole


def test_parents_end_at_the_root():
    """Above the last name there is the root, and above the root nothing."""
    assert storage.parent("zip://a::/p.zip") == storage.parent("zip://::/p.zip") == "zip://::/p.zip"
    assert storage.name("zip://::/p.zip") == ""
    assert storage.parent("file:///a") == "file:///"
    assert storage.parent("/a/b/") == "/a"
    assert storage.name("/a/b/") == "b"


def test_addresses_of_s3_are_told_by_their_scheme():
    """Only what begins with s3:// lies on S3, whatever its case, and no file or archive that is called so."""
    assert all(map(storage.is_s3, ("s3://bucket/a", "S3://bucket")))
    assert not any(map(storage.is_s3, ("s3", "s3:/a", "./s3://a", "/data/s3://a", "zip://a::s3://bucket/a.zip")))


def test_a_chain_takes_no_name_with_colons():
    """A name with :: would be another link of a chain, so joining it is refused."""
    with pytest.raises(UserError, match="x::y"):
        storage.join("zip://a::/p.zip", "x::y")


def test_reads_are_bounded(tmp_path):
    """A bounded read gives the whole of a file that is short enough, and one byte more than allowed of a longer one."""
    (tmp_path / "file").write_bytes(b"x" * 100)
    uri = str(tmp_path / "file")
    assert [len(storage.read_bounded(uri, limit)) for limit in (0, 98, 99, 100, 10**12)] == [1, 99, 100, 100, 100]
    with pytest.raises(FileNotFoundError):
        storage.read_bounded(str(tmp_path / "none"), 10)


@pytest.mark.parametrize("what", ["folder", "file/below"])
def test_local_mistakes_are_told(tmp_path, what):
    """Reading a folder, or below a file, is told as the user's mistake, with the path."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=what):
        storage.read_bytes(str(tmp_path / what))


def test_told_leaves_what_no_store_raised(tmp_path):
    """Damaged content, mistakes in code and told errors pass unchanged; a missing file is the user's mistake."""
    for error in (OSError("Couldn't deserialize thrift"), KeyError("x"), IntegrityError("x")):
        with pytest.raises(type(error)) as raised, storage.told("/data"):
            raise error
        assert raised.value is error
    with pytest.raises(UserError, match="none does not exist"), storage.told(str(tmp_path / "none")):
        storage.read_bytes(str(tmp_path / "none"))


def test_missing_files_have_no_size(tmp_path):
    """What is not there does not exist, has no size, lists no files and can be removed."""
    uri = str(tmp_path / "none")
    assert not storage.exists(uri)
    assert storage.size(uri) is None
    assert storage.list_files(uri) == []
    storage.remove(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)


def test_remove_takes_files_and_folders(tmp_path):
    """Removing takes one file, or a folder with all below it, and nothing beside."""
    for name in ("a/b/c", "a/d", "e"):
        storage.write_bytes(str(tmp_path / name), b"x")
    storage.remove(str(tmp_path / "a" / "d"))
    assert storage.list_files(str(tmp_path)) == ["a/b/c", "e"]
    storage.remove(str(tmp_path / "a"))
    assert storage.list_files(str(tmp_path)) == ["e"]


def test_json_reads_back_equal(tmp_path):
    """A document comes back equal, text beyond ASCII included."""
    document = {"b": [1, 2.5, None], "a": {"ü": "蝶"}}
    storage.write_json(str(tmp_path / "x.json"), document)
    assert storage.read_json(str(tmp_path / "x.json")) == document


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_an_integrity_error(tmp_path, content):
    """What is no JSON is told as damage, with the file's name."""
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"x\.json"):
        storage.read_json(str(tmp_path / "x.json"))


def test_digest_ignores_the_order_of_keys():
    """The digest of a document depends on its content, not on the order of its keys."""
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1, "b": [2]}) != digest_of({"a": 1, "b": [3]})


def folder_of(path: Path, value: int) -> Path:
    """A folder whose two files say the same number."""
    path.mkdir()
    for name in ("one", "two"):
        (path / name).write_text(str(value))
    return path


def test_publish_without_a_predecessor(tmp_path):
    """A folder published where none was is there, and the staged one is gone."""
    target = tmp_path / "deep" / "target"
    local_disk.publish_folder(folder_of(tmp_path / "staged", 1), target)
    assert storage.list_files(str(tmp_path)) == ["deep/target/one", "deep/target/two"]


@pytest.mark.parametrize("kernel_can_exchange", [True, False])
def test_publish_replaces_the_whole_folder(tmp_path, monkeypatch, kernel_can_exchange):
    """The new folder is in the place of the old one, of which nothing is left, whether or not the kernel swaps."""
    if not kernel_can_exchange:
        monkeypatch.setattr(local_disk, "exchange", lambda *_: False)
    target = folder_of(tmp_path / "target", 1)
    (target / "three").write_text("old")
    local_disk.publish_folder(folder_of(tmp_path / "staged", 2), target)
    assert storage.list_files(str(tmp_path)) == ["target/one", "target/two"]
    assert (target / "one").read_text() == "2"


def test_a_publisher_that_dies_between_two_moves_hides_nothing(tmp_path, monkeypatch):
    """Where folders cannot be exchanged, the old one waits beside the staged one, and is put back."""
    monkeypatch.setattr(local_disk, "exchange", lambda *_: False)
    monkeypatch.setattr(local_disk, "reached", dies_at("moved aside"))
    (tmp_path / "work").mkdir()
    target, staged = folder_of(tmp_path / "target", 1), folder_of(tmp_path / "work" / "staged", 2)
    with pytest.raises(KeyboardInterrupt):
        local_disk.publish_folder(staged, target)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    local_disk.undo_move(tmp_path / "work", target)
    assert storage.list_files(str(tmp_path)) == ["target/one", "target/two", "work/staged/one", "work/staged/two"]
    assert (target / "one").read_text() == "1"
    aside = folder_of(tmp_path / "work" / "staged.tmp-old-1", 0)
    local_disk.undo_move(tmp_path / "work", target)
    assert aside.exists(), "another one has its place"


def test_readers_never_find_nothing(tmp_path):
    """While a folder is replaced again and again, a reader always finds it, and always whole."""
    target = folder_of(tmp_path / "target", 0)
    if not local_disk.exchange(folder_of(tmp_path / "probe", 0), target):
        pytest.skip("this kernel or filesystem cannot exchange two folders at once")
    reading, done = threading.Event(), threading.Event()
    wrong: list[object] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not done.is_set() or reads == 0:
            try:
                held = os.open(target, os.O_RDONLY)
            except FileNotFoundError as error:
                wrong.append(error)
                break
            found = set(os.listdir(held))  # noqa: PTH208 - what is held open, not what has the name now
            if not found <= {"one", "two"}:
                wrong.append(found)
            os.close(held)
            reads += 1
            reading.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(30)
    for value in range(1, 60):
        local_disk.publish_folder(folder_of(tmp_path / "staged", value), target)
    done.set()
    reader.join()
    assert wrong == []
    assert (target / "one").read_text() == "59"


def test_exchange_swaps_two_folders(tmp_path):
    """Exchanging swaps two folders, and refuses where one of them is missing."""
    first, second = folder_of(tmp_path / "a", 1), folder_of(tmp_path / "b", 2)
    if not local_disk.exchange(first, second):
        pytest.skip("this kernel or filesystem cannot exchange two folders at once")
    assert ((first / "one").read_text(), (second / "one").read_text()) == ("2", "1")
    with pytest.raises(FileNotFoundError):
        local_disk.exchange(first, tmp_path / "none")
