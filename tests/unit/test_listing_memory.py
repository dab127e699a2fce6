import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MB = 700
"""Measured: 440 MB, of which the names alone are 80; a Python object for each row would be well above a gigabyte."""


@pytest.mark.slow
def test_a_million_rows_are_listed_and_planned_in_bounded_memory():
    """The listing, the draws and the shards of a million files take no more than MAX_MB."""
    command = [sys.executable, "-m", "tests.benchmarks.listing", "--rows", "1000000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["rows"] == 1_000_000
    assert measured["peak_growth_mb"] < MAX_MB
