"""Mistakes in what is to be prepared: exit code 2, one paragraph, nothing written. None of these starts Ray."""

import gzip
from pathlib import Path

import pytest

from tests.e2e.conftest import Command
from tests.ended import Ended
from tests.piles import pixels, write_cifar10, write_folder, write_idx


def assert_refused(ended: Ended, folder: Path, before: set[str], *words: str) -> None:
    """Exit code 2, the words in one paragraph, no traceback, and nothing new in the folder."""
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err
    *progress, paragraph = ended.err.strip().splitlines()
    assert paragraph.startswith("Error: ")
    assert all(line.startswith("Listing ") for line in progress), ended.err
    assert {path.name for path in folder.iterdir()} == before


def prepare(cnnjob: Command, folder: Path, text: str, *words: str) -> None:
    """Run `cnnjob prepare` on a conf that should be refused."""
    (folder / "conf.yaml").write_text(f"output: out/set\n{text}\n")
    before = {path.name for path in folder.iterdir()}
    assert_refused(cnnjob("prepare", "conf.yaml"), folder, before, *words)


def test_an_empty_folder(cnnjob: Command, tmp_path: Path) -> None:
    """A folder without a file."""
    (tmp_path / "pile").mkdir()
    prepare(cnnjob, tmp_path, "source: {kind: folder, uri: pile}", str(tmp_path / "pile"), "has no files")


def test_a_missing_path(cnnjob: Command, tmp_path: Path) -> None:
    """A source that is not there."""
    prepare(cnnjob, tmp_path, "source: {kind: folder, uri: nowhere}", str(tmp_path / "nowhere"), "does not exist")


def test_one_class(cnnjob: Command, tmp_path: Path) -> None:
    """A folder of one class, which is named, with where the classes may lie instead."""
    write_folder(tmp_path / "pile", {"only": 3})
    pile = tmp_path / "pile"
    told = f"'only' is the only sub-folder with pictures in {pile}; each class needs a sub-folder of its own"
    prepare(cnnjob, tmp_path, "source: {kind: folder, uri: pile}", told, "at least two", f"source.uri to {pile}/only.")


def test_pictures_without_class_folders(cnnjob: Command, tmp_path: Path) -> None:
    """Pictures that lie directly in the folder, or with given splits directly in those."""
    write_folder(tmp_path, {"pile": 3})
    told = f"the pictures lie directly in {tmp_path / 'pile'}; each class needs a sub-folder"
    prepare(cnnjob, tmp_path, "source: {kind: folder, uri: pile}", told, "Nothing was written.")
    (tmp_path / "given").mkdir()
    (tmp_path / "pile").rename(tmp_path / "given/train")
    told = f"the pictures lie directly in the folders of the splits in {tmp_path / 'given'}; each class needs"
    prepare(cnnjob, tmp_path, "source: {kind: folder, uri: given}\nsplit: {method: given}", told)


def test_a_table_of_one_class(cnnjob: Command, tmp_path: Path) -> None:
    """A table has no sub-folders: its one class is told as one of rows."""
    (tmp_path / "t.csv").write_text("uri,label\na.png,cat\nb.png,cat\n")
    told = "the source has rows of only the class 'cat'; a classifier needs at least two classes. Nothing was written."
    prepare(cnnjob, tmp_path, "source: {kind: manifest, uri: t.csv}", told)


def test_a_truncated_idx_file(cnnjob: Command, tmp_path: Path) -> None:
    """A packed IDX file that ends early."""
    write_idx(tmp_path / "idx", "train", pixels(50, 8, 8), [k % 5 for k in range(50)], packed=True)
    path = tmp_path / "idx/train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    prepare(cnnjob, tmp_path, "source: {kind: idx, uri: idx}", path.name, "should have 3216 bytes and has 3116")


def test_a_truncated_cifar_file(cnnjob: Command, tmp_path: Path) -> None:
    """A CIFAR batch that ends early."""
    write_cifar10(tmp_path / "cifar", pixels(20, 32, 32, 3), [k % 10 for k in range(20)])
    path = tmp_path / "cifar/data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-7])
    prepare(cnnjob, tmp_path, "source: {kind: cifar, uri: cifar}", path.name, "not a multiple", "3073")


def test_labels_out_of_range(cnnjob: Command, tmp_path: Path) -> None:
    """A label that no class name stands for."""
    (tmp_path / "t.csv").write_text("uri,label\na.png,0\nb.png,5\n")
    source = "source: {kind: manifest, uri: t.csv, class_names: [cat, dog]}"
    prepare(cnnjob, tmp_path, source, "row 3 (the header is row 1) has 5", "2 classes")


def test_duplicate_ids(cnnjob: Command, tmp_path: Path) -> None:
    """Ids that come twice, told with the first ten of them."""
    rows = [f"{k % 15},x{k}.png,{'cat' if k % 2 else 'dog'}" for k in range(30)]
    (tmp_path / "t.csv").write_text("id,uri,label\n" + "\n".join(rows) + "\n")
    prepare(cnnjob, tmp_path, "source: {kind: manifest, uri: t.csv}", "15 ids", "0, 1, 10, 11, 12, 13, 14, 2, 3, 4.")


def test_a_column_that_is_not_there(cnnjob: Command, tmp_path: Path) -> None:
    """A label column under another name."""
    (tmp_path / "t.csv").write_text("uri,class\na.png,cat\n")
    source = "source: {kind: manifest, uri: t.csv, columns: {label: klass}}"
    prepare(cnnjob, tmp_path, source, "no column 'klass'", "uri, class", "Did you mean 'class'?")


def test_an_output_that_is_a_file(cnnjob: Command, tmp_path: Path) -> None:
    """A file where the data set should be, or on the way to it."""
    (tmp_path / "out").write_text("mine")
    told = f"Error: output {tmp_path / 'out/set'}: {tmp_path / 'out'} is a file; it should be a folder"
    prepare(cnnjob, tmp_path, "source: {kind: digits}", told)
    (tmp_path / "out").rename(tmp_path / "file")
    (tmp_path / "out").mkdir()
    (tmp_path / "file").rename(tmp_path / "out/set")
    told = f"Error: output {tmp_path / 'out/set'} is a file; it should be a folder"
    prepare(cnnjob, tmp_path, "source: {kind: digits}", told)


def test_mistakes_of_the_config_are_told_at_once(cnnjob: Command, tmp_path: Path) -> None:
    """Several mistakes that concern sources, splits and storage: all in one answer."""
    (tmp_path / "conf.yaml").write_text(
        "output: set\nsource: {kind: digits, uri: x, class_names: [a, b]}\n"
        "split: {method: given, val: 0.6, test: 0.5}\nimage: {storage: encoded, background: [0, 0, 300]}\n"
    )
    ended = cnnjob("check", "--kind", "prepare", "conf.yaml")
    assert ended.code == 2
    for word in ("6 mistakes", "source.uri", "source.class_names", "split.method", "split.val", "image.storage", "300"):
        assert word in ended.err


@pytest.mark.parametrize("uri", ["gopher://x/y", "s3://"])
def test_a_uri_of_no_known_kind(cnnjob: Command, tmp_path: Path, uri: str) -> None:
    """A URI that nothing can open."""
    prepare(cnnjob, tmp_path, f"source: {{kind: folder, uri: '{uri}'}}", uri)
