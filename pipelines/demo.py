"""``cnnjob demo``: the whole line on real images, with the shipped confs.

Prepare the handwritten digits, train with 2 DDP workers, make the registered model the champion, score the test
split into a Parquet table, and show its first rows. Each step does only what is left to do.
"""

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnjob.cluster.session import shared_session
from cnnjob.config import kinds
from cnnjob.config.score import ScoreConfig
from cnnjob.config.train import TrainConfig
from cnnjob.config.yaml_text import literal
from cnnjob.errors import UserError
from cnnjob.scoring.reading import read_scores
from cnnjob.tracking.registry import CHAMPION
from cnnjob.tracking.server import connect
from pipelines import prepare, promote, score, train
from pipelines.confs import shipped
from pipelines.console import Console

FIRST_ROWS = 5
_JOBS = ("prepare.", "train.", "score.")
_OWN = (
    "prepare.output",
    "train.dataset",
    "train.storage",
    "train.tracking.uri",
    "score.input.uri",
    "score.output",
    "score.tracking.uri",
)
"""The keys by which one job finds what another has written: they lie below one folder, or the line breaks."""


@dataclass(frozen=True)
class DemoResult:
    """What ``cnnjob demo --json`` prints.

    Attributes:
        model_name: Registered name.
        model_version: The champion's version.
        tracking_uri: Where MLflow has it.
        test: Loss and accuracy on the test split.
        dataset: Where the prepared data set lies.
        scores: Root of the table.
        date: The date scored.
        rows: Rows in the date's table.
        created: Which steps had something to do.
        seconds: Wall time.
        ui_command: The command that opens the MLflow UI.
    """

    model_name: str
    model_version: str
    tracking_uri: str
    test: dict[str, Any]
    dataset: str
    scores: str
    date: str
    rows: int
    created: dict[str, bool]
    seconds: float
    ui_command: str


def run(folder: Path, date: dt.date | str | None, console: Console, sets: Sequence[str] = ()) -> DemoResult:
    """Run the line with everything it writes below ``folder``.

    Args:
        folder: Created where it does not exist.
        date: The date that is scored, as in a score config; by default today.
        console: Where progress goes.
        sets: Overrides that name their job first, such as ``train.num_epochs=3``.
    """
    began = time.perf_counter()
    if "{date}" in str(folder):
        raise UserError(f"--dir {folder} has {{date}} in it, which stands for the date that is scored. Choose another.")
    for each in sets:
        _check_set(each)
    dataset, tracking = folder / "datasets" / "digits", folder / "tracking"
    places = _placed(output=dataset)
    prepare_config = kinds.load("prepare", shipped("prepare/digits.yaml"), [*places, *_of("prepare", sets)])
    places = _placed(dataset=dataset, storage=folder / "runs", **{"tracking.uri": tracking})
    train_config: TrainConfig = kinds.load("train", shipped("train/digits.yaml"), [*places, *_of("train", sets)])
    places = _placed(output=folder / "scores" / "digits", **{"input.uri": dataset, "tracking.uri": tracking})
    asked = ["date=today", *_of("score", sets), *([] if date is None else [literal("date", str(date))])]
    score_config: ScoreConfig = kinds.load("score", shipped("score/digits.yaml"), [*places, *asked])

    with shared_session():
        prepared = prepare.run(prepare_config, console)
        trained = train.run(train_config, console)
        promote.run(train_config.tracking.uri, trained.model_name, trained.model_version, CHAMPION)
        scored = score.run(score_config, console)
    return DemoResult(
        model_name=trained.model_name,
        model_version=trained.model_version,
        tracking_uri=trained.tracking_uri,
        test=trained.test,
        dataset=prepared.dataset,
        scores=scored.output,
        date=scored.date,
        rows=scored.rows,
        created={"prepare": prepared.created, "train": trained.created, "score": scored.published},
        seconds=time.perf_counter() - began,
        ui_command=connect(train_config.tracking.uri).ui_command,
    )


def _check_set(override: str) -> None:
    """Refuse an override that names no job, or that would part one job from what another has written."""
    if not override.startswith(_JOBS):
        raise UserError(f"--set {override} should name its job first: {', '.join(_JOBS)}; such as train.num_epochs=3")
    key = override.partition("=")[0]
    for own in _OWN:
        # A section takes its keys along, and a key below a place would make a section of it.
        if f"{own}.".startswith(f"{key}.") or key.startswith(f"{own}."):
            raise UserError(
                f"--set {override}: where things lie is decided by --dir, and {own} is one of the keys that the demo "
                f"sets itself. Leave it out and give another --dir."
            )


def _placed(**places: Path) -> list[str]:
    return [literal(key, str(place)) for key, place in places.items()]


def _of(job: str, sets: Sequence[str]) -> list[str]:
    return [each.removeprefix(f"{job}.") for each in sets if each.startswith(f"{job}.")]


def show(result: DemoResult, console: Console) -> None:
    """The figures, the first rows, where everything lies, and how to look at it."""
    done = [step for step, created in result.created.items() if not created]
    if done:
        console.say(f"Already done before, and not done again: {', '.join(done)}")
    test = result.test
    console.say(f"Test accuracy {test['accuracy']:.4f}, loss {test['loss']:.4f}, on {test['rows']:,} rows")
    table = read_scores(result.scores, dt.date.fromisoformat(result.date)).slice(0, FIRST_ROWS)
    rows = [
        [row["id"], row["prediction"], row["confidence"], " ".join(f"{p:.2f}" for p in row["probabilities"])]
        for row in table.to_pylist()
    ]
    console.table(["id", "prediction", "confidence", "probabilities of 0 to 9"], rows)
    console.say(f"Data set   {result.dataset}")
    console.say(f"Model      models:/{result.model_name}@{CHAMPION}, version {result.model_version}")
    console.say(f"Scores     {result.scores}/date={result.date}, {result.rows:,} rows")
    console.say(f"MLflow UI  {result.ui_command}")
    console.say(f"Done in {result.seconds:.0f} s")
