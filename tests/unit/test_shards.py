import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob.config.prepare import ShardsConfig
from cnnjob.data.shards import PLACE, ShardPlan, plan_shards, rows_per_shard, stage_rows, write_shard
from cnnjob.schema import ID, IMAGE, LABEL, dataset_schema

SHAPE = (1, 2, 2)
SCHEMA = dataset_schema(SHAPE, "gray")


def rows(places) -> pa.Table:
    """A row for each place; its id, label and pixels follow from its number."""
    columns = {
        PLACE: pa.array([int(place) for place in places], pa.uint64()),
        ID: [f"row-{number:04d}" for number in range(len(places))],
        IMAGE: [bytes([number % 256] * 4) for number in range(len(places))],
        LABEL: [number % 3 for number in range(len(places))],
    }
    return pa.table(columns, schema=SCHEMA.insert(0, pa.field(PLACE, pa.uint64())))


def write_all(folder, places, limit: int) -> list[str]:
    """Stage rows in two files, plan and write all shards; returns the ids in the order of the shards."""
    table = rows(places)
    half = len(table) // 2
    staged = [f"{folder}/a.arrow", f"{folder}/b.arrow"]
    found = [stage_rows(staged[0], table.slice(0, half)), stage_rows(staged[1], table.slice(half))]
    plans = plan_shards("train", np.concatenate(found), limit)
    written = [write_shard(plan, staged, str(folder), SCHEMA, ShardsConfig(), 3) for plan in plans]
    tables = [pq.read_table(folder / each.shard.path) for each in written]
    assert [len(each) for each in tables] == [each.shard.rows for each in written]
    return [row_id for each in tables for row_id in each.column(ID).to_pylist()]


def test_rows_are_in_order_of_place(tmp_path):
    """Shards one after another have the rows in order of place."""
    places = np.random.default_rng(0).permutation(100).astype(np.uint64) << np.uint64(50)
    expected = [f"row-{number:04d}" for number in np.argsort(places)]
    assert write_all(tmp_path, places, 16) == expected


@pytest.mark.parametrize("first", [0, 2**53, 2**62, 2**63, 2**64 - 64])
def test_neighbouring_places_are_told_apart(tmp_path, first):
    """Places that differ by one, as large as 64 bits allow, end in one shard each: no row is lost or doubled."""
    places = [first + number for number in range(64)]
    assert write_all(tmp_path, places, 8) == [f"row-{number:04d}" for number in range(64)]


def test_tied_places_are_ordered_by_id(tmp_path):
    """Rows of the same place are in order of id and in one shard."""
    assert write_all(tmp_path, [5] * 20, 4) == [f"row-{number:04d}" for number in range(20)]


def test_rows_per_shard_is_at_least_one():
    """A row larger than a shard's target gets a shard of its own."""
    assert rows_per_shard(1000, ShardsConfig(target_bytes=1)) == 1
    assert rows_per_shard(1000, ShardsConfig(target_bytes=5999)) == 5


def test_duplicate_ids_are_noticed(tmp_path):
    """The same id twice hashes to the same place, and the shard that gets both tells it."""
    table = pa.concat_tables([rows([3, 9]), rows([3])])
    uri = str(tmp_path / "rows.arrow")
    stage_rows(uri, table)
    written = write_shard(ShardPlan("train", 0, 0, 10), [uri], str(tmp_path), SCHEMA, ShardsConfig(), 3)
    assert written.duplicate_ids == ("row-0000",)


def test_receipt_says_what_was_written(tmp_path):
    """A written shard's bytes, digest, rows and class counts are those of the file."""
    uri = str(tmp_path / "rows.arrow")
    stage_rows(uri, rows(range(10)))
    config = ShardsConfig(rows_per_group=4)
    shard = write_shard(ShardPlan("val", 3, 2, 8), [uri], str(tmp_path), SCHEMA, config, 3).shard
    path = tmp_path / "val" / "00003.parquet"
    assert shard.path == "val/00003.parquet"
    assert shard.bytes == path.stat().st_size
    assert shard.rows == 7
    assert pq.ParquetFile(path).num_row_groups == 2


def test_digest_ignores_how_rows_are_cut(tmp_path):
    """The digests of two shards add up to that of one shard with all their rows."""
    uri = str(tmp_path / "rows.arrow")
    stage_rows(uri, rows(range(10)))

    def digest(first: int, last: int, compression: str) -> int:
        config = ShardsConfig(compression=compression)
        return write_shard(ShardPlan("train", 0, first, last), [uri], str(tmp_path), SCHEMA, config, 3).row_digest

    whole, low, high = digest(0, 9, "lz4"), digest(0, 3, "zstd"), digest(4, 9, "none")
    assert whole == (low + high) % 2**256
    assert len({whole, low, high}) == 3


def test_columns_explain_themselves(tmp_path):
    """A shard's image column says its shape, layout and colour mode, and holds one fixed-size binary a row."""
    uri = str(tmp_path / "rows.arrow")
    stage_rows(uri, rows(range(3)))
    write_shard(ShardPlan("train", 0, 0, 9), [uri], str(tmp_path), SCHEMA, ShardsConfig(), 3)
    field = pq.read_schema(tmp_path / "train" / "00000.parquet").field(IMAGE)
    assert field.type == pa.binary(4)
    assert (field.metadata[b"shape"], field.metadata[b"layout"], field.metadata[b"color"]) == (
        b"[1, 2, 2]",
        b"CHW",
        b"gray",
    )
