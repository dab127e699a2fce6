"""What ``cnnjob score`` answers with, for a date and for a range of them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ScoreResult:
    """What ``cnnjob score --json`` prints.

    Attributes:
        output: Root of the table.
        date: YYYY-MM-DD.
        rows: Rows in the date's table.
        refused: Rows in quarantine, by reason.
        published: False where there was nothing left to do.
        version: The published version.
        model_name: Registered name of the model.
        model_version: Its version.
        images_per_s: Rows scored now over the time from before the start of Ray to the publication's end.
        images_per_s_steady: Without warm-up: rows over time from when as many units as there are processes were done,
            these not counted, to the last one.
        stages: Seconds of ``scoring`` (with the start of Ray), ``verify`` and ``publish``.
        seconds: Wall time of the command's work.
        units: Units in the plan, and how many of them an earlier run had finished.
        counts: Rows by predicted class.
        quarantine: The table of the refused rows; empty where there are none.
    """

    output: str
    date: str
    rows: int
    refused: dict[str, int]
    published: bool
    version: str
    model_name: str
    model_version: str
    images_per_s: float
    images_per_s_steady: float
    seconds: float
    stages: dict[str, float]
    units: dict[str, int]
    counts: dict[str, int]
    quarantine: str


@dataclass(frozen=True)
class RangeResult:
    """What ``cnnjob score --from --to --json`` prints.

    Attributes:
        dates: A result for each date that was missing and is scored, in order.
        failed: Why those that are left could not be, by date.
    """

    dates: list[ScoreResult]
    failed: dict[str, str] = field(default_factory=dict)
