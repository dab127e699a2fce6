"""What is checked round a date's scoring: before it whether it can be done, after it whether it may be published."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cnnjob import storage
from cnnjob.config.score import OWN_COLUMNS, ScoreConfig
from cnnjob.data.reach import any_within_reach
from cnnjob.errors import CnnjobError, DatasetError, IntegrityError, RefusedRowsError, StorageError, UserError
from cnnjob.schema import REASON, URI
from cnnjob.scoring import commit
from cnnjob.scoring.inputs import DatasetInput, Input
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, ScoringModel
from cnnjob.scoring.table import ScoresManifest, Table, current
from cnnjob.scoring.work import undo
from cnnjob.tracking.registry import Resolved
from pipelines.console import Console

_ROW_BYTES = 128
"""Of a scored row on disk beside its probabilities, generously: id, class, times, what Parquet adds."""


@contextmanager
def of_one_date(*kinds: type[CnnjobError], is_own: bool = True) -> Iterator[None]:
    """Mark errors in the block, which looks at what one date alone has: its log, its folder, its input.

    A range passes such a date over. A store, a disk or a cluster that fails is not marked: the next date needs it too.

    Args:
        kinds: The errors that are about the date, and not about what is done with it; by default those of wrong input
            and of damaged files.
        is_own: Whether the date has a thing of its own there; not so with one input for all dates.
    """
    try:
        yield
    except CnnjobError as error:
        error.of_one_date |= is_own and isinstance(error, kinds or (UserError, IntegrityError))
        raise


def check_classes(config: ScoreConfig, model: ScoringModel) -> None:
    """A column for each class has a name of its own, also for readers that do not tell upper from lower case.

    Raises:
        UserError: With two classes whose columns would be one.
    """
    if config.probabilities != "columns":
        return
    seen: dict[str, str] = {}
    for name in model.class_names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(
                f"probabilities: of the classes {other!r} and {name!r} the columns p_{other} and p_{name} would be one "
                f"to DuckDB, Spark and Hive, which do not tell upper from lower case. Set probabilities: list."
            )


def check_fit(config: ScoreConfig, given: Input, resolved: Resolved) -> None:
    """A prepared data set has images of the form that the model takes, and key columns that the table has room for.

    Raw images are brought to the form, and their key columns are in the config, which has been checked.

    Raises:
        DatasetError: With both forms, or with the column.
    """
    if not isinstance(given, DatasetInput):
        return
    wanted, found = resolved.bundle.description.image, given.manifest.image
    for key in ("channels", "height", "width", "color"):
        if wanted[key] != getattr(found, key):
            raise DatasetError(
                f"{given.uri} has images of {found.channels}x{found.height}x{found.width} {found.color}, and "
                f"{config.model} was trained on {wanted['channels']}x{wanted['height']}x{wanted['width']} "
                f"{wanted['color']}. Prepare the input with the image settings of the model's data set."
            )
    classes = resolved.bundle.description.class_names if config.probabilities == "columns" else ()
    names = {*OWN_COLUMNS, *(f"p_{name}".casefold() for name in classes)}
    for key in given.keys:
        if key.name.casefold() in names:
            raise DatasetError(
                f"{given.uri} has the key column {key.name!r}, and a table of scores has a column of that name itself, "
                f"or another key has it, but for the case of letters, which DuckDB, Spark and Hive do not tell. "
                f"Prepare the data set without it in source.columns.keys, or under another name."
            )
        names.add(key.name.casefold())


def check_space(config: ScoreConfig, rows: int, model: ScoringModel) -> None:
    """A local disk has room for the parts of rows still to be scored; publishing links them, so they take it once.

    Raises:
        StorageError: With what is needed and what there is.
    """
    if not storage.is_local(config.output):
        return
    place = Path(storage.local_path(config.output))
    while not place.exists():
        place = place.parent
    needed, free = rows * (_ROW_BYTES + 4 * len(model.class_names)), shutil.disk_usage(place).free
    if needed > free:
        raise StorageError(
            f"{config.output}: {rows:,} rows take about {needed / 1e6:,.0f} MB, and {place} has "
            f"{free / 1e6:,.0f} MB free. None of them was scored; make room, or write elsewhere."
        )


def is_mended(table: Table, published: ScoresManifest, max_bytes: int) -> bool:
    """Whether a file that was gone or closed when a version was made can be read now, up to ``max_bytes``."""
    quarantine = table.beside("quarantine", published.number, published.version)
    return any_within_reach(published.refused, quarantine, max_bytes)


def check_refused(config: ScoreConfig, plan: Plan, ledger: Ledger, staging: str) -> None:
    """No more rows were refused than the config allows.

    Otherwise units are done anew by the next run where what was wrong can be mended without the listing changing.

    Raises:
        RefusedRowsError: With the reasons, counted.
    """
    refused = ledger.refused
    total, bound = sum(refused.values()), config.limits.max_refused_share
    if total > bound * plan.rows:
        first = next(row for receipt in ledger.in_order() for row in receipt.refused)
        counted = ", ".join(f"{count:,} {reason}" for reason, count in refused.items())
        for receipt in ledger.in_order():
            if any(_of_the_world(row) for row in receipt.refused):
                undo(staging, receipt.unit)
        raise RefusedRowsError(
            f"{total:,} of {plan.rows:,} rows were refused ({counted}), such as {first['uri']}: {first['detail']}. "
            f"That is more than limits.max_refused_share ({bound}) allows. Nothing was published, and the scored units "
            f"are kept: mend the input, or raise the bound and run the same command again."
        )


def _of_the_world(row: dict[str, str]) -> bool:
    """Whether a refusal may end while the listing stays: access, a file that comes back, what lies elsewhere."""
    remote = "://" in row[URI] and not storage.is_local(row[URI])
    return row[REASON] != "duplicate_id" and (remote or row[REASON] in ("gone", "changed", "unreadable"))


@contextmanager
def told_who_won(table: Table, plan: Plan, before: ScoresManifest | None) -> Iterator[None]:
    """A job that was slower than another says so, not that its staged files were cleaned away, and leaves none.

    Raises:
        JobError: With who won.
    """
    try:
        yield
    except (CnnjobError, FileNotFoundError) as error:
        won = current(table)
        number = before.number if before else 0
        if won is None or won.number == number or won.plan_digest == plan.digest:
            raise
        storage.remove(table.staging(plan.digest, number))
        raise commit.lost(table, won) from error


@contextmanager
def informed(table: Table, console: Console) -> Iterator[None]:
    """Say where another job is at work on the date. It only informs: what decides is the commit."""
    if not storage.is_local(table.root):
        yield
        return
    lock = FileLock(storage.local_path(table.meta) / ".running")
    with storage.told(table.meta):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.note(f"Another job is at work on {table.date} of {table.root}; one of the two will publish")
    try:
        yield
    finally:
        lock.release()
