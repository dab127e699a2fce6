"""The line, run once on the shared Ray: its data set, model and scores. Loaded by ``tests/conftest.py``.

It is `cnnjob demo` as installed from the wheel, in a folder with no checkout in sight.
"""

import datetime as dt
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.demo import DemoResult

DATE = dt.date(2026, 1, 31)
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Line:
    """Where the demo wrote, what it returned, and where the wheel is installed."""

    folder: Path
    result: DemoResult
    site: Path


@pytest.fixture(scope="session")
def wheel_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(next(folder.glob("*.whl")))], check=True, capture_output=True)
    return site


@pytest.fixture(scope="session")
def line(shared_ray: str, wheel_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """The wheel's demo, run once."""
    outside = tmp_path_factory.mktemp("line")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "demo", "--date", DATE.isoformat(), "--json"],
        cwd=outside,
        env={**os.environ, "PYTHONPATH": str(wheel_site), "RAY_ADDRESS": shared_ray},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Line(outside / "cnnjob-demo", DemoResult(**json.loads(done.stdout)), wheel_site)


@pytest.fixture
def console() -> "object":
    """A console that writes into memory."""
    import io

    from pipelines.console import Console

    return Console(as_json=False, out=io.StringIO(), err=io.StringIO())
