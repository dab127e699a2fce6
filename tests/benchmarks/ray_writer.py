"""What Ray Data's own ``write_parquet`` leaves where a night of ours commits: by hand, prints a table for DESIGN.md.

The same rows are written into a partition's folder by the writer of ``ray.data.Dataset``, and what a reader of that
folder then finds is counted: after a second run, after a kill in an overwrite, and with one bad file in the input.
Run it with ``python -m tests.benchmarks.ray_writer``.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
from PIL import Image

ROWS, BLOCKS, KILLED_AFTER = 1000, 20, 5
PAUSE_S = 0.1
"""Of each block, as long as its scoring might take."""


def write(folder: str, mode: str, version: str) -> None:
    """One night by Ray Data's writer: rows of a version, a file a block."""
    ray = _ray()
    rows = ray.data.range(ROWS, override_num_blocks=BLOCKS)

    def score(batch: dict) -> dict:
        time.sleep(PAUSE_S)
        return {"id": batch["id"], "version": [version] * len(batch["id"])}

    rows.map_batches(score).write_parquet(folder, mode=mode)


def read_images(folder: str, output: str) -> None:
    """A folder of images by Ray Data's reader and writer."""
    ray = _ray()
    ray.data.read_images(folder, size=(8, 8), mode="RGB").write_parquet(output)


def _ray() -> object:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    return ray


def run(*arguments: str, kill_after_files: tuple[Path, int] | None = None) -> int:
    """A night in a process of its own, killed once so many of its own files are there."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.ray_writer", *arguments], **quiet)
    if kill_after_files:
        folder, count = kill_after_files
        before = set(folder.glob("*"))
        while process.poll() is None and len(set(folder.glob("*")) - before) < count:
            time.sleep(0.005)
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return process.wait()


def found(folder: Path) -> str:
    """What a reader of the folder gets."""
    try:
        table = pq.read_table(folder)
    except Exception as error:  # noqa: BLE001 - that is what is counted
        return f"an error ({type(error).__name__}) over {len(list(folder.glob('*')))} files"
    if not len(table):
        return "nothing"
    versions = table.column("version").value_counts().to_pylist()
    kinds = ", ".join(f"{each['counts']} rows of {each['values']}" for each in versions)
    return f"{kinds}; {len(set(table.column('id').to_pylist()))} of {ROWS} ids"


def tell(what: str, code: int, result: str) -> None:
    """A row of the table."""
    sys.stdout.write(f"| {what} | {code} | {result} |\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table."""
    with TemporaryDirectory() as scratch:
        for mode in ("append", "overwrite"):
            folder = Path(scratch, mode)
            tell(f"{mode}: one run", run("write", str(folder), mode, "old"), found(folder))
            if mode == "append":
                tell("append: the same run again", run("write", str(folder), mode, "old"), found(folder))
            code = run("write", str(folder), mode, "new", kill_after_files=(folder, KILLED_AFTER))
            tell(f"{mode}: a run of another version, its driver killed after {KILLED_AFTER} files", code, found(folder))
            tell(f"{mode}: that run again", run("write", str(folder), mode, "new"), found(folder))
        pictures, output = Path(scratch, "pictures"), Path(scratch, "images")
        pictures.mkdir()
        for number in range(20):
            Image.new("RGB", (8, 8)).save(pictures / f"{number}.png")
        (pictures / "bad.png").write_bytes(b"no picture")
        code = run("read", str(pictures), str(output))
        rows = pq.read_table(output).num_rows if list(output.glob("*.parquet")) else 0
        tell("read_images of 20 pictures and a file that is none", code, f"{rows} rows")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        {"write": write, "read": read_images}[sys.argv[1]](*sys.argv[2:])
