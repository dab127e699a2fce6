"""Preparing on Ray: piles of real files, any number of CPUs, and runs that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from cnnjob import storage
from cnnjob.data import job
from cnnjob.data.manifest import read_manifest
from cnnjob.data.rows import read_rows
from cnnjob.errors import JobError
from cnnjob.progress import Silent
from cnnjob.schema import ID
from pipelines import prepare
from pipelines.console import Console
from tests.helpers import PictureSource, prepare_config
from tests.piles import FASHION, config_of, pixels, write_cifar10, write_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KINDS = ("png", "jpeg", "gif", "webp", "bmp", "tiff")


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three thousand files of six formats and three classes, and some that are no images."""
    root = tmp_path_factory.mktemp("pile")
    write_folder(root, {"ant": 1000, "bee": 1200, "cat": 800}, size=(20, 24), kinds=KINDS)
    for number in range(9):
        (root / "ant" / f"bad-{number}.png").write_bytes(b"" if number % 3 else b"not an image")
    return root


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_is_prepared_whole(shared_ray: str, console: Console, tmp_path: Path) -> None:
    """All 70,000 pictures of Debian's package: the test as given, statistics as numpy's over the training rows."""
    source = {"kind": "idx", "uri": str(FASHION)}
    config = config_of(tmp_path / "set", source=source, split={"method": "given"}, image={"resize": "pad"})
    result = prepare.run(config, console)
    assert result.rows["test"] == 10_000
    assert result.rows["train"] + result.rows["val"] == 60_000
    assert result.refused == {}
    manifest = read_manifest(config.output)
    train = manifest.splits["train"]
    images = read_rows(config.output, train, 0, train.rows, manifest.image.shape).images.astype(np.float64) / 255
    assert np.abs(images.mean(axis=(0, 2, 3)) - manifest.statistics.mean).max() < 1e-12
    assert np.abs(images.std(axis=(0, 2, 3)) - manifest.statistics.std).max() < 1e-12
    assert manifest.splits["test"].class_counts == (1000,) * 10
    assert not prepare.run(config, console).created


def test_cifar_is_prepared(shared_ray: str, console: Console, tmp_path: Path) -> None:
    """Files in CIFAR's layout end with their own colors and labels, under the names of the batches."""
    images, labels = pixels(500, 32, 32, 3), [k % 10 for k in range(500)]
    write_cifar10(tmp_path / "cifar", images, labels, per_batch=100)
    source = {"kind": "cifar", "uri": str(tmp_path / "cifar")}
    config = config_of(tmp_path / "set", source=source, split={"method": "given", "val": 0.0})
    prepare.run(config, console)
    manifest = read_manifest(config.output)
    rows = read_rows(config.output, manifest.splits["train"], 0, 400, manifest.image.shape)
    for name, image, label in zip(rows.ids, rows.images, rows.labels, strict=True):
        number = int(name.removeprefix("train/"))
        assert label == labels[number]
        assert np.array_equal(image, images[number].transpose(2, 0, 1))
    assert manifest.class_names[0] == "airplane"


class DeadlySource(PictureSource):
    """One of its pictures takes the process with it that reads it."""

    def read(self, rows: pa.Table) -> Iterator[np.ndarray]:
        """The contents of listed rows."""
        if "row-7" in rows.column(ID).to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().read(rows)


def test_a_picture_that_kills_its_process_is_named(shared_ray: str, tmp_path: Path) -> None:
    """A task that dies with its process is tried a few times; then the job ends, says which, and keeps the others'."""
    config = prepare_config(tmp_path / "set", size=(8, 8))
    with (
        mock.patch.object(job, "ROWS_PER_UNIT", 10),
        pytest.raises(JobError, match="rows 0 to 9 of the listing killed its process 3 times"),
        job.begin(config, DeadlySource(40), Silent()) as begun,
    ):
        job.run(begun, Silent())
    assert not (tmp_path / "set").exists()
    assert len(list(tmp_path.glob(".set.tmp-*/rows/*.arrow"))) == 3


def run(conf: Path, cpus: int, **options: object) -> "subprocess.CompletedProcess[str]":
    """`cnnjob prepare` in a process of its own on so many CPUs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    available = sorted(os.sched_getaffinity(0))
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "prepare", str(conf), "--json"],
        cwd=conf.parent,
        env={**environment, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.sched_setaffinity(0, available[:cpus]),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def write_conf(folder: Path, pile: Path, output: str) -> Path:
    """A conf that prepares the pile."""
    folder.mkdir(exist_ok=True)
    text = (
        f"output: {output}\nsource: {{kind: folder, uri: {pile}}}\n"
        "image: {height: 16, width: 16, resize: fit_pad}\nshards: {target_bytes: 400000}\n"
    )
    (folder / "prepare.yaml").write_text(text)
    return folder / "prepare.yaml"


def kill_while_it_decodes(conf: Path) -> None:
    """Start the conf on all CPUs and kill it as soon as some rows are staged."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "prepare", str(conf)],
        cwd=conf.parent,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(conf.parent.glob(".set.tmp-*/rows/*.arrow")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_one_cpu_or_two_and_a_kill_give_the_same_files(pile: Path, tmp_path: Path) -> None:
    """Thousands of files: the same bytes undisturbed on 1 CPU and, on 2, killed while it decodes and then resumed.

    The killed run leaves nothing that looks finished, the next one nothing beside the data set.
    """
    confs = [write_conf(tmp_path / cpus, pile, "set") for cpus in ("1", "2")]
    kill_while_it_decodes(confs[1])
    assert not (tmp_path / "2" / "set").exists()
    results = []
    for cpus, conf in enumerate(confs, start=1):
        ended = run(conf, cpus)
        assert ended.returncode == 0, ended.stderr
        results.append(json.loads(ended.stdout))
    assert results[0]["fingerprint"] == results[1]["fingerprint"]
    assert sum(results[0]["rows"].values()) == 3000
    assert results[0]["refused"] == {"empty": 6, "not_an_image": 3}
    one, two = (tmp_path / cpus / "set" for cpus in ("1", "2"))
    names = storage.list_files(str(one))
    assert len(names) > 8
    assert names == storage.list_files(str(two))
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert sorted(path.name for path in two.parent.iterdir()) == ["prepare.yaml", "set"]
