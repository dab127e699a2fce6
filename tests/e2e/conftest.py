"""Commands in processes of their own, joined to the shared Ray."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ended import Ended

ROOT = Path(__file__).parents[2]

Command = Callable[..., Ended]


@pytest.fixture
def cnnjob(tmp_path: Path) -> Command:
    """Run the command line in an empty folder, without Ray."""
    return lambda *arguments, **options: _run(tmp_path, *arguments, **options)


@pytest.fixture
def cnnjob_on_ray(shared_ray: str, tmp_path: Path) -> Command:
    """Run the command line in an empty folder, on the shared Ray."""
    return lambda *arguments, **options: _run(tmp_path, *arguments, RAY_ADDRESS=shared_ray, **options)


def _run(cwd: Path, *arguments: str, **environment: str) -> Ended:
    command = [sys.executable, "-m", "pipelines", *arguments]
    full = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, timeout=240, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)
