"""What a codec costs and saves in shards of real images: `python -m tests.benchmarks.compression`.

Fashion-MNIST's test images as packed 3x32x32 rows, written and read back with each codec in turn, several times.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from cnnjob.data import job
from cnnjob.data.manifest import Manifest
from cnnjob.data.rows import read_rows
from cnnjob.data.sources.open import open_source
from cnnjob.progress import Silent
from cnnjob.schema import ID
from tests.piles import FASHION, config_of

ROUNDS = 7
CODECS = ("none", "lz4", "zstd")


def main() -> None:
    """Print, for each codec, bytes a row and rows a second with their spread."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(
            Path(folder) / "set",
            source={"kind": "idx", "uri": str(FASHION)},
            split={"method": "given", "val": 0.0},
            image={"resize": "pad"},
            shards={"compression": "none"},
        )
        with (
            mock.patch.object(job, "spread", lambda function, items, **_: map(function, items)),
            job.begin(config, open_source(config), Silent()) as begun,
        ):
            manifest = job.run(begun, Silent())
        print(json.dumps(measure(Path(folder) / "set", manifest), indent=1))  # noqa: T201 - a benchmark's output


def measure(folder: Path, manifest: Manifest) -> dict[str, dict[str, object]]:
    """Rounds over the codecs in turn, so that what else the machine does hits them alike."""
    split = manifest.splits["test"]
    shard = split.shards[0]
    table = pq.read_table(folder / shard.path)
    sizes: dict[str, int] = {}
    written: dict[str, list[float]] = {codec: [] for codec in CODECS}
    read: dict[str, list[float]] = {codec: [] for codec in CODECS}
    for _ in range(ROUNDS):
        for codec in CODECS:
            written[codec].append(len(table) / write(table, folder / shard.path, codec))
            sizes[codec] = (folder / shard.path).stat().st_size
            start = time.perf_counter()
            read_rows(str(folder), split, 0, split.rows, manifest.image.shape)
            read[codec].append(len(table) / (time.perf_counter() - start))
    return {
        codec: {
            "bytes_per_row": round(sizes[codec] / len(table)),
            "written_rows_per_s": spread_of(written[codec]),
            "read_rows_per_s": spread_of(read[codec]),
        }
        for codec in CODECS
    }


def write(table: pa.Table, path: Path, codec: str) -> float:
    """Seconds to write the shard as the product does."""
    start = time.perf_counter()
    pq.write_table(
        table,
        path,
        row_group_size=2048,
        compression=codec.replace("none", "NONE"),
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=[ID],
    )
    return time.perf_counter() - start


def spread_of(values: list[float]) -> list[int]:
    """Smallest, median and largest."""
    return [round(min(values)), round(statistics.median(values)), round(max(values))]


if __name__ == "__main__":
    main()
