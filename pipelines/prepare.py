"""``cnnjob prepare``: images in, one trusted data set out.

If the data set of this source and config is already there, say so and stop. Otherwise list the source, decode on all
CPUs, split, count pixel values, write the shards, and put the folder in place at once.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from cnnjob import storage
from cnnjob.cluster.session import Needs, session
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data import job
from cnnjob.data.manifest import Manifest
from cnnjob.data.output import refuse_output
from cnnjob.data.place import tidy
from cnnjob.data.published import current
from cnnjob.data.sources.open import open_source
from cnnjob.data.sources.walk import EMPTY, HIDDEN, LITTER, SEEN
from pipelines.console import Console

SHOWN_CLASSES = 30

_PASSED_OVER = {
    LITTER: ("system file (such as .DS_Store)", "system files (such as .DS_Store)"),
    HIDDEN: ("hidden folder", "hidden folders"),
    EMPTY: ("empty folder", "empty folders"),
    SEEN: ("link to a folder that is read anyway", "links to folders that are read anyway"),
}
"""What one, and what several, of a kind in ``PrepareResult.passed_over`` are called."""


@dataclass(frozen=True)
class PrepareResult:
    """What ``cnnjob prepare --json`` prints.

    Attributes:
        dataset: Where the data set lies.
        fingerprint: Digest of its content.
        rows: Rows by split.
        refused: Rows refused, by reason.
        created: False where there was nothing left to do.
        classes: Rows by class and split.
        missing: Classes without a row, by split.
        duplicates: Pictures that are in two splits, by the splits.
        passed_over: What lay in the source and is no row, by kind.
        contact_sheet: Where the picture of the data set lies.
        refused_table: Where the refused rows lie.
        rows_per_s: Rows prepared over the time from Ray's start to the last file; 0 where there was nothing to do.
    """

    dataset: str
    fingerprint: str
    rows: dict[str, int]
    refused: dict[str, int]
    created: bool
    classes: dict[str, dict[str, int]]
    missing: dict[str, list[str]]
    duplicates: dict[str, int]
    passed_over: dict[str, int]
    contact_sheet: str
    refused_table: str
    rows_per_s: float = 0.0


def run(config: PrepareConfig, console: Console) -> PrepareResult:
    """Prepare the data set that ``config`` asks for."""
    refuse_output(config.output, config.source.uri)
    source = open_source(config)
    console.note(f"Listing {config.source.uri or config.source.kind}")
    manifest = current(config, source)
    rate, created = 0.0, manifest is None
    if manifest is None:
        with job.begin(config, source, console) as begun:
            console.note(f"Preparing {len(begun.listing.rows):,} rows from {config.source.uri or config.source.kind}")
            with session(Needs(data_cpus=1), console):
                started = time.perf_counter()
                manifest = job.run(begun, console)
                rate = manifest.rows_in / (time.perf_counter() - started)
    else:
        tidy(config.output)
    return _result(config.output, manifest, created=created, rate=rate)


def show(result: PrepareResult, console: Console) -> None:
    """The result for people."""
    splits = list(result.rows)
    shown = list(result.classes.items())[:SHOWN_CLASSES]
    rows = [(name, *(counts[split] for split in splits)) for name, counts in shown]
    if len(result.classes) > len(shown):
        rows.append((f"{len(result.classes) - len(shown)} more", *("" for _ in splits)))
    console.table(("class", *splits), [*rows, ("all", *result.rows.values())])
    if result.refused:
        console.table(("refused", "rows"), list(result.refused.items()))
    for line in _remarks(result):
        console.say(line)
    counted = ", ".join(f"{count:,} {split}" for split, count in result.rows.items())
    state = "Prepared" if result.created else "Nothing to do, already prepared:"
    console.say(f"{state} {result.dataset}: {counted} rows, {sum(result.refused.values())} refused")
    console.say(f"Fingerprint: {result.fingerprint}")
    console.say(f"A look at it: {result.contact_sheet}")
    if result.created:
        console.say(f"Next: a train conf with `dataset: {result.dataset}`, then cnnjob train CONF")


def _result(output: str, manifest: Manifest, *, created: bool, rate: float) -> PrepareResult:
    return PrepareResult(
        dataset=output,
        fingerprint=manifest.fingerprint,
        rows={name: split.rows for name, split in manifest.splits.items()},
        refused=manifest.refused,
        created=created,
        classes={
            name: {split: found.class_counts[label] for split, found in manifest.splits.items()}
            for label, name in enumerate(manifest.class_names)
        },
        missing=manifest.missing_classes(),
        duplicates=manifest.duplicates,
        passed_over=manifest.passed_over,
        contact_sheet=storage.join(output, manifest.contact_sheet),
        refused_table=storage.join(output, manifest.refused_table),
        rows_per_s=rate,
    )


def _remarks(result: PrepareResult) -> Iterator[str]:
    for split, rows in result.rows.items():
        missing = result.missing.get(split)
        if missing:
            names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")  # noqa: PLR2004 - a line
            yield f"{len(missing)} of {len(result.classes)} classes have no row in {split}: {names}"
        elif not rows:
            yield f"There are no {split} rows"
    for splits, count in result.duplicates.items():
        kept, other = splits.split(", ")
        done = "dropped from" if "duplicate_image" in result.refused else "kept in"
        yield f"{count:,} pictures of {other} are also in {kept}; {done} {other} (split.duplicates)"
    if result.passed_over:
        yield "Passed over: " + ", ".join(_in_words(kind, count) for kind, count in result.passed_over.items())
    if result.refused:
        yield f"The refused rows, with reason and uri: {result.refused_table}"


def _in_words(kind: str, count: int) -> str:
    one, several = _PASSED_OVER[kind]
    return f"{count:,} {one if count == 1 else several}"
