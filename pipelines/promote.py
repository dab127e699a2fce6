"""``cnnjob promote``: point an alias of a registered model at a version."""

from dataclasses import dataclass

from cnnjob.tracking import registry
from cnnjob.tracking.server import connect
from pipelines.console import Console


@dataclass(frozen=True)
class PromoteResult:
    """What ``cnnjob promote --json`` prints."""

    model_name: str
    model_version: str
    alias: str


def run(tracking_uri: str, name: str, version: str | None, alias: str) -> PromoteResult:
    """Point ``alias`` at ``version`` of the model ``name``; by default at its newest."""
    promoted = registry.promote(connect(tracking_uri), name, version, alias)
    return PromoteResult(promoted.name, promoted.version, alias)


def show(result: PromoteResult, console: Console) -> None:
    """The result for people."""
    console.say(f"models:/{result.model_name}@{result.alias} is version {result.model_version}")
