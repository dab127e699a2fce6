"""``cnnjob nightly``: score a date, then say how far it is from the training data.

The table is published either way: late scores help nobody. A date beyond the bounds, which are those of the config
and what chance makes of so few rows, ends with exit code 1, so that whoever runs the night is told.
"""

import datetime as dt
from dataclasses import dataclass

from cnnjob.config.nightly import NightlyConfig
from cnnjob.config.score import ScoreConfig
from cnnjob.scoring.drift import Counted, Drift, allowance, drift, pictures
from cnnjob.scoring.table import Table, current
from cnnjob.tracking.registry import resolve
from cnnjob.tracking.server import connect
from pipelines import score
from pipelines.console import Console
from pipelines.score_result import ScoreResult


@dataclass(frozen=True)
class NightlyResult:
    """What ``cnnjob nightly --json`` prints.

    Attributes:
        score: Of the date.
        drift: The date's indexes.
        bounds: What they may be at most: the config's bounds, and what is allowed for chance.
        within_bounds: False also where no row was scored, so that nothing was compared.
    """

    score: ScoreResult
    drift: Drift
    bounds: Drift
    within_bounds: bool


def run(config: NightlyConfig, console: Console) -> NightlyResult:
    """Score and compare."""
    scored = score.run(config.score, console)
    date, training = _counted(config.score, dt.date.fromisoformat(scored.date))
    found, chance = drift(date, training), allowance(date, training)
    bounds = Drift(
        predictions=config.drift.max_psi_predictions + chance.predictions,
        pixels=config.drift.max_psi_pixels + chance.pixels,
    )
    return NightlyResult(scored, found, bounds, scored.rows > 0 and not _beyond(found, bounds))


def show(result: NightlyResult, console: Console) -> None:
    """The result for people."""
    score.show(result.score, console)
    if not result.score.rows:
        console.say(
            "Drift: no row was scored, so nothing can be compared with the training data. "
            "Running it again does not help unless the input changes."
        )
        return
    found, bounds = result.drift, result.bounds
    beyond = _beyond(found, bounds)
    console.say(
        f"Drift (PSI): predictions {found.predictions:.3f} of at most {bounds.predictions:.3f}, "
        f"pixels {found.pixels:.3f} of at most {bounds.pixels:.3f}: "
        + (f"{' and '.join(beyond)} BEYOND bounds" if beyond else "within bounds")
    )
    if beyond:
        console.say("The scores are published all the same. Running it again does not help unless the input changes.")
        console.say(
            "The bounds are drift.max_psi_predictions and drift.max_psi_pixels of the config, with what chance adds"
        )


def _beyond(found: Drift, bounds: Drift) -> list[str]:
    """Which indexes exceed their bounds."""
    return [name for name, bound in vars(bounds).items() if getattr(found, name) > bound]


def _counted(config: ScoreConfig, date: dt.date) -> tuple[Counted, Counted]:
    """What was counted of a published date, and of the training split of the model that scored it."""
    manifest = current(Table(config.output, date))
    assert manifest is not None, "score.run has published it"
    uri = f"models:/{manifest.model['name']}/{manifest.model['version']}"
    description = resolve(connect(config.tracking.uri), uri).bundle.description
    shares, histogram = (description.drift_reference[key] for key in ("class_shares", "pixel_histogram"))
    _, height, width = description.shape
    # All pictures of the training split were counted, so their number is that of its rows.
    trained = pictures(histogram, height, width)
    scored = Counted(manifest.counts, manifest.rows, manifest.pixels, pictures(manifest.pixels, height, width))
    return scored, Counted(shares, trained, histogram, trained)
