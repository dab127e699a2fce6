import struct

import numpy as np
import pytest

from cnnjob.data.sources.open import open_source
from cnnjob.data.sources.records import unpack_gzip
from cnnjob.errors import DatasetError, StorageError
from cnnjob.schema import GIVEN, ID, LABEL
from tests.piles import contents, listing_of, pixels, source_config, write_idx

IMAGES, LABELS = pixels(20, 5, 4), [number % 3 for number in range(20)]


@pytest.fixture(params=[False, True], ids=["raw", "gz"])
def folder(request, tmp_path):
    """Twenty training and five test pictures."""
    write_idx(tmp_path / "set", "train", IMAGES, LABELS, packed=request.param)
    write_idx(tmp_path / "set", "t10k", IMAGES[:5], LABELS[:5], packed=request.param)
    return tmp_path / "set"


def test_every_picture_is_a_row(folder, tmp_path):
    """Rows are named SPLIT/000123, with their own pixels, label and given split; raw and packed alike."""
    listing = listing_of(source_config("idx", folder), tmp_path / "scratch")
    expected = [f"train/{row:06d}" for row in range(20)] + [f"test/{row:06d}" for row in range(5)]
    assert sorted(listing.rows.column(ID).to_pylist()) == sorted(expected)
    by_id = {row[ID]: row for row in listing.rows.to_pylist()}
    assert [by_id[name][LABEL] for name in expected] == LABELS + LABELS[:5]
    assert [by_id[name][GIVEN] for name in expected] == [0] * 20 + [2] * 5
    found = contents(listing)
    assert all(np.array_equal(found[name], image) for name, image in zip(expected, [*IMAGES, *IMAGES[:5]], strict=True))
    assert listing.class_names == ("0", "1", "2")


def test_rows_are_read_in_any_order(folder, tmp_path):
    """A shuffled listing gives each row its own pixels."""
    listing = listing_of(source_config("idx", folder), tmp_path / "scratch")
    rows = listing.rows.take(np.random.default_rng(0).permutation(25))
    whole = contents(listing)
    for name, image in zip(rows.column(ID).to_pylist(), listing.reader.read(rows), strict=True):
        assert np.array_equal(image, whole[name])


def test_color_pictures_are_interleaved(tmp_path):
    """Four dimensions N x H x W x 3 are color."""
    images = pixels(4, 3, 2, 3)
    write_idx(tmp_path, "train", images, [0, 1, 0, 1])
    assert np.array_equal(np.stack(list(contents(listing_of(source_config("idx", tmp_path))).values())), images)


def test_the_digest_follows_the_files(folder):
    """The digest is the same for the same files and another one when one was written again."""
    config = source_config("idx", folder)
    before = open_source(config).digest()
    assert open_source(config).digest() == before
    name = next(folder.glob("train-labels*"))
    name.write_bytes(name.read_bytes())
    assert open_source(config).digest() != before


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("part", ["images", "labels"])
def test_truncated_files_are_refused(tmp_path, part, packed):
    """A file that is cut at any place is refused by its name."""
    write_idx(tmp_path / "set", "train", IMAGES, LABELS, packed=packed)
    path = next((tmp_path / "set").glob(f"train-{part}*"))
    whole = path.read_bytes()
    for share in range(10):
        path.write_bytes(whole[: len(whole) * share // 10])
        with pytest.raises(DatasetError, match=path.name):
            listing_of(source_config("idx", tmp_path / "set"), tmp_path / f"scratch-{share}")


def test_files_that_are_too_long_are_refused(tmp_path):
    """Bytes after the last picture mean that the header lies."""
    write_idx(tmp_path, "train", IMAGES, LABELS)
    path = next(tmp_path.glob("train-images*"))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DatasetError, match="416 bytes and has 417"):
        listing_of(source_config("idx", tmp_path))


def test_a_packed_bomb_is_not_unpacked_further_than_it_says(tmp_path):
    """A .gz that holds more than its header says is refused after that much, not unpacked to its end."""
    import gzip

    write_idx(tmp_path / "set", "train", IMAGES, LABELS)
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 20, 5, 4)
    raw = next((tmp_path / "set").glob("train-images*"))
    raw.unlink()
    (tmp_path / "set" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(200_000_000)))
    with pytest.raises(DatasetError, match="or more"):
        listing_of(source_config("idx", tmp_path / "set"), tmp_path / "scratch")
    assert sum(file.stat().st_size for file in (tmp_path / "scratch").iterdir()) < 10_000_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "not an IDX file"),
        (struct.pack(">BBBBI", 0, 0, 0x0D, 1, 4) + bytes(16), "0x0d"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 19, 5, 4) + bytes(380), "do not belong together"),
    ],
)
def test_other_files_under_the_name_are_refused(tmp_path, content, words):
    """What is no IDX file of bytes, or has another number of rows than the labels, is refused with what it is."""
    write_idx(tmp_path, "train", IMAGES, LABELS)
    next(tmp_path.glob("train-images*")).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        listing_of(source_config("idx", tmp_path))


def test_labels_out_of_range_are_refused(tmp_path):
    """A label beyond the given class names is refused with its row."""
    write_idx(tmp_path, "train", IMAGES, [*LABELS[:-1], 9])
    with pytest.raises(DatasetError, match="train/000019 has 9, and there are 3 classes"):
        listing_of(source_config("idx", tmp_path, class_names=["a", "b", "c"]))


def test_a_disk_that_is_full_while_a_file_is_unpacked(tmp_path):
    """What the disk refuses while a .gz is unpacked is told as its failure, with the place."""
    write_idx(tmp_path, "train", IMAGES, LABELS, packed=True)
    with pytest.raises(StorageError, match=r"/dev/full: the disk failed: .*No space left"):
        unpack_gzip(str(next(tmp_path.glob("train-images*.gz"))), "/dev/full", 2**20)


@pytest.mark.parametrize(("kind", "wanted"), [("idx", "a folder of IDX files"), ("cifar", "CIFAR's folder or archive")])
def test_a_folder_that_is_none_is_told(tmp_path, kind, wanted):
    """A file in the place of the folder is refused with what should be there, and so is nothing."""
    (tmp_path / "file").touch()
    for name, problem in (("file", "is a file"), ("none", "does not exist")):
        with pytest.raises(DatasetError, match=f"{name} {problem}; source.uri should be {wanted}"):
            listing_of(source_config(kind, tmp_path / name))


def test_a_missing_half_is_told(tmp_path):
    """Images without labels are refused with what is lacking; so is an empty folder with the names expected."""
    with pytest.raises(DatasetError, match="train-images-idx3-ubyte"):
        listing_of(source_config("idx", tmp_path))
    write_idx(tmp_path, "train", IMAGES, LABELS)
    next(tmp_path.glob("train-labels*")).unlink()
    with pytest.raises(DatasetError, match="train has only images"):
        listing_of(source_config("idx", tmp_path))
