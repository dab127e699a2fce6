"""``cnnjob promote``: point an alias of a registered model at a version."""

from dataclasses import dataclass

from cnnjob.tracking import registry
from cnnjob.tracking.server import connect
from pipelines.console import Console


@dataclass(frozen=True)
class PromoteResult:
    """What ``cnnjob promote --json`` prints.

    Attributes:
        model_name: Registered name.
        model_version: What the alias points at now.
        alias: The alias.
        previous_version: What it pointed at before; None where there was no such alias.
        accuracy: Of the version, on its test split; None where it does not say.
        previous_accuracy: The same of the previous version.
    """

    model_name: str
    model_version: str
    alias: str
    previous_version: str | None = None
    accuracy: float | None = None
    previous_accuracy: float | None = None


def run(tracking_uri: str, name: str, version: str | None, alias: str) -> PromoteResult:
    """Point ``alias`` at ``version`` of the model ``name``; by default at its newest."""
    promoted = registry.promote(connect(tracking_uri), name, version, alias)
    now, before = promoted.now, promoted.before
    return PromoteResult(
        now.name,
        now.version,
        alias,
        previous_version=before.version if before else None,
        accuracy=now.accuracy,
        previous_accuracy=before.accuracy if before else None,
    )


def show(result: PromoteResult, console: Console) -> None:
    """What the alias points at, and what it did before."""
    if result.previous_version is None:
        before = ""
    elif result.previous_version == result.model_version:
        before = ", as before"
    else:
        before = f"; it was version {result.previous_version}{_figure(result.previous_accuracy)}"
    now = f"version {result.model_version}{_figure(result.accuracy, 'accuracy ')}"
    console.say(f"models:/{result.model_name}@{result.alias} is {now}{before}")


def _figure(accuracy: float | None, what: str = "") -> str:
    return "" if accuracy is None else f" ({what}{accuracy:.4f})"
