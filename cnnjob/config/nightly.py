"""Every knob of ``cnnjob nightly``: the scoring of one date, and how far it may drift."""

from pydantic import Field

from cnnjob.config.base import Config
from cnnjob.config.score import ScoreConfig


class DriftConfig(Config):
    """How far a date may be from the data the model was trained on."""

    max_psi_predictions: float = Field(default=0.25, gt=0)
    """Population stability index of the predicted classes against the training classes. By custom: below 0.1
    stable, above 0.25 shifted."""

    max_psi_pixels: float = Field(default=0.25, gt=0)
    """The same index of the pixel values, the largest over the channels."""


class NightlyConfig(Config):
    """A night: score a date, then compare it with the training data."""

    score: ScoreConfig
    drift: DriftConfig = Field(default_factory=DriftConfig)
