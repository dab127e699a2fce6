import io
import pickle
import tarfile

import numpy as np
import pytest

from cnnjob.errors import DatasetError
from cnnjob.schema import GIVEN, ID, LABEL
from tests.piles import cifar_records, contents, listing_of, pixels, source_config, tar_of, write_cifar10

IMAGES, LABELS = pixels(40, 32, 32, 3), [number % 10 for number in range(40)]


@pytest.fixture
def folder(tmp_path):
    """Three batches to train on and one to test."""
    write_cifar10(tmp_path / "cifar-10-batches-bin", IMAGES, LABELS)
    return tmp_path / "cifar-10-batches-bin"


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "tar.gz"])
def test_every_picture_is_a_row(folder, tmp_path, archive):
    """Rows are SPLIT/000123, with their own colors, label and split, from the folder and from the archive."""
    uri = tar_of(folder, tmp_path / "cifar-10-binary.tar.gz") if archive else folder
    listing = listing_of(source_config("cifar", uri), tmp_path / "scratch")
    expected = [f"train/{row:06d}" for row in range(30)] + [f"test/{row:06d}" for row in range(10)]
    assert listing.rows.column(ID).to_pylist() == expected
    assert listing.rows.column(LABEL).to_pylist() == LABELS
    assert listing.rows.column(GIVEN).to_pylist() == [0] * 30 + [2] * 10
    assert np.array_equal(np.stack(list(contents(listing).values())), IMAGES)
    assert listing.class_names[:3] == ("airplane", "automobile", "bird")


@pytest.mark.parametrize(("labels", "names"), [("fine", 100), ("coarse", 20)])
def test_cifar_100_has_two_labels(tmp_path, labels, names):
    """Of CIFAR-100's two label bytes the configured one is taken."""
    coarse, fine = [number % 20 for number in range(40)], [99 - number for number in range(40)]
    (tmp_path / "train.bin").write_bytes(cifar_records(IMAGES, coarse, fine))
    listing = listing_of(source_config("cifar", tmp_path, labels=labels))
    assert listing.rows.column(LABEL).to_pylist() == (fine if labels == "fine" else coarse)
    assert np.array_equal(np.stack(list(contents(listing).values())), IMAGES)
    assert len(listing.class_names) == names


def test_the_pickled_version_is_refused(tmp_path):
    """The Python version is recognized, as a folder and as an archive, and is never loaded."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": [1]}))
    for uri in (folder, tar_of(folder, tmp_path / "cifar-10-python.tar.gz")):
        with pytest.raises(DatasetError, match=r"pickled.*binary version"):
            listing_of(source_config("cifar", uri), tmp_path / "scratch")


def test_truncated_files_are_refused(folder):
    """A batch that is not a whole number of records is refused with its size."""
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"data_batch_2.bin has 30729 bytes.*3073"):
        listing_of(source_config("cifar", folder))


def test_a_truncated_archive_is_refused(folder, tmp_path):
    """An archive that is cut at any place is refused."""
    archive = tar_of(folder, tmp_path / "cifar.tar.gz")
    whole = archive.read_bytes()
    for share in range(10):
        archive.write_bytes(whole[: len(whole) * share // 10])
        with pytest.raises(DatasetError, match=r"cifar\.tar\.gz"):
            listing_of(source_config("cifar", archive), tmp_path / f"scratch-{share}")


def test_labels_out_of_range_are_refused(folder):
    """A label byte of 10 in CIFAR-10 is refused with its row."""
    content = bytearray((folder / "data_batch_1.bin").read_bytes())
    content[3073 * 4] = 10
    (folder / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DatasetError, match="train/000004 has 10"):
        listing_of(source_config("cifar", folder))


@pytest.mark.parametrize("name", ["cifar.tar.gz", "cifar.tar"])
def test_an_archive_that_is_none_is_refused(tmp_path, name):
    """A file that only has the name of an archive is the user's mistake, not a failure of the disk."""
    (tmp_path / name).write_bytes(b"<html>404</html>")
    with pytest.raises(DatasetError, match=r"cannot be unpacked.*fetch it again"):
        listing_of(source_config("cifar", tmp_path / name), tmp_path / "scratch")


def test_names_that_are_not_unique_are_refused(folder):
    """Two classes of one name could not be told apart in any later table."""
    (folder / "batches.meta.txt").write_text("cat\n" * 10)
    with pytest.raises(DatasetError, match=r"batches.meta.txt has a class name more than once"):
        listing_of(source_config("cifar", folder))


def test_an_archive_writes_nowhere_else(folder, tmp_path):
    """Members that name a place outside, links and devices leave nothing there."""
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname="../../" + folder.name)
        link = tarfile.TarInfo("data_batch_4.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        outside = tarfile.TarInfo("../outside.bin")
        outside.size = 4
        tar.addfile(outside, io.BytesIO(b"evil"))
    listing = listing_of(source_config("cifar", archive), tmp_path / "deep" / "scratch")
    assert len(listing.rows) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-bin", "deep", "evil.tar.gz"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["scratch"]


def test_other_folders_are_refused(tmp_path):
    """A folder without any of the files is refused with the names expected."""
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DatasetError, match=r"data_batch_1\.bin"):
        listing_of(source_config("cifar", tmp_path))
