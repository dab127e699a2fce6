import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob.config.prepare import ShardsConfig
from cnnjob.data.shards import ShardPlan, WrittenShard, rows_per_shard, write_shard
from cnnjob.data.sources.base import Unit
from cnnjob.data.staging import read_index, stage_unit, write_listing
from cnnjob.data.statistics import PixelCounts
from cnnjob.schema import ID, IMAGE, LABEL
from tests.helpers import SMALL, PictureSource, prepare_config

ROWS = 50
UNITS = [Unit(0, 0, 30), Unit(1, 30, 50)]


@pytest.fixture
def staged(tmp_path: Path) -> str:
    """Fifty rows, staged in two units."""
    listing = PictureSource(ROWS).listing("")
    config = prepare_config(tmp_path / "set", size=SMALL)
    uri = str(tmp_path / "listing.arrow")
    write_listing(uri, listing.rows, UNITS)
    for unit in UNITS:
        stage_unit(unit, listing=uri, reader=listing.reader, config=config, keys=(), folder=str(tmp_path / "rows"))
    return str(tmp_path / "rows")


def write(staged: str, units, positions, *, split: str = "train", **shards) -> WrittenShard:
    """Write one shard of rows of the staged files."""
    folder = Path(staged).parent
    config = prepare_config(folder / "set", size=SMALL).model_copy(update={"shards": ShardsConfig(**shards)})
    plan = ShardPlan(split, f"{split}/00003.parquet", np.array(units, np.int32), np.array(positions, np.int32))
    return write_shard(plan, staged=staged, folder=str(folder), config=config, keys=(), num_classes=3)


def table_of(staged: str, shard: WrittenShard) -> pa.Table:
    return pq.read_table(Path(staged).parent / shard.shard.path)


def test_rows_are_those_that_were_planned(staged):
    """A shard has the planned rows in the planned order, with their own pixels and labels."""
    units, positions = [1, 0, 0, 1, 0], [3, 29, 0, 0, 7]
    table = table_of(staged, write(staged, units, positions))
    indices = [read_index(f"{staged}/{number:06d}.arrow", number) for number in (0, 1)]
    rows = [int(indices[unit].rows[position]) for unit, position in zip(units, positions, strict=True)]
    source = PictureSource(ROWS)
    assert table.column(ID).to_pylist() == [f"row-{row}" for row in rows]
    assert table.column(LABEL).to_pylist() == [source.label(row) for row in rows]
    assert [len(image.as_py()) for image in table.column(IMAGE)] == [3 * 8 * 8] * 5
    first = source.pixels(rows[0])
    planes = first.transpose(2, 0, 1) if first.ndim == 3 else np.stack([first] * 3)
    assert table.column(IMAGE)[0].as_py() == planes.tobytes()


def test_a_staged_unit_is_not_done_again(staged):
    """A unit whose file is there is looked up: its reader is not asked again."""
    config = prepare_config(Path(staged).parent / "set", size=SMALL)
    again = stage_unit(UNITS[1], listing="gone", reader=None, config=config, keys=(), folder=staged)
    assert sorted(again.rows.tolist()) == list(range(30, 50))
    assert again.image_bytes == 20 * 3 * 8 * 8


def test_a_damaged_staged_file_is_staged_anew(staged):
    """A staged file that is cut short, as a failing disk leaves it, is no obstacle for the next run."""
    folder = Path(staged).parent
    path = Path(staged) / "000001.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    config, source = prepare_config(folder / "set", size=SMALL), PictureSource(ROWS)
    listing = str(folder / "listing.arrow")
    stage_unit(UNITS[1], listing=listing, reader=source, config=config, keys=(), folder=staged)
    assert path.read_bytes() == whole


def test_pictures_are_told_apart_by_their_pixels(staged):
    """The index of a unit has the digest of each row's canonical pixels."""
    index = read_index(f"{staged}/000000.arrow", 0)
    table = table_of(staged, write(staged, [0] * 30, range(30)))
    digests = [hashlib.blake2b(image.as_py(), digest_size=16).digest() for image in table.column(IMAGE)]
    assert index.pictures.tobytes() == b"".join(digests)


def test_rows_per_shard_is_at_least_one():
    """A row larger than a shard's target gets a shard of its own."""
    assert rows_per_shard(1000, ShardsConfig(target_bytes=1)) == 1
    assert rows_per_shard(1000, ShardsConfig(target_bytes=5999)) == 5


def test_receipt_says_what_was_written(staged):
    """A written shard's bytes, rows and class counts are those of the file."""
    written = write(staged, [0] * 7, range(7), split="val", rows_per_group=4)
    path = Path(staged).parent / "val" / "00003.parquet"
    assert written.shard.bytes == path.stat().st_size
    assert written.shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written.shard.rows == sum(written.class_counts) == 7
    assert pq.ParquetFile(path).num_row_groups == 2


def test_pixels_are_counted_in_training_shards(staged):
    """A training shard brings the counts of its pixels; another one brings none."""
    written = write(staged, [0] * 9, range(9))
    images = np.stack(
        [np.frombuffer(image.as_py(), np.uint8) for image in table_of(staged, written).column(IMAGE)]
    ).reshape(9, 3, 8, 8)
    assert np.array_equal(written.pixels.counts, PixelCounts.of(images).counts)
    assert write(staged, [0], [0], split="test").pixels is None


def test_digest_ignores_how_rows_are_cut(staged):
    """The digests of two shards add up to that of one shard with all their rows, whatever the compression."""
    whole = write(staged, [0] * 10, range(10), compression="lz4").row_digest
    low = write(staged, [0] * 4, range(4), compression="zstd").row_digest
    high = write(staged, [0] * 6, range(4, 10), compression="none").row_digest
    assert whole == (low + high) % 2**256
    assert len({whole, low, high}) == 3


def test_columns_explain_themselves(staged):
    """A shard's image column says its shape, layout and colour mode, and holds one fixed-size binary a row."""
    field = table_of(staged, write(staged, [0], [0])).schema.field(IMAGE)
    assert field.type == pa.binary(3 * 8 * 8)
    assert (field.metadata[b"shape"], field.metadata[b"layout"], field.metadata[b"color"]) == (
        b"[3, 8, 8]",
        b"CHW",
        b"rgb",
    )
