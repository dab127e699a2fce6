"""``cnnjob prepare``: images in, one trusted data set out.

List the source. If the data set of this source and config is already there, say so and stop. Otherwise decode
on all CPUs, split by id, count pixel values, write the shards, and put the folder in place at once.
"""

from dataclasses import dataclass

from cnnjob.cluster.session import Needs, session
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data import job
from cnnjob.data.sources.open import open_source
from pipelines.console import Console


@dataclass(frozen=True)
class PrepareResult:
    """What ``cnnjob prepare --json`` prints.

    Attributes:
        dataset: Where the data set lies.
        fingerprint: Digest of its content.
        rows: Rows by split.
        refused: Rows refused, by reason.
        created: False where there was nothing left to do.
    """

    dataset: str
    fingerprint: str
    rows: dict[str, int]
    refused: dict[str, int]
    created: bool


def run(config: PrepareConfig, console: Console) -> PrepareResult:
    """Prepare the data set that ``config`` asks for."""
    job.refuse_foreign(config.output)
    source = open_source(config.source)
    manifest = job.current(config, source)
    created = manifest is None
    if manifest is None:
        console.note(f"Preparing {source.num_rows:,} rows of {config.source.kind}")
        with session(Needs(data_cpus=1), console):
            manifest = job.run(config, source, console)
    return PrepareResult(
        dataset=config.output,
        fingerprint=manifest.fingerprint,
        rows={name: split.rows for name, split in manifest.splits.items()},
        refused=manifest.refused,
        created=created,
    )


def show(result: PrepareResult, console: Console) -> None:
    """The result for people."""
    rows = ", ".join(f"{count:,} {split}" for split, count in result.rows.items())
    state = "Prepared" if result.created else "Nothing to do, already prepared:"
    console.say(f"{state} {result.dataset}: {rows} rows, {sum(result.refused.values())} refused")
    console.say(f"fingerprint {result.fingerprint}")
