"""Every knob of ``cnnjob nightly``: the scoring of one date, and how far it may drift."""

from pydantic import Field

from cnnjob.config.base import Config
from cnnjob.config.score import ScoreConfig


class DriftConfig(Config):
    """How far a date may be from the data that the model was trained on.

    To each bound is added what chance alone exceeds one time in a hundred, which few rows need and many hardly: the
    result names the sum. Beyond it the scores are published all the same, and the command ends with exit code 1.
    """

    max_psi_predictions: float = Field(default=0.25, gt=0, le=1000)
    """Largest population stability index (PSI) of the date's predicted classes against the classes of the training
    split. As a rule of thumb, below 0.1 is stable, and above 0.25 the data have shifted. Added for chance: with 10
    classes 1.8 for 12 rows, 0.22 for 100 and 0.02 for 1,000, where the training split is large."""

    max_psi_pixels: float = Field(default=0.25, gt=0, le=1000)
    """Largest PSI of the date's pixel values against those of the training split, in any of the channels. Added for
    chance: 2.5 for 12 pictures, 0.31 for 100 and 0.03 for 1,000; of a date of 8,192 rows or more a part is counted."""


class NightlyConfig(Config):
    """A night's job: score a date, then compare it with the training data."""

    score: ScoreConfig
    """What is scored, and with which model: the keys of a score config."""

    drift: DriftConfig = Field(default_factory=DriftConfig)
