"""Scoring a date by the product's own flow in a process of its own, without Ray and MLflow: units are done in a loop.

Processes are forked from a server that has imported what they need, so a test can kill one at every instant of a night.
"""

import datetime as dt
import itertools
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from PIL import Image

from cnnjob import exclusive, local_disk, phases, storage
from cnnjob.config.score import InputConfig, ScoreConfig, UnitsConfig
from cnnjob.errors import CnnjobError
from cnnjob.models.bundle import ONNX, read_bundle
from cnnjob.scoring.engine import Engine
from cnnjob.scoring.reading import read_scores
from cnnjob.scoring.sizing import Sizes
from cnnjob.scoring.table import Table, current
from cnnjob.scoring.work import Receipt, do_unit
from cnnjob.tracking.registry import Resolved
from pipelines import score
from pipelines.score import ScoreResult
from tests.forked import PROCESSES, apart

DATE = dt.date(2024, 2, 29)
EVENING, MORNING = dt.datetime(2024, 2, 29, 20, tzinfo=dt.UTC), dt.datetime(2024, 3, 1, 6, tzinfo=dt.UTC)
_SCORE_DATE = score.score_date


@dataclass(frozen=True)
class Work:
    """A date to score.

    Attributes:
        bundle: Folder of the model.
        kind: Of the input.
        uri: Of the input.
        root: Of the table.
        clock: What the clock says when the plan is made.
        version: Of the model: another version is another plan.
        options: Further keys of the config.
        given: Further keys of its input.
    """

    bundle: str
    kind: str
    uri: str
    root: str
    clock: dt.datetime = MORNING
    version: str = "1"
    options: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ScoreConfig:
        """The job's config: units of 64 rows, any share of refused rows."""
        more = {"split": "test"} if self.kind == "dataset" else self.given
        limits = {} if self.kind == "dataset" else {"limits": {"max_refused_share": 1.0}}
        options = {"units": UnitsConfig(target_rows=64), **limits, **self.options}
        given = InputConfig(kind=self.kind, uri=self.uri, **more)
        return ScoreConfig(input=given, model="models:/digits/1", output=self.root, date=DATE, **options)

    @property
    def table(self) -> Table:
        """Its date."""
        return Table(self.root, DATE)

    def score(self, date: dt.date) -> ScoreResult:
        """Score a date in this process."""
        return score_here(self, date)


class Quiet:
    """A console that nobody sees."""

    def note(self, message: str) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""

    def advance(self, *_: object) -> None:
        """Ignore."""


def score_here(work: Work, date: dt.date = DATE) -> ScoreResult:
    """Score in this process."""
    with in_a_loop(work):
        return _SCORE_DATE(work.config, date, resolved_of(work), Quiet())


def resolved_of(work: Work) -> Resolved:
    """Its model, as the registry would give it."""
    bundle = read_bundle(Path(work.bundle), expected_digest=None, where="model")
    return Resolved("digits", work.version, bundle)


@contextmanager
def in_a_loop(work: Work) -> Iterator[None]:
    """Inside, units are done one after another in this process, and the clock says what the work's does."""

    def loop(config: Any, units: Any, desk: Any, resolved: Any, *_: Any) -> Iterator[Receipt]:
        engine = Engine(resolved.bundle.files[ONNX], threads=1, batch_size=64)
        return (do_unit(unit, desk, engine) for unit in units)

    def no_ray(_: Any, units: Any, *__: Any) -> Any:
        return nullcontext(Sizes(1, 1, 64, use_gpu=False, bf16=False) if units else None)

    with mock.patch.multiple(score, _ray_for=no_ray, _score=loop, now=lambda: work.clock):
        yield


def score_apart(work: Work, faults: list[dict[str, Any]] | None = None, *, full_at: int | None = None) -> int:
    """Score in a process of its own: 0, the exit code of what failed, or minus the signal that killed it.

    With ``full_at`` the disk is full at the local write of that number, counted from 0, and at none after it.
    """
    process = begin_apart(work, faults, full_at)
    process.join()
    return int(process.exitcode or 0)


def begin_apart(work: Work, faults: list[dict[str, Any]] | None = None, full_at: int | None = None) -> Any:
    """The process of ``score_apart``, begun."""
    told = (work, json.dumps(faults or []), full_at, dict(os.environ))
    process = PROCESSES.Process(target=_work, args=told, daemon=True)
    process.start()
    return process


def peak_apart(work: Work) -> int:
    """Score in a process of its own; the bytes by which its memory grew, at its peak."""
    with apart(_measure, work) as (_, said):
        return int(said.recv())


def _measure(work: Work, result: Any) -> None:
    before = _status("VmRSS")
    score_here(work)
    result.send(_status("VmHWM") - before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def _work(work: Work, faults: str, full_at: int | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.environ[phases.ENVIRONMENT] = faults
    try:
        with _full_disk(full_at):
            score_here(work)
    except CnnjobError as error:
        sys.stderr.write(f"model version {work.version}: {error}\n")
        raise SystemExit(error.exit_code) from error


@contextmanager
def _full_disk(at: int | None) -> Iterator[None]:
    """The kernel refuses to let any file grow during one of this process's local writes."""
    writes = itertools.count()

    def bounded(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            if next(writes) == at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            try:
                return write(*args)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

        return call

    with (
        mock.patch.object(local_disk, "write", bounded(local_disk.write)),
        mock.patch.object(exclusive, "_link", bounded(exclusive._link)),
    ):
        yield


def content_of(root: str) -> pa.Table:
    """What a reader gets, in the order of the plan."""
    return read_scores(root, DATE)


def files_of(work: Work) -> set[str]:
    """All files of the table and beside it, with names that tell versions apart replaced."""
    found = current(work.table)
    assert found is not None
    meta = work.table.meta
    names = [*storage.list_files(work.root), *(f"meta/{name}" for name in storage.list_files(meta))]
    return {name.replace(found.version, "VERSION") for name in names if not name.endswith((".running", ".rolling"))}


def killed(code: int) -> bool:
    """Whether a process ended by SIGKILL."""
    return code == -signal.SIGKILL


def folder_of_pictures(folder: Path, count: int, *, seed: int = 0) -> Path:
    """PNG files in two folders, every tenth of them no picture."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"shop{number % 2}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 10 == 7:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder
