"""Files whose rows are known by their place, exchanged while they are prepared: no picture gets another one's label."""

import os
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob.config.prepare import PrepareConfig
from cnnjob.data import job
from cnnjob.data.sources import cifar, idx
from cnnjob.data.sources.open import open_source
from cnnjob.errors import IntegrityError
from tests.helpers import prepare
from tests.piles import config_of, contents, encoded, listing_of, pixels, tar_of, write_cifar10, write_idx

LABELS = [number % 3 for number in range(40)]
WRITTEN = "was written to since it was listed"


@dataclass(frozen=True)
class Pile:
    """A source, and a config that prepares it.

    Attributes:
        pictures: Files that pictures are read from.
        others: Files that labels or names are read from when the rows are listed.
    """

    config: PrepareConfig
    pictures: list[Path]
    others: list[Path]


@pytest.fixture(params=["idx", "idx.gz", "cifar", "cifar.tar.gz", "parquet"])
def pile(request: pytest.FixtureRequest, tmp_path: Path) -> Pile:
    """Forty pictures in each of the formats."""
    kind, folder = request.param.partition(".")[0], tmp_path / "pile"
    source = {"kind": kind, "uri": str(folder)}
    if kind == "idx":
        write_idx(folder, "train", pixels(40, 8, 8), LABELS, packed=request.param == "idx.gz")
    elif kind == "cifar":
        write_cifar10(folder, pixels(40, 32, 32, 3), LABELS)
    else:
        folder.mkdir()
        images = [encoded(picture) for picture in pixels(40, 8, 8, 3)]
        table = pa.table({"id": [f"{number:02d}" for number in range(40)], "png": images, "label": LABELS})
        pq.write_table(table, folder / "rows.parquet")
        source.update(kind="manifest", columns={"image": "png"})
    files = sorted(folder.iterdir())
    if request.param == "cifar.tar.gz":
        files = [tar_of(folder, tmp_path / "cifar.tar.gz")]
        source["uri"] = str(files[0])
    others = [path for path in files if "labels" in path.name or path.name == "batches.meta.txt"]
    config = config_of(tmp_path / "set", source=source, image={"height": 8, "width": 8, "resize": "stretch"})
    return Pile(config, [path for path in files if path not in others], others)


def rewrite(path: Path) -> None:
    """Write a file again, at another time: in its size nothing shows."""
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(5, 5))


def test_pictures_that_were_exchanged_are_not_read(pile, tmp_path):
    """A file of pictures that was written to after its rows were listed gives none of them, and is named."""
    for path in pile.pictures:
        listing = listing_of(pile.config, tmp_path / "scratch")
        rewrite(path)
        with pytest.raises(IntegrityError, match=f"{path.name} {WRITTEN}"):
            contents(listing)
        os.utime(path, ns=(6, 6))


def test_pictures_that_are_exchanged_while_they_are_read_are_not_staged(pile, tmp_path):
    """Written to between the first picture of a unit and the last one, a file is noticed before the unit ends."""
    listing = listing_of(pile.config, tmp_path / "scratch")
    found = listing.reader.read(listing.rows)
    next(found)
    rewrite(pile.pictures[0])
    with pytest.raises(IntegrityError, match=WRITTEN):
        list(found)


def test_a_file_that_is_gone_is_told(pile, tmp_path):
    """A file that is gone when its pictures are read is told like one that was written to."""
    listing = listing_of(pile.config, tmp_path / "scratch")
    pile.pictures[0].unlink()
    with pytest.raises(IntegrityError, match=WRITTEN):
        contents(listing)


@pytest.mark.parametrize("pile", ["idx", "idx.gz", "cifar", "cifar.tar.gz"], indirect=True)
def test_what_is_exchanged_while_it_is_listed_is_not_listed(pile, tmp_path):
    """Written to while labels are read, any file ends the listing, since pictures and labels may be of two sets."""
    module = {"idx": idx, "cifar": cifar}[pile.config.source.kind]
    read = module._read_labels
    for path in (*pile.pictures, *pile.others):
        with (
            mock.patch.object(module, "_read_labels", lambda *given, path=path: (read(*given), rewrite(path))[0]),
            pytest.raises(IntegrityError, match=f"{path.name} {WRITTEN}"),
        ):
            listing_of(pile.config, tmp_path / "scratch")
        os.utime(path, ns=(6, 6))


def test_what_was_exchanged_is_not_published(pile, tmp_path):
    """Written to before the end of the job, any file of the source keeps it from publishing; again it is prepared."""
    for path in (*pile.pictures, *pile.others):
        with (
            mock.patch.object(job, "_finish", lambda *_, path=path: rewrite(path)),
            pytest.raises(IntegrityError, match=f"{path.name} {WRITTEN}"),
        ):
            prepare(pile.config, open_source(pile.config))
        assert not (tmp_path / "set").exists()
        os.utime(path, ns=(6, 6))
    assert prepare(pile.config, open_source(pile.config)).rows_in == 40
    assert not list(tmp_path.glob(".set*"))


@pytest.mark.parametrize("pile", ["idx.gz", "cifar.tar.gz"], indirect=True)
def test_what_an_earlier_run_unpacked_is_not_read(pile, tmp_path):
    """Packed files are unpacked anew by each run, whatever lies there of an earlier one, and of whatever size."""
    scratch = tmp_path / "scratch"
    expected = contents(listing_of(pile.config, scratch))
    unpacked = [path for path in scratch.rglob("*") if path.is_file()]
    for path in unpacked:
        path.write_bytes(bytes(path.stat().st_size))
        (path.parent / "data_batch_5.bin").write_bytes(bytes(3073))
    found = contents(listing_of(pile.config, scratch))
    assert unpacked
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
