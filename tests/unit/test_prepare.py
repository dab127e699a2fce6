import errno
import filecmp
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from cnnjob import storage
from cnnjob.config.prepare import LimitsConfig
from cnnjob.data import place as job_place
from cnnjob.data.decode import canonical
from cnnjob.data.manifest import MANIFEST, read_manifest
from cnnjob.data.output import lies_in, refuse_output
from cnnjob.data.place import Place, open_place, tidy
from cnnjob.data.published import current
from cnnjob.data.sources.base import Listing, Unit, cut_units
from cnnjob.data.sources.digits import DigitsSource
from cnnjob.data.staging import StagedUnit
from cnnjob.data.statistics import PixelCounts
from cnnjob.errors import DatasetError, JobError, RefusedRowsError, StorageError, UserError
from cnnjob.schema import ID, LABEL, REASON, REASONS, SPLITS
from cnnjob.storage import list_files
from tests.helpers import SMALL, PictureSource, dies_at, manifest_of, prepare, prepare_config, rows_of

DEAD, LIVING = "dead" * 3, "f" * 12
"""Keys of jobs."""
MIXED = [(8, 8), (4, 4), (8, 12), (20, 6)]


def ids_of(folder: str, manifest) -> list[str]:
    return [row_id for name in SPLITS for row_id in rows_of(folder, manifest, name).ids]


@pytest.mark.parametrize(("rows_per_unit", "order"), [(1000, 0), (64, 1), (17, 2), (1, 3)])
def test_units_do_not_show(tmp_path, rows_per_unit, order):
    """However rows are cut into units, and in whatever order these are done, every file has the same bytes."""
    source = PictureSource(150, sizes=MIXED)
    config = prepare_config(tmp_path / "a" / "set", size=SMALL, resize="pad")
    same = prepare_config(tmp_path / "b" / "set", size=SMALL, resize="pad")
    first = prepare(config, source)
    second = prepare(same, source, rows_per_unit=rows_per_unit, order=order)
    assert first == second
    files = list_files(config.output)
    assert {"manifest.json", "refused.parquet", "train/00001.parquet"} <= set(files)
    assert filecmp.cmpfiles(config.output, same.output, files, shallow=False) == (files, [], [])


@pytest.mark.parametrize("resize", ["exact", "pad", "fit_pad", "center_crop", "stretch"])
def test_rows_in_are_rows_out_or_refused(tmp_path, resize):
    """Of images of mixed sizes every one is in exactly one split, or refused once with a reason."""
    source = PictureSource(150, sizes=MIXED)
    config = prepare_config(tmp_path / "set", size=SMALL, resize=resize)
    manifest = prepare(config, source, rows_per_unit=40)
    refused = pq.read_table(Path(config.output) / "refused.parquet")
    found = ids_of(config.output, manifest) + refused.column(ID).to_pylist()
    assert sorted(found) == sorted(f"row-{number}" for number in range(150))
    assert sum(manifest.refused.values()) == len(refused)
    assert set(refused.column(REASON).to_pylist()) <= set(REASONS)
    assert sum(split.rows for split in manifest.splits.values()) + len(refused) == manifest.rows_in
    assert bool(len(refused)) == (resize in ("exact", "pad"))


def test_rows_keep_their_pixels_and_labels(tmp_path):
    """Each row of the data set has the label and the canonical pixels of the source's row of that id."""
    source = PictureSource(80, sizes=MIXED)
    config = prepare_config(tmp_path / "set", size=SMALL, resize="stretch")
    manifest = prepare(config, source, rows_per_unit=9)
    for name in SPLITS:
        rows = rows_of(config.output, manifest, name)
        for row_id, image, label in zip(rows.ids, rows.images, rows.labels, strict=True):
            number = int(row_id.removeprefix("row-"))
            assert label == source.label(number)
            assert np.array_equal(image, canonical(source.pixels(number), config.image))


def test_statistics_are_those_of_the_training_rows(tmp_path):
    """Mean, deviation, histogram and class shares are those of the training split alone."""
    config = prepare_config(tmp_path / "set", size=SMALL, resize="stretch")
    manifest = prepare(config, PictureSource(100, sizes=MIXED), rows_per_unit=7)
    rows = rows_of(config.output, manifest, "train")
    counts = PixelCounts.of(rows.images)
    assert manifest.statistics.mean == tuple(counts.mean)
    assert manifest.statistics.std == tuple(counts.std)
    assert np.array_equal(manifest.statistics.pixel_histogram, counts.counts)
    assert np.array_equal(manifest.statistics.class_shares, np.bincount(rows.labels, minlength=3) / len(rows.labels))


def test_fingerprint_is_of_the_content(tmp_path):
    """Shard size, row groups and compression leave the fingerprint; one row more or another seed change it."""
    base = prepare(prepare_config(tmp_path / "a", size=SMALL), PictureSource(60))
    repacked = prepare(
        prepare_config(tmp_path / "b", size=SMALL, rows_per_shard=7, rows_per_group=3), PictureSource(60)
    )
    grown = prepare(prepare_config(tmp_path / "c", size=SMALL), PictureSource(61))
    reseeded = prepare(prepare_config(tmp_path / "d", size=SMALL, seed=1), PictureSource(60))
    assert len(repacked.splits["train"].shards) > len(base.splits["train"].shards)
    assert repacked.fingerprint == base.fingerprint
    assert len({base.fingerprint, grown.fingerprint, reseeded.fingerprint}) == 3


def test_rows_keep_their_split_when_data_grow(tmp_path):
    """A row of the smaller data set is in the same split of the larger one, and in the same order there."""
    small = prepare_config(tmp_path / "a", size=SMALL)
    large = prepare_config(tmp_path / "b", size=SMALL)
    before, after = prepare(small, PictureSource(60)), prepare(large, PictureSource(200))
    for name in SPLITS:
        old = rows_of(small.output, before, name).ids
        new = rows_of(large.output, after, name).ids
        assert [row_id for row_id in new if int(row_id.removeprefix("row-")) < 60] == old


def test_too_many_refused_rows_publish_nothing(tmp_path):
    """Above the refused share the job fails with the counts, and leaves the folder before it as it was."""
    config = prepare_config(tmp_path / "set", size=SMALL, resize="exact")
    prepare(config, PictureSource(50))
    before = read_manifest(config.output)
    strict = config.model_copy(update={"limits": LimitsConfig(max_refused_share=0.1)})
    with pytest.raises(RefusedRowsError, match="wrong_size"):
        prepare(strict, PictureSource(100, sizes=MIXED))
    assert read_manifest(config.output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


class RepeatingSource(PictureSource):
    """The first dozen ids come again at the end."""

    def listing(self, scratch: str) -> Listing:
        """All rows, and the first of them once more."""
        whole = super().listing(scratch)
        return replace(whole, rows=pa.concat_tables([whole.rows, whole.rows.slice(0, 12)]))


def test_duplicate_ids_publish_nothing(tmp_path):
    """Two rows of the same id are the user's mistake, told with the first ten of them; nothing is written."""
    config = prepare_config(tmp_path / "deep" / "set", size=SMALL)
    with pytest.raises(DatasetError, match=r"12 ids .*: row-0, row-1, row-10, row-11, (row-\d, ){5}row-7\."):
        prepare(config, RepeatingSource(40), rows_per_unit=10)
    assert list(tmp_path.iterdir()) == []


class OneClassSource(PictureSource):
    """Every row is an ant."""

    def label(self, number: int) -> int:
        """The only class."""
        return 0


def test_one_class_is_refused(tmp_path):
    """A source whose rows are all of one class is refused, by the class's name."""
    with pytest.raises(DatasetError, match="only the class 'ant'"):
        prepare(prepare_config(tmp_path / "set", size=SMALL), OneClassSource(20))
    assert list(tmp_path.iterdir()) == []


def test_no_training_rows_is_an_error(tmp_path):
    """Where every row is refused or none trains, the job says so and writes nothing."""
    with pytest.raises(DatasetError, match="20 wrong_size"):
        prepare(prepare_config(tmp_path / "set", size=(9, 9), resize="exact"), PictureSource(20))
    with pytest.raises(DatasetError, match=r"has 0 rows of 0 classes.*Lower split.val and split.test"):
        prepare(prepare_config(tmp_path / "set", size=SMALL, val=0.0, test=0.999999), PictureSource(20))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    """What a killed run staged beside the output is gone after the next one; a folder of another name is not ours."""
    (tmp_path / f".set.tmp-{DEAD}" / "rows").mkdir(parents=True)
    (tmp_path / ".set.tmp-backup").mkdir()
    prepare(prepare_config(tmp_path / "set", size=SMALL), PictureSource(30))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.tmp-backup", "set"]


def test_the_same_job_finds_its_data_set(tmp_path):
    """A data set of this source and config is current; of another config, source or with a lost shard it is not."""
    config, source = prepare_config(tmp_path / "set", size=SMALL), PictureSource(30)
    assert current(config, source) is None
    manifest = prepare(config, source)
    assert current(config, source) == manifest
    assert current(config, PictureSource(31)) is None
    assert current(prepare_config(tmp_path / "set", size=SMALL, seed=1), source) is None
    (tmp_path / "set" / manifest.splits["train"].shards[0].path).unlink()
    assert current(config, source) is None


def test_a_damaged_data_set_is_not_current(tmp_path):
    """A manifest that is cut short is no obstacle: the same command prepares the data set again."""
    config, source = prepare_config(tmp_path / "set", size=SMALL), PictureSource(30)
    prepare(config, source)
    (tmp_path / "set" / MANIFEST).write_text('{"format_version": 1,')
    assert current(config, source) is None


def test_foreign_folders_are_not_replaced(tmp_path):
    """A folder with files that is no data set is refused as output; an empty or missing one is not."""
    refuse_output(str(tmp_path / "none"), None)
    refuse_output(str(tmp_path), None)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="not a prepared data set"):
        refuse_output(str(tmp_path), None)


def test_what_a_desktop_left_in_an_output_is_no_obstacle(tmp_path):
    """A data set that was looked at in a file manager is still one, and a folder with nothing but litter is empty."""
    (tmp_path / ".DS_Store").touch()
    refuse_output(str(tmp_path), None)
    prepare(prepare_config(tmp_path / "set", size=SMALL), PictureSource(30))
    (tmp_path / "set" / "train" / ".DS_Store").touch()
    refuse_output(str(tmp_path / "set"), None)


def test_an_output_that_cannot_be_looked_at_is_refused(tmp_path):
    """A name that no disk takes is the user's mistake, before any work."""
    with pytest.raises(UserError, match=r"File name too long\. Correct the address"):
        refuse_output(str(tmp_path / ("x" * 300)), None)


def test_a_mounted_disk_is_not_replaced(monkeypatch, tmp_path):
    """Where a disk is mounted no folder can be renamed to, which is said before the work; below it one can."""
    monkeypatch.setattr("os.path.ismount", lambda path: path == str(tmp_path))
    with pytest.raises(DatasetError, match="a disk is mounted there"):
        refuse_output(str(tmp_path), None)
    refuse_output(str(tmp_path / "set"), None)


def test_a_folder_that_cannot_be_renamed_is_told(monkeypatch, tmp_path):
    """What the kernel says against the last rename is a failure of the world, and the staged rows stay."""

    def busy(*_):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(StorageError, match="set: the disk failed: Device or resource busy"):
        prepare(prepare_config(tmp_path / "set", size=SMALL), PictureSource(30))
    assert len(list(tmp_path.glob(".set.tmp-*/rows/*.arrow"))) == 1


def test_another_manifest_makes_no_data_set(tmp_path):
    """A folder that has a manifest of something else, or other files beside ours, is not replaced; a damaged one is."""
    output = tmp_path / "set"
    prepare(prepare_config(output, size=SMALL), PictureSource(30))
    refuse_output(str(output), None)
    (output / MANIFEST).write_text('{"format_version": 1,')
    refuse_output(str(output), None)
    (output / MANIFEST).write_text('{"name": "my web app"}')
    with pytest.raises(DatasetError, match="not a prepared data set"):
        refuse_output(str(output), None)
    prepare(prepare_config(output, size=SMALL), PictureSource(30))
    (output / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"'notes\.txt'"):
        refuse_output(str(output), None)


@pytest.mark.parametrize(
    ("output", "words"), [("pile", "would be replaced"), ("", "would be replaced"), ("pile/set", "lies in")]
)
def test_output_and_source_lie_apart(tmp_path, output, words):
    """An output that is the source, holds it or lies in it is refused, also through a link."""
    (tmp_path / "pile").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pile")
    for source in ("pile", "link"):
        with pytest.raises(DatasetError, match=words):
            refuse_output(str(tmp_path / output), str(tmp_path / source))
    refuse_output(str(tmp_path / "pile-set"), str(tmp_path / "pile"))


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("s3://b/raw/out?region=x", "s3://b/raw?region=x", True),
        ("s3://b/raw/out", "s3://b/raw/?region=x", True),
        ("s3://b/raw?region=x", "s3://b/raw?region=y", True),
        ("s3://b/a%20b/c", "s3://b/a b", True),
        ("s3://b/raw", "s3://b", True),
        ("s3://b/raw-out?region=x", "s3://b/raw?region=x", False),
        ("s3://b/raw?region=x", "s3://b/raw/out?region=x", False),
        ("s3://b/raw/out", "s3://c/raw", False),
        ("s3://b/raw/out?endpoint_override=http://here:1", "s3://b/raw?endpoint_override=http://there:1", False),
        ("s3://b/raw/out", "/b/raw", False),
        ("file:///b/a%20b/c", "/b/a b", True),
        ("/b/raw/../raw/c", "file:///b/raw/", True),
        ("/b/raw", "/", True),
        ("zip://a/b::/b/raw.zip", "/b", False),
        ("/b/raw", "https://b/raw", False),
    ],
)
def test_places_are_told_by_server_and_path(monkeypatch, inner, outer, expected):
    """Query, encoding and a slash at the end make no other place; another server, bucket or store does."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert lies_in(inner, outer) == expected


def test_an_output_in_its_source_is_refused_whatever_the_query(monkeypatch):
    """An output on S3 that lies in the source, or holds it, is refused before anything is listed."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for output, source, words in (
        ("s3://b/raw/out?region=x", "s3://b/raw?region=x", "lies in"),
        ("s3://b/raw?region=x", "s3://b/raw/pile?region=x", "would be replaced"),
    ):
        with pytest.raises(DatasetError, match=words):
            refuse_output(output, source)


def test_a_staged_file_of_other_rows_is_staged_anew(tmp_path):
    """A staged file is taken for a unit only where its rows, with those that were refused, are the unit's."""
    rows = StagedUnit(0, np.arange(5, 9), *([np.zeros(4)] * 4), np.zeros((4, 2)), 0, [{"reason": "empty"}])
    assert rows.is_all_of(Unit(0, 5, 10))
    assert not rows.is_all_of(Unit(0, 5, 11))
    assert not rows.is_all_of(Unit(0, 3, 8))
    assert not rows.is_all_of(Unit(0, 6, 11))


def test_what_a_job_left_that_died_after_it_published_is_removed(tmp_path):
    """Preparing again has nothing to do and removes the dead job's folder; that of a living one stays."""
    config = prepare_config(tmp_path / "set", size=SMALL)
    prepare(config, PictureSource(30))
    others = [f".other.tmp-{DEAD}", f".set.tmp-{LIVING}"]
    for name in (*others, f".set.tmp-{DEAD}"):
        (tmp_path / name / "rows").mkdir(parents=True)
    with FileLock(tmp_path / f".set.tmp-{LIVING}" / "lock"):
        tidy(config.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*others, "set"]


def test_a_link_as_output_stays_a_link(tmp_path):
    """Where the output is a link to a folder, the data set lies in that folder, again and again."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for seed in (0, 1):
        config = prepare_config(tmp_path / "link", size=SMALL, seed=seed)
        assert prepare(config, PictureSource(30)) == read_manifest(str(tmp_path / "real"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(("rows", "size"), [(0, 5), (1, 5), (5, 5), (11, 5), (12, 1)])
def test_units_cover_the_listing(rows, size):
    """Units are numbered runs of at most the given size that cover each row once, in order."""
    units = cut_units(rows, size)
    assert [row for unit in units for row in range(unit.start, unit.stop)] == list(range(rows))
    assert [unit.number for unit in units] == list(range(len(units)))
    assert all(0 < unit.stop - unit.start <= size for unit in units)


def test_digits_are_spread_over_the_whole_range():
    """Digits' gray levels 0 to 16 become 0 to 255, by rounding v * 255 / 16, under ids of six digits."""
    from sklearn.datasets import load_digits

    listing = DigitsSource().listing("")
    images = list(listing.reader.read(listing.rows))
    bunch = load_digits()
    assert listing.rows.column(LABEL).to_pylist() == bunch.target.tolist()
    assert np.array_equal(np.stack(images), np.round(bunch.images * 255 / 16))
    assert listing.rows.column(ID).to_pylist() == [f"digits/{row:06d}" for row in range(1797)]


def test_a_data_set_whose_files_another_job_removed_is_not_published(tmp_path, monkeypatch):
    """Where nothing keeps two jobs apart, one that misses files of its own leaves what is published as it is."""
    monkeypatch.setattr(storage, "is_local", lambda _: False)
    (tmp_path / "manifest.json").write_text("the other's")
    here = Place(str(tmp_path), str(tmp_path / "staging"), str(tmp_path), "-mine")
    with pytest.raises(JobError, match=r"another job has prepared .* Nothing of this one was published"):
        here.publish(manifest_of([3]))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("manifest.json", "the other's")]


@pytest.mark.parametrize("again", [40, 44], ids=["the same job", "another job"])
def test_a_data_set_that_was_moved_aside_is_put_back(tmp_path, monkeypatch, again):
    """Where folders cannot be exchanged, a job that dies between two moves loses nothing: the next one puts it back."""
    config = prepare_config(tmp_path / "set")
    first = prepare(config, PictureSource(36))
    monkeypatch.setattr(job_place.local_disk, "exchange", lambda *_: False)
    monkeypatch.setattr(job_place.local_disk, "reached", dies_at("moved aside"))
    with pytest.raises(KeyboardInterrupt):
        prepare(config, PictureSource(40))
    assert not (tmp_path / "set").exists()
    monkeypatch.undo()
    with open_place(str(tmp_path / "set"), "another" if again == 44 else _key_of(tmp_path)):
        assert read_manifest(str(tmp_path / "set")) == first


def _key_of(folder: Path) -> str:
    (staging,) = folder.glob(".set.tmp-*")
    return staging.name.removeprefix(".set.tmp-")
