"""Preparing from and to a real S3 server, and what happens when it goes away in the middle."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob import storage
from cnnjob.data.manifest import read_manifest
from cnnjob.data.rows import read_rows
from cnnjob.schema import SPLITS
from tests.piles import encoded, pixels
from tests.s3 import S3

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NUM_FILES = 1200


def start(conf: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start `cnnjob prepare` in a process of its own, with a Ray of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", "prepare", str(conf), "--json"],
        cwd=conf.parent,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def prepare(conf: Path, **environment: str) -> tuple[int, dict, str]:
    """Exit code, result and standard error of `cnnjob prepare`."""
    process = start(conf, **environment)
    out, err = process.communicate(timeout=200)
    return process.returncode, json.loads(out), err


def write_conf(folder: Path, output: str, source: str) -> Path:
    """A conf in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "prepare.yaml").write_text(
        f"output: {output}\nsource: {source}\nimage: {{height: 8, width: 8}}\nshards: {{target_bytes: 40000}}\n"
        f"limits: {{max_refused_share: 0.5}}\n"
    )
    return folder / "prepare.yaml"


@pytest.fixture
def pile(s3_folder: str) -> str:
    """Class folders of small pictures on the server, one of them no picture, and a table that names them."""
    images = pixels(NUM_FILES, 8, 8, 3)
    names = [f"{'ant' if number % 3 else 'bee cat'}/{number:04d}.png" for number in range(NUM_FILES)]
    with_threads(
        lambda number: storage.write_bytes(storage.join(s3_folder, "pile", names[number]), encoded(images[number]))
    )
    storage.write_bytes(storage.join(s3_folder, "pile", "ant/bad?.png"), b"bad")
    sink = pa.BufferOutputStream()
    table = {"uri": [f"pile/{name}" for name in names], "label": [name.split("/")[0] for name in names]}
    pq.write_table(pa.table(table), sink)
    storage.write_bytes(storage.join(s3_folder, "table.parquet"), sink.getvalue())
    return s3_folder


def with_threads(write) -> None:
    """Write all files, some at a time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(NUM_FILES)))


def test_from_a_bucket_to_a_bucket(s3: S3, pile: str, tmp_path: Path) -> None:
    """A folder on the server becomes a data set on the server, whole; again it is a no-op; changed it is replaced."""
    output = f"{pile}/datasets/set"
    conf = write_conf(tmp_path / "job", output, f"{{kind: folder, uri: {pile}/pile}}")
    code, result, err = prepare(conf, **s3.env)
    assert code == 0, err
    assert result["refused"] == {"not_an_image": 1}
    assert sum(result["rows"].values()) == NUM_FILES
    manifest = read_manifest(output)
    images = pixels(NUM_FILES, 8, 8, 3)
    for split in SPLITS:
        found = manifest.splits[split]
        rows = read_rows(output, found, 0, found.rows, manifest.image.shape)
        for row_id, image, label in zip(rows.ids, rows.images, rows.labels, strict=True):
            number = int(row_id[-8:-4])
            assert np.array_equal(image, images[number].transpose(2, 0, 1))
            assert manifest.class_names[label] == ("ant" if number % 3 else "bee cat")
    assert prepare(conf, **s3.env)[1] == {**result, "created": False, "rows_per_s": 0.0}

    storage.write_bytes(f"{pile}/pile/ant/more.png", encoded(pixels(1, 8, 8, 3, seed=9)[0]))
    code, changed, err = prepare(conf, **s3.env)
    assert code == 0, err
    assert changed["fingerprint"] != result["fingerprint"]
    manifest = read_manifest(output)
    shards = {shard.path for split in manifest.splits.values() for shard in split.shards}
    named = shards | {"manifest.json", manifest.refused_table, manifest.contact_sheet}
    assert set(storage.list_files(f"{pile}/datasets")) == {f"set/{name}" for name in named}


@pytest.mark.parametrize("wrong", ["bucket", "key", "secret", "folder"])
def test_a_source_that_cannot_be_reached_is_a_mistake(s3: S3, s3_folder: str, tmp_path: Path, wrong: str) -> None:
    """A wrong bucket, folder or credential: exit code 2, one paragraph without the secret, nothing written."""
    uri = {"bucket": "s3://no-such-bucket/pile", "folder": f"{s3_folder}/nothing"}.get(wrong, f"{s3_folder}/pile")
    conf = write_conf(tmp_path / "job", "set", f"{{kind: folder, uri: {uri}}}")
    spoilt = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY"}
    environment = s3.env | ({spoilt[wrong]: "wrong-" + "x" * 20} if wrong in spoilt else {})
    code, result, err = prepare(conf, **environment)
    assert code == 2, err
    assert uri in result["message"]
    assert "Traceback" not in err
    assert [line.split()[0] for line in err.strip().splitlines()] == ["Listing", "Error:"]
    assert s3.secret_key not in err
    assert [path.name for path in conf.parent.iterdir()] == ["prepare.yaml"]


class Wire:
    """A connection to the server that can be cut: a loopback port that passes bytes on, until it no longer does."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self.target = (host, int(port))
        self.whole = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            other = {client: server, server: client}
            while self.whole:
                for ready in select.select([client, server], [], [], 0.1)[0]:
                    content = ready.recv(1 << 16) if self.whole else b""
                    if not content:
                        return
                    other[ready].sendall(content)


@pytest.fixture
def wire(s3: S3) -> Iterator[Wire]:
    """A wire to the server."""
    made = Wire(s3.endpoint)
    yield made
    made.whole = False
    made.listener.close()


def test_a_network_that_goes_away_loses_nothing(s3: S3, pile: str, wire: Wire, tmp_path: Path) -> None:
    """Cut off while it decodes, the job ends with 1 after bounded tries, says what was done, and goes on from it."""
    conf = write_conf(tmp_path / "job", "set", f"{{kind: manifest, uri: {pile}/table.parquet}}")
    environment = {**s3.env, "AWS_ENDPOINT_URL": wire.endpoint}
    process = start(conf, **environment)
    deadline = time.monotonic() + 120
    while not list(conf.parent.glob(".set.tmp-*/rows/*.arrow")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    wire.whole = False
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    message = json.loads(out)["message"]
    assert f"of {NUM_FILES} rows were decoded and are kept" in message
    assert "did not answer" in message
    assert not (conf.parent / "set").exists()
    wire.whole = True
    code, result, err = prepare(conf, **environment)
    assert code == 0, err
    assert sum(result["rows"].values()) == NUM_FILES
    assert [path.name for path in sorted(conf.parent.iterdir())] == ["prepare.yaml", "set"]
