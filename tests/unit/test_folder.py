import os
import socket
import zipfile
from pathlib import Path

import pytest

from cnnjob.data.decode import Refusal
from cnnjob.data.sources.folder import FolderSource
from cnnjob.data.sources.open import open_source
from cnnjob.errors import DatasetError, UserError
from cnnjob.schema import GIVEN, ID, LABEL
from tests.piles import contents, listing_of, source_config, write_folder


def ids_of(root: Path, **values) -> list[str]:
    return listing_of(source_config("folder", root, **values)).rows.column(ID).to_pylist()


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_every_file_is_a_row_of_its_class(tmp_path):
    """Rows are named by their path and have the class of their first folder, however deep they lie."""
    for name in ("ant/1.png", "ant/deep/er/2.png", "bee/3.txt", "cat.x/4"):
        write(tmp_path / name, name.encode())
    listing = listing_of(source_config("folder", tmp_path))
    labels = [listing.class_names[label] for label in listing.rows.column(LABEL).to_pylist()]
    rows = dict(zip(listing.rows.column(ID).to_pylist(), labels, strict=True))
    assert rows == {"ant/1.png": "ant", "ant/deep/er/2.png": "ant", "bee/3.txt": "bee", "cat.x/4": "cat.x"}
    assert contents(listing) == {name: name.encode() for name in rows}


def test_a_folder_that_cannot_be_looked_at_is_refused(tmp_path):
    """A name that no disk takes is the user's mistake and no traceback."""
    with pytest.raises(UserError, match=r"File name too long\. Correct the address"):
        ids_of(tmp_path / ("x" * 300))


def test_a_file_beside_the_classes_has_none(tmp_path):
    """A file in the root is a row without a class, not a class of its own and not passed over."""
    write(tmp_path / "ant/1.png")
    write(tmp_path / "readme.png")
    listing = listing_of(source_config("folder", tmp_path))
    assert dict(zip(*(listing.rows.column(name).to_pylist() for name in (ID, LABEL)), strict=True)) == {
        "ant/1.png": 0,
        "readme.png": None,
    }
    assert listing.reader.uris(listing.rows) == [str(tmp_path / "ant/1.png"), str(tmp_path / "readme.png")]
    assert listing.class_names == ("ant",)


def test_litter_is_passed_over_and_counted(tmp_path):
    """What desktops leave behind is no row; how much of it there was is told."""
    for name in ("a/.DS_Store", "a/Thumbs.db", "a/._1.png", "a/1.png", "__MACOSX/a/1.png", "a/.hidden.png"):
        write(tmp_path / name)
    listing = listing_of(source_config("folder", tmp_path))
    assert listing.rows.column(ID).to_pylist() == ["a/.hidden.png", "a/1.png"]
    assert listing.passed_over == {"litter": 4}


def test_hidden_folders_are_no_classes(tmp_path):
    """A folder whose name begins with a dot is passed over and counted, at any depth and also beside given splits."""
    for name in ("train/a/1", "train/b/2", "train/.c/3", "train/a/.thumbs/4", ".cache/5", ".cache/deep/6"):
        write(tmp_path / name)
    for root, method in ((tmp_path, "given"), (tmp_path / "train", "hash")):
        listing = listing_of(source_config("folder", root, method=method))
        assert listing.class_names == ("a", "b")
        assert listing.passed_over == {"hidden_folder": 3 if method == "given" else 2}


def test_hidden_folders_of_a_store_are_no_classes(tmp_path):
    """Where there are no folders but in the names of files, each hidden one is counted once too."""
    with zipfile.ZipFile(tmp_path / "pile.zip", "w") as archive:
        for name in ("a/1", "b/2", ".c/3", ".c/deep/4", "a/.thumbs/5"):
            archive.writestr(name, name)
    listing = listing_of(source_config("folder", f"zip://::{tmp_path}/pile.zip"))
    assert listing.rows.column(ID).to_pylist() == ["a/1", "b/2"]
    assert listing.class_names == ("a", "b")
    assert listing.passed_over == {"hidden_folder": 2}


def test_without_classes_hidden_folders_are_read(tmp_path):
    """Where every file is to be scored, those in hidden folders are rows too."""
    for name in (".a/1", "b/.c/2"):
        write(tmp_path / name)
    listing = FolderSource(source_config("folder", tmp_path)).listing("")
    assert listing.rows.column(ID).to_pylist() == [".a/1", "b/.c/2"]
    assert listing.passed_over == {}


def test_empty_folders_are_counted(tmp_path):
    """A folder in which there is no row and no folder, such as that of a class without pictures, is told."""
    for name in ("a/1", "b/deep/2", "litter/.DS_Store"):
        write(tmp_path / name)
    for name in ("empty", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
    listing = listing_of(source_config("folder", tmp_path))
    assert listing.class_names == ("a", "b")
    assert listing.passed_over == {"litter": 1, "empty_folder": 3}


def test_given_splits_are_the_first_level(tmp_path):
    """With the method given, the first level is the split, in any usual spelling, and the second the class."""
    for name in ("train/a/1", "train/b/2", "valid/a/3", "test/b/4", "test/5"):
        write(tmp_path / name)
    listing = listing_of(source_config("folder", tmp_path, method="given"))
    found = zip(*(listing.rows.column(name).to_pylist() for name in (ID, GIVEN, LABEL)), strict=True)
    assert {row[0]: row[1:] for row in found} == {
        "train/a/1": (0, 0),
        "train/b/2": (0, 1),
        "valid/a/3": (1, 0),
        "test/b/4": (2, 1),
        "test/5": (2, None),
    }
    write(tmp_path / "extra/a/1")
    write(tmp_path / "train2")
    with pytest.raises(DatasetError, match="'extra'"):
        listing_of(source_config("folder", tmp_path, method="given"))


def test_links_to_folders_are_followed_once(tmp_path):
    """A folder outside is read through its link, once; loops end; a link to a folder that is read anyway is counted."""
    write(tmp_path / "pile/ant/1.png")
    write(tmp_path / "elsewhere/2.png")
    root = tmp_path / "pile"
    (root / "bee").symlink_to(tmp_path / "elsewhere")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "ant" / "loop").symlink_to(root)
    (root / "another").symlink_to(root / "ant")
    listing = listing_of(source_config("folder", root))
    assert listing.rows.column(ID).to_pylist() == ["ant/1.png", "bee/2.png"]
    assert listing.passed_over == {"link_to_seen_folder": 3}


def test_links_and_special_files_are_refused_by_what_they_are(tmp_path):
    """Links that lead nowhere or to themselves are gone; pipes and sockets are unreadable, and none of them blocks."""
    folder = tmp_path / "a"
    write(folder / "good", b"good")
    (folder / "link").symlink_to(folder / "good")
    (folder / "nowhere").symlink_to(folder / "missing")
    (folder / "itself").symlink_to(folder / "itself")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        found = contents(listing_of(source_config("folder", tmp_path)))
    assert found["a/good"] == found["a/link"] == b"good"
    reasons = {name: value.reason for name, value in found.items() if isinstance(value, Refusal)}
    assert reasons == {"a/nowhere": "gone", "a/itself": "gone", "a/pipe": "unreadable", "a/socket": "unreadable"}


@pytest.mark.parametrize(
    "name", [b"two words", b"line\nbreak", b"caf\xe9", "\u6f22\u5b57".encode(), b"a?b#c%20::d", b"\\x41"]
)
def test_odd_names_are_read(tmp_path, name):
    """Names with spaces, newlines, bytes that are no UTF-8 and signs of URIs are rows with their own bytes."""
    write(tmp_path / "class" / os.fsdecode(name), name)
    found = contents(listing_of(source_config("folder", tmp_path)))
    assert list(found.values()) == [name]
    assert next(iter(found)) == "class/" + name.decode("utf-8", "backslashreplace")


def test_what_changes_after_the_listing_is_refused(tmp_path):
    """A file that is written to, replaced or removed between listing and reading costs its row, with the reason."""
    names = ("grown", "same_size", "removed", "kept")
    for name in names:
        write(tmp_path / "a" / name, b"1234")
    listing = listing_of(source_config("folder", tmp_path))
    (tmp_path / "a/grown").write_bytes(b"123456")
    os.utime(write(tmp_path / "a/same_size", b"4321"), ns=(1, 1))
    (tmp_path / "a/removed").unlink()
    found = contents(listing)
    assert found.pop("a/kept") == b"1234"
    assert {name: refusal.reason for name, refusal in found.items()} == {
        "a/grown": "changed",
        "a/same_size": "changed",
        "a/removed": "gone",
    }


def test_large_files_are_not_read(tmp_path):
    """A file beyond the bound is refused by its size alone: a sparse terabyte costs nothing."""
    path = write(tmp_path / "a/huge")
    os.truncate(path, 1 << 40)
    (refusal,) = contents(listing_of(source_config("folder", tmp_path))).values()
    assert refusal.reason == "too_many_bytes"
    assert str(1 << 40) in refusal.detail


def test_the_digest_follows_names_sizes_and_times(tmp_path):
    """The digest does not depend on how the folder is walked, and changes with any file."""
    write_folder(tmp_path, {"a": 3, "b": 3})
    config = source_config("folder", tmp_path)
    digests = [open_source(config).digest() for _ in range(2)]
    os.utime(tmp_path / "a" / "00000.png", ns=(5, 5))
    digests.append(open_source(config).digest())
    (tmp_path / "a" / "00000.png").rename(tmp_path / "a" / "x.png")
    digests.append(open_source(config).digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    """Missing, empty, a file instead: each is one clear mistake."""
    with pytest.raises(DatasetError, match="does not exist"):
        ids_of(tmp_path / "missing")
    with pytest.raises(DatasetError, match="has no files"):
        ids_of(tmp_path)
    with pytest.raises(DatasetError, match="is a file"):
        ids_of(write(tmp_path / "file"))
