"""What the feeds of training read and hold: `python -m tests.benchmarks.feeds DATASET`.

Two ranks' rows read into memory, against the bytes of the data set; before that an epoch of all rows streamed by one
rank, and a split evaluated, with how far the process's memory grows, against the budget that streaming asks for. One
line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

from cnnjob.cluster.session import WORKER_ENVIRONMENT
from cnnjob.data.manifest import read_manifest
from cnnjob.training.feed import EvaluationFeed, Place, Run, TrainingFeed, streaming_bytes
from cnnjob.training.stream import StreamingFeed


def told(name: str, key: str) -> int:
    """A number that the kernel has of this process."""
    lines = Path("/proc/self", name).read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


def main() -> None:
    """Measure one data set, with the allocator as workers have it."""
    if not WORKER_ENVIRONMENT.items() <= os.environ.items():
        os.execvpe(
            sys.executable,
            [sys.executable, "-m", "tests.benchmarks.feeds", *sys.argv[1:]],
            WORKER_ENVIRONMENT | os.environ,
        )
    dataset = sys.argv[1]
    manifest = read_manifest(dataset)
    total = sum(shard.bytes for shard in manifest.splits["train"].shards)
    list(StreamingFeed(Run(dataset, manifest, Place(0, 4096), 4096 * 2, 0)).epoch(1))
    before = told("status", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began, rows = time.perf_counter(), 0
    feed = StreamingFeed(Run(dataset, manifest, Place(0, 1), 64, 0))
    for batch in feed.epoch(1):
        rows += len(batch.labels)
    seconds = time.perf_counter() - began
    # As in a run, where the buffers of training are there while a split is evaluated.
    for _ in EvaluationFeed(dataset, manifest, "test", Place(0, 1), batch_size=512, keep=False).batches():
        pass
    grown = told("status", "VmHWM") - before
    read = told("io", "rchar")
    for rank in (0, 1):
        TrainingFeed(Run(dataset, manifest, Place(rank, 2), 128, 0))
    figures = {
        "rows_mb": rows * 3 * 32 * 32 / 1e6,
        "budget_mb": streaming_bytes(manifest) / 1e6,
        "grown_mb": grown * 1024 / 1e6,
        "rows_per_s": rows / seconds,
        "read_share": (told("io", "rchar") - read) / total,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
