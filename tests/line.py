"""The line, run once on the shared Ray: its data set, model and scores. Loaded by ``tests/conftest.py``."""

import datetime as dt
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import demo
from pipelines.console import Console
from pipelines.demo import DemoResult

DATE = dt.date(2026, 1, 31)


@dataclass(frozen=True)
class Line:
    """Where the demo wrote, and what it returned."""

    folder: Path
    result: DemoResult
    said: str


@pytest.fixture(scope="session")
def line(shared_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """The demo, run once."""
    folder = tmp_path_factory.mktemp("line")
    err = io.StringIO()
    console = Console(as_json=False, out=io.StringIO(), err=err)
    return Line(folder, demo.run(folder, DATE, console), err.getvalue())


@pytest.fixture
def console() -> Console:
    """A console that writes into memory."""
    return Console(as_json=False, out=io.StringIO(), err=io.StringIO())
