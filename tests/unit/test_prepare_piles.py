"""Whole data sets from piles of files, without Ray: what comes out, what is refused, and what a dead run leaves."""

import io
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cnnjob.data import job
from cnnjob.data.manifest import Manifest, read_manifest
from cnnjob.data.sources.base import Listing
from cnnjob.data.sources.open import open_source
from cnnjob.errors import DatasetError, JobError, RefusedRowsError, StorageError
from cnnjob.schema import DETAIL, ID, REASON, SPLITS, URI
from cnnjob.storage import list_files
from tests.helpers import PictureSource, prepare, prepare_config, rows_of
from tests.piles import config_of, encoded, pixels, write_folder, write_idx

SMALL_IMAGE = {"height": 8, "width": 8, "resize": "stretch"}


def folder_config(root: Path, output: Path, **values):
    """A config that prepares a folder as 3x8x8."""
    values.setdefault("limits", {"max_refused_share": 1.0})
    return config_of(
        output, source={"kind": "folder", "uri": str(root)}, image=SMALL_IMAGE | values.pop("image", {}), **values
    )


def prepared(config, **options) -> Manifest:
    return prepare(config, open_source(config), **options)


def refused_of(config) -> dict[str, str]:
    manifest = read_manifest(config.output)
    table = pq.read_table(Path(config.output) / manifest.refused_table)
    return dict(zip(table.column(ID).to_pylist(), table.column(REASON).to_pylist(), strict=True))


def ids_by_split(config) -> dict[str, list[str]]:
    manifest = read_manifest(config.output)
    return {name: rows_of(config.output, manifest, name).ids for name in SPLITS}


@pytest.mark.parametrize("seed", range(4))
def test_rows_in_are_rows_out_or_refused(tmp_path, seed):
    """Of any mixture of good, bad, odd and vanishing files each is one row, or one refused row with its reason."""
    generator = random.Random(seed)
    kinds = ["png", "jpeg", "gif", "webp", "bmp", "tiff"]
    expected = set()
    for number in range(60):
        name = f"{generator.choice(['ant', 'bee', 'cat'])}/{number}"
        good = encoded(pixels(1, 9, 7, 3, seed=number)[0], generator.choice(kinds))
        content = generator.choice([good, good, good, b"", good[: len(good) // 2], b"hello", good + b"tail"])
        path = tmp_path / "pile" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        expected.add(name)
    config = folder_config(tmp_path / "pile", tmp_path / "set")
    manifest = prepared(config, rows_per_unit=7, order=seed)
    refused = refused_of(config)
    found = [row_id for ids in ids_by_split(config).values() for row_id in ids]
    assert sorted([*found, *refused]) == sorted(expected)
    assert (
        manifest.rows_in == 60 == sum(split.rows for split in manifest.splits.values()) + sum(manifest.refused.values())
    )
    assert set(refused.values()) <= {"empty", "truncated", "not_an_image"}


class Shuffled:
    """A source whose listing comes in another order."""

    def __init__(self, source, seed: int) -> None:
        self.source, self.seed = source, seed

    def digest(self) -> str:
        """The same: a listing's order is none of its content."""
        return self.source.digest()

    def listing(self, scratch: str) -> Listing:
        """The rows, shuffled."""
        whole = self.source.listing(scratch)
        return replace(whole, rows=whole.rows.take(np.random.default_rng(self.seed).permutation(len(whole.rows))))


@pytest.mark.parametrize("method", ["hash", "stratified"])
def test_the_order_of_the_listing_does_not_show(tmp_path, method):
    """Listed in any order, cut into any units, done in any order: the same files, byte for byte, bar the manifest."""
    manifests = []
    for seed in range(3):
        config = prepare_config(tmp_path / str(seed) / "set", size=(8, 8), method=method)
        source = Shuffled(PictureSource(150, sizes=[(8, 8), (5, 9)]), seed)
        manifests.append(prepare(config, source, rows_per_unit=(512, 40, 11)[seed], order=seed))
    assert len({manifest.fingerprint for manifest in manifests}) == 1
    assert manifests[0] == manifests[1] == manifests[2]


def test_encoded_images_keep_their_bytes(tmp_path):
    """With encoded storage the rows hold the original bytes, and are read as the pixels of a packed data set."""
    write_folder(tmp_path / "pile", {"a": 12, "b": 12}, size=(9, 11), kinds=("png", "jpeg"))
    packed = folder_config(tmp_path / "pile", tmp_path / "packed")
    kept = folder_config(tmp_path / "pile", tmp_path / "encoded", image={"storage": "encoded"})
    first, second = prepared(packed), prepared(kept)
    assert first.statistics == second.statistics
    assert first.fingerprint != second.fingerprint
    for name in SPLITS:
        one, other = rows_of(packed.output, first, name), rows_of(kept.output, second, name)
        assert one.ids == other.ids
        assert np.array_equal(one.images, other.images)
    shard = pq.read_table(Path(kept.output) / second.splits["train"].shards[0].path)
    for row in shard.to_pylist():
        assert row["image"] == (tmp_path / "pile" / row[ID]).read_bytes()


def test_encoded_images_that_cannot_be_decoded_are_refused(tmp_path):
    """Encoded images are checked by decoding: a truncated one does not get into the data set."""
    write_folder(tmp_path / "pile", {"a": 6, "b": 6})
    bad = tmp_path / "pile/a/00000.png"
    bad.write_bytes(bad.read_bytes()[:-40])
    config = folder_config(tmp_path / "pile", tmp_path / "set", image={"storage": "encoded"})
    prepared(config)
    assert refused_of(config) == {"a/00000.png": "truncated"}


def test_keys_are_carried_with_their_types(tmp_path):
    """Key columns of a table are columns of the data set, with their types and values; they are part of its content."""
    images = [encoded(image) for image in pixels(20, 8, 8, 3)]
    fingerprints = []
    for offset in (0, 1):
        columns = {
            "id": [f"r{k:02d}" for k in range(20)],
            "image": images,
            "label": [k % 2 for k in range(20)],
            "customer": pa.array([k + offset for k in range(20)], pa.int16()),
            "at": pa.array([k * 1000 if k % 3 else None for k in range(20)], pa.timestamp("ms")),
        }
        pq.write_table(pa.table(columns), tmp_path / f"{offset}.parquet")
        source = {"kind": "manifest", "uri": str(tmp_path / f"{offset}.parquet")}
        source["columns"] = {"image": "image", "keys": ["customer", "at"]}
        config = config_of(tmp_path / f"set{offset}", source=source, image=SMALL_IMAGE)
        manifest = prepared(config, rows_per_unit=6)
        fingerprints.append(manifest.fingerprint)
    tables = [pq.read_table(Path(config.output) / shard.path) for shard in manifest.splits["train"].shards]
    assert tables[0].schema.field("customer").type == pa.int16()
    assert tables[0].schema.field("at").type == pa.timestamp("ms")
    for row in pa.concat_tables(tables).to_pylist():
        number = int(row[ID][1:])
        assert row["customer"] == number + 1
        assert (row["at"] is None) == (number % 3 == 0)
    assert fingerprints[0] != fingerprints[1]


@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_the_same_picture_in_two_splits(tmp_path, policy):
    """The same pixels under another name, in another format, in another split: counted, dropped if configured."""
    root = tmp_path / "pile"
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        write_folder(root / split, {"a": 5, "b": 5})
        for number, path in enumerate(sorted((root / split).rglob("*.png"))):
            path.write_bytes(encoded(pixels(1, 8, 8, 3, seed=first + number)[0]))
    double = pixels(1, 8, 8, 3, seed=0)[0]
    (root / "test/a/double.bmp").write_bytes(encoded(double, "bmp"))
    (root / "val/b/double.tiff").write_bytes(encoded(double, "tiff"))
    (root / "train/a/double.gif.png").write_bytes(encoded(double, "png"))
    config = folder_config(
        root, tmp_path / "set", split={"method": "given", "duplicates": policy}, limits={"max_refused_share": 0.0}
    )
    manifest = prepared(config)
    assert manifest.duplicates == {"train, test": 1, "train, val": 1}
    expected = {"test/a/double.bmp", "val/b/double.tiff"} if policy == "drop" else set()
    assert set(refused_of(config)) == expected
    assert manifest.refused == ({"duplicate_image": 2} if policy == "drop" else {})
    assert manifest.splits["train"].rows == 11
    assert manifest.rows_in == 33 == sum(split.rows for split in manifest.splits.values()) + len(expected)


def test_a_class_that_is_missing_in_a_split_is_reported(tmp_path):
    """A split without a row of some class says which; a split without rows says nothing of classes."""
    images = pixels(12, 8, 8)
    write_idx(tmp_path / "idx", "train", images, [0, 1, 2] * 4)
    write_idx(tmp_path / "idx", "t10k", images[:4] // 2, [0, 1, 0, 1])
    config = config_of(
        tmp_path / "set",
        source={"kind": "idx", "uri": str(tmp_path / "idx")},
        split={"method": "given", "val": 0.0},
        image=SMALL_IMAGE,
    )
    assert prepared(config).missing_classes() == {"test": ["2"]}


def test_stratified_shares_are_exact_after_refusals(tmp_path):
    """The shares of a stratified split hold for the rows that are left when the bad ones are refused."""
    write_folder(tmp_path / "pile", {"a": 25, "b": 45})
    for number in range(5):
        (tmp_path / "pile/a" / f"{number:05d}.png").write_bytes(b"bad")
        (tmp_path / "pile/b" / f"{number + 30:05d}.png").write_bytes(b"")
    config = folder_config(tmp_path / "pile", tmp_path / "set", split={"method": "stratified", "val": 0.1, "test": 0.2})
    manifest = prepared(config, rows_per_unit=9)
    assert {name: split.class_counts for name, split in manifest.splits.items()} == {
        "train": (14, 28),
        "val": (2, 4),
        "test": (4, 8),
    }


def test_one_class_left_is_refused(tmp_path):
    """Where all rows of every class but one are refused, the reasons are told and nothing is written."""
    write_folder(tmp_path / "pile", {"a": 6, "b": 3})
    for path in (tmp_path / "pile/b").iterdir():
        path.write_bytes(b"")
    told = r"^3 of 9 rows were refused \(3 empty\), such as .*pile/b/.*: 0 bytes\. No two classes .* Mend these files"
    with pytest.raises(DatasetError, match=told):
        prepared(folder_config(tmp_path / "pile", tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_the_contact_sheet_is_a_picture_of_the_classes(tmp_path):
    """The sheet is a PNG with a row of tiles for each class; refused rows add lines to it."""
    write_folder(tmp_path / "pile", {"a": 6, "漢字\n": 6})
    config = folder_config(tmp_path / "pile", tmp_path / "set")
    plain = Image.open(io.BytesIO((Path(config.output) / prepared(config).contact_sheet).read_bytes()))
    (tmp_path / "pile/a/bad.png").write_bytes(b"bad")
    more = Image.open(Path(config.output) / prepared(config).contact_sheet)
    assert plain.format == more.format == "PNG"
    assert more.height > plain.height > 2 * 64


class Interrupted(BaseException):
    """The process is told to go while it works."""


def dying_spread(after: int, error: BaseException):
    """A spread that ends with an error after so many items."""

    def spread(function, items, **_):
        for number, item in enumerate(items):
            if number == after:
                raise error
            yield function(item)

    return spread


@pytest.mark.parametrize("error", [Interrupted(), StorageError("the disk is full.")])
@pytest.mark.parametrize(("stage", "after"), [("rows", 0), ("rows", 3), ("shards", 0), ("shards", 1)])
def test_a_run_that_ends_early_goes_on(tmp_path, error, stage, after):
    """A run that dies leaves no data set; the next one does only what was not done, and leaves nothing beside it."""
    write_folder(tmp_path / "pile", {"a": 20, "b": 20})
    config = folder_config(tmp_path / "pile", tmp_path / "set", shards={"target_bytes": 192 * 10})
    spreads = [dying_spread(after, error)] if stage == "rows" else [dying_spread(99, error), dying_spread(after, error)]

    def spread(function, items, **options):
        return spreads.pop(0)(function, items, **options)

    source = open_source(config)
    with (
        mock.patch.multiple(job, spread=spread, ROWS_PER_UNIT=8),
        pytest.raises(type(error)),
        job.begin(config, source, mock.Mock()) as begun,
    ):
        job.run(begun, mock.Mock())
    assert not (tmp_path / "set").exists()
    (staging,) = [path for path in tmp_path.iterdir() if path.name.startswith(".set.tmp-")]
    done = {path.name: path.stat().st_mtime_ns for path in (staging / "rows").glob("*.arrow")}
    assert len(done) == (5 if stage == "shards" else after)
    times = {}

    def watched(function, items, **_):
        for item in items:
            yield function(item)
            times.update({path.name: path.stat().st_mtime_ns for path in (staging / "rows").glob("*.arrow")})

    with mock.patch.multiple(job, spread=watched, ROWS_PER_UNIT=8), job.begin(config, source, mock.Mock()) as begun:
        manifest = job.run(begun, mock.Mock())
    assert done.items() <= times.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pile", "set"]
    assert manifest == prepared(folder_config(tmp_path / "pile", tmp_path / "other", shards={"target_bytes": 1920}))


def test_another_input_does_not_go_on_from_what_was_staged(tmp_path):
    """What a dead run staged of another input is removed, and the old data set is untouched until the new one is."""
    write_folder(tmp_path / "pile", {"a": 20, "b": 20})
    config = folder_config(tmp_path / "pile", tmp_path / "set")
    before = prepared(config)
    write_folder(tmp_path / "pile", {"c": 5})
    source = open_source(config)
    with (
        mock.patch.multiple(job, spread=dying_spread(1, Interrupted()), ROWS_PER_UNIT=8),
        pytest.raises(Interrupted),
        job.begin(config, source, mock.Mock()) as begun,
    ):
        job.run(begun, mock.Mock())
    assert read_manifest(config.output) == before
    write_folder(tmp_path / "pile", {"d": 5})
    after = prepared(config)
    assert after.class_names == ("a", "b", "c", "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pile", "set"]


def test_units_of_another_size_are_not_gone_on_from(tmp_path):
    """Staged files are known by the numbers of their units: a program that cuts these otherwise stages them anew."""
    write_folder(tmp_path / "pile", {"a": 20, "b": 20})
    config = folder_config(tmp_path / "pile", tmp_path / "set")
    with (
        mock.patch.multiple(job, spread=dying_spread(2, Interrupted()), ROWS_PER_UNIT=8),
        pytest.raises(Interrupted),
        job.begin(config, open_source(config), mock.Mock()) as begun,
    ):
        job.run(begun, mock.Mock())
    manifest = prepared(config, rows_per_unit=12)
    assert sum(split.rows for split in manifest.splits.values()) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pile", "set"]


@pytest.mark.parametrize("kept", ["packed", "encoded"])
def test_large_files_make_small_units(tmp_path, kept):
    """A unit's files have no more bytes than a unit may read, and as many as fit, whatever is kept of them."""
    write_folder(tmp_path / "pile", {"a": 12, "b": 12})
    for number, path in enumerate(sorted((tmp_path / "pile").rglob("*.*"))):
        path.write_bytes(encoded(pixels(1, 8 + 4 * number, 40, 3)[0], "bmp"))
    config = folder_config(tmp_path / "pile", tmp_path / "set", image={"storage": kept})
    units = []

    def watched(function, items, **_):
        units.append(items)
        return map(function, items)

    source = open_source(config)
    with (
        mock.patch.multiple(job, spread=watched, BYTES_PER_UNIT=30_000),
        job.begin(config, source, mock.Mock()) as begun,
    ):
        sizes = begun.listing.rows.column("_size").to_pylist()
        job.run(begun, mock.Mock())
    read = [sizes[unit.start : unit.stop] for unit in units[0]]
    assert [size for each in read for size in each] == sizes
    assert all(sum(each) <= 30_000 for each in read)
    assert all(sum(each) + after[0] > 30_000 for each, after in pairwise(read))


def test_the_same_job_twice_at_once_is_refused(tmp_path):
    """A second run of the same job while the first is at work is refused, and takes nothing away from it."""
    config, source = prepare_config(tmp_path / "set", size=(8, 8)), PictureSource(30)
    with job.begin(config, source, mock.Mock()) as begun:
        with pytest.raises(JobError, match="right now"), job.begin(config, source, mock.Mock()):
            pass
        other = prepare(prepare_config(tmp_path / "set", size=(8, 8), seed=5), source)
        with mock.patch.object(job, "spread", lambda function, items, **_: map(function, items)):
            manifest = job.run(begun, mock.Mock())
    assert read_manifest(str(tmp_path / "set")) == manifest != other
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_example_and_the_remedy_are_of_the_commonest_reason(tmp_path):
    """One odd file in front of many of the wrong size: the many are shown and helped; the bound is the alternative."""
    write_folder(tmp_path / "pile", {"a": 3, "b": 3}, size=(9, 7))
    write_folder(tmp_path / "pile", {"c": 3}, size=(8, 8))
    (tmp_path / "pile/a/00000.png").write_bytes(b"bad")
    config = folder_config(tmp_path / "pile", tmp_path / "set", image={"resize": "exact"}, limits={})
    with pytest.raises(RefusedRowsError) as told:
        prepared(config)
    assert str(told.value) == (
        f"6 of 9 rows were refused (1 not_an_image, 5 wrong_size), such as {tmp_path}/pile/a/00001.png: 9x7, not 8x8, "
        f"and resize is exact. That is more than limits.max_refused_share (0.01) allows, so nothing was written. "
        f"image.resize is exact: set it to fit_pad, center_crop or stretch. "
        f"Or raise limits.max_refused_share, and such rows are left out."
    )


def test_where_every_row_is_refused_the_bound_is_no_way_out(tmp_path):
    """With all rows left out there would be nothing to prepare."""
    write_folder(tmp_path / "pile", {"a": 3, "b": 3}, size=(9, 7))
    config = folder_config(tmp_path / "pile", tmp_path / "set", image={"resize": "exact"}, limits={})
    with pytest.raises(RefusedRowsError, match=r"6 of 6 rows .* center_crop or stretch\.$"):
        prepared(config)


def test_what_is_refused_is_told(tmp_path):
    """Above the bound the reasons are counted and an example is named; below it every refused row is in the table."""
    write_folder(tmp_path / "pile", {"a": 20, "b": 20})
    (tmp_path / "pile/a/bad.png").write_bytes(b"bad")
    (tmp_path / "pile/b/none.png").write_bytes(b"")
    with pytest.raises(RefusedRowsError, match=r"2 of 42 rows were refused \(1 empty, 1 not_an_image\)"):
        prepared(folder_config(tmp_path / "pile", tmp_path / "set", limits={"max_refused_share": 0.04}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pile"]
    config = folder_config(tmp_path / "pile", tmp_path / "set", limits={"max_refused_share": 0.05})
    manifest = prepared(config)
    rows = pq.read_table(Path(config.output) / manifest.refused_table).to_pylist()
    assert [row[ID] for row in rows] == ["a/bad.png", "b/none.png"]
    assert rows[0][URI] == str(tmp_path / "pile/a/bad.png")
    assert all(row[DETAIL] for row in rows)
    assert set(list_files(config.output)) >= {"manifest.json", "refused.parquet", "contact_sheet.png"}


def test_secrets_of_an_address_are_not_told(tmp_path):
    """A table may have signed addresses: of the example in a message neither password nor query is shown."""
    lines = [f"http://user:secret@127.0.0.1:9/{number}.png?sig=secret,{number % 2}\n" for number in range(4)]
    (tmp_path / "t.csv").write_text("uri,label\n" + "".join(lines))
    config = config_of(output=str(tmp_path / "set"), source={"kind": "manifest", "uri": str(tmp_path / "t.csv")})
    with pytest.raises(RefusedRowsError, match=r"such as http://127.0.0.1:9/0.png: ") as refused:
        prepare(config, open_source(config))
    assert "secret" not in str(refused.value)
    assert ".." not in str(refused.value)
