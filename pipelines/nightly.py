"""``cnnjob nightly``: score a date, then say how far it is from the training data.

The table is published either way: late scores help nobody. A date beyond the bounds ends with exit code 1, so
that whoever runs the night is told.
"""

import datetime as dt
from dataclasses import dataclass

from cnnjob.config.nightly import NightlyConfig
from cnnjob.config.score import ScoreConfig
from cnnjob.scoring.drift import Drift, drift
from cnnjob.scoring.table import Table, current
from cnnjob.tracking.registry import resolve
from cnnjob.tracking.server import connect
from pipelines import score
from pipelines.console import Console
from pipelines.score import ScoreResult


@dataclass(frozen=True)
class NightlyResult:
    """What ``cnnjob nightly --json`` prints."""

    score: ScoreResult
    drift: Drift
    within_bounds: bool


def run(config: NightlyConfig, console: Console) -> NightlyResult:
    """Score and compare."""
    scored = score.run(config.score, console)
    found = _drift(config.score, dt.date.fromisoformat(scored.date))
    bounds = config.drift
    within = found.predictions <= bounds.max_psi_predictions and found.pixels <= bounds.max_psi_pixels
    # Where no row was scored, nothing was compared.
    return NightlyResult(scored, found, within and scored.rows > 0)


def show(result: NightlyResult, console: Console) -> None:
    """The result for people."""
    score.show(result.score, console)
    if not result.score.rows:
        console.say("Drift: no row was scored, so nothing can be compared with the training data")
        return
    verdict = "within bounds" if result.within_bounds else "BEYOND the bounds of the config"
    console.say(f"Drift (PSI): predictions {result.drift.predictions:.3f}, pixels {result.drift.pixels:.3f}: {verdict}")


def _drift(config: ScoreConfig, date: dt.date) -> Drift:
    manifest = current(Table(config.output, date))
    assert manifest is not None, "score.run has published it"
    uri = f"models:/{manifest.model['name']}/{manifest.model['version']}"
    reference = resolve(connect(config.tracking.uri), uri).bundle.description.drift_reference
    return drift(manifest.counts, manifest.pixels, reference["class_shares"], reference["pixel_histogram"])
