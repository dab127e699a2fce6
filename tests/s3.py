"""A real S3 server of the tests' own, SeaweedFS on this machine's loopback. Loaded by ``tests/conftest.py``."""

import http.client
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
import pytest

START_S = 60
GRPC_OFFSET = 10_000
"""Each listener of SeaweedFS has a gRPC one so far above it."""
SERVICES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3:
    """A running server with one bucket.

    Attributes:
        endpoint: URL of the server.
    """

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to use the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, *parts: str) -> str:
        """The URI of a key in the bucket."""
        return "/".join([f"s3://{self.bucket}", *parts])


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The server, for the whole run of the tests."""
    folder = tmp_path_factory.mktemp("s3")
    ports = free_ports()
    server = S3(f"http://127.0.0.1:{ports['s3']}", "cnnjob-tests", secrets.token_hex(20), "cnnjob-tests")
    process = start(server, folder, ports)
    try:
        wait(server, process, folder / "log")
        admin = pafs.S3FileSystem(
            access_key=server.access_key,
            secret_key=server.secret_key,
            endpoint_override=server.endpoint,
            region="us-east-1",
            allow_bucket_creation=True,
        )
        admin.create_dir(server.bucket)
        yield server
    finally:
        # Its graceful end takes 15 s, and nothing of it is kept.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for port in ports.values():
            for leftover in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + GRPC_OFFSET}.sock"):
                leftover.unlink()


@pytest.fixture
def s3_folder(s3: S3, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of the test's own on the server, which is in the environment."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3.uri(f"{request.node.originalname}-{secrets.token_hex(4)}")


def start(server: S3, folder: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    """Start the server as the head of a process group of its own."""
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin"],
    }
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        **{f"{service}.port": port for service, port in ports.items()},
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 32,
        "volume.minFreeSpace": 0,
        "filer": "true",
        "filer.localSocket": folder / "filer.sock",
        "s3": "true",
        "s3.config": folder / "identities.json",
        "s3.localSocket": folder / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        # A store that creates a mistyped bucket would hide the mistake.
        "s3.autoCreateBucket": "false",
    }
    weed = Path(sysconfig.get_path("scripts"), "weed")
    command = [str(weed), "server", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        # From a folder of its own: it reads settings from where it is started.
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def wait(server: S3, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    port = int(server.endpoint.rpartition(":")[2])
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    pytest.fail(f"the S3 server did not start:\n{log.read_text()[-2000:]}")


def free_ports() -> dict[str, int]:
    """A free port for each service, with the one of its gRPC listener.

    Both below 32768, where Linux begins to hand out ports by itself: so none is taken between now and the start.
    """
    candidates = random.sample(range(20_000, 32_768 - GRPC_OFFSET), k=200)
    found = (port for port in candidates if is_free(port) and is_free(port + GRPC_OFFSET))
    return dict(zip(SERVICES, found, strict=False))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
