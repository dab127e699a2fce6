"""Every knob of ``cnnjob score``: which images, which model, the table of one date."""

import datetime as dt
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from cnnjob.config.base import Config, TrackingConfig, Uri, rule


class InputConfig(Config):
    """The images to score."""

    kind: Literal["dataset"]
    """`dataset`: a split of a prepared data set."""

    uri: Uri
    """Path or URI of the input."""

    split: Literal["train", "val", "test", "all"] | None = None
    """Which split of a prepared data set; `all` takes the three."""


class UnitsConfig(Config):
    """The work units: what one call reads, scores and writes."""

    target_rows: int = Field(default=16_384, ge=1)
    """Rows in a unit, at most (a single row group may exceed it)."""


class EngineConfig(Config):
    """The arithmetic."""

    num_processes: int | None = Field(default=None, ge=1, le=4096)
    """Scoring processes; by default as many as the CPUs allow, and no more than there are units."""

    threads_per_process: int = Field(default=1, ge=1, le=256)
    """Threads of ONNX Runtime in each process; each reserves as many CPUs."""

    batch_size_per_process: int = Field(default=128, ge=1, le=65_536)
    """Images in one call of the graph. 64 to 128 keep the activations inside a CPU's cache."""


class ScoreConfig(Config):
    """A job that scores one date's images into a table of class probabilities."""

    input: InputConfig
    model: str = Field(pattern=r"^models:/[^@/]+(@[^@/]+|/[0-9]+)$")
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION` in the MLflow registry."""

    output: Uri
    """Root of the table. Only committed parts lie below it, as `date=YYYY-MM-DD/NAME.parquet`; manifests,
    receipts and quarantine lie in `OUTPUT.meta`."""

    date: dt.date | None = Field(default=None, strict=False)
    """The date that is scored, YYYY-MM-DD; usually given on the command line."""

    mode: Literal["error", "skip", "replace"] = "replace"
    """Where the date has scores from other inputs or another model: fail, leave them, or replace them."""

    probabilities: Literal["list", "columns"] = "list"
    """One fixed-size list, or one column `p_CLASS` for each class."""

    units: UnitsConfig = Field(default_factory=UnitsConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


@rule("input.kind", "input.split")
def split_belongs_to_dataset(kind: str, split: str | None) -> Iterator[str]:
    """A prepared data set is scored by split."""
    if kind == "dataset" and split is None:
        yield "a prepared data set needs input.split: train, val, test or all"


RULES = (split_belongs_to_dataset,)
