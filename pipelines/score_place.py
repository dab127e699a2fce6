"""Where a table of scores may lie: checked before any work, since what is put in place replaces what is there."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.fs as pafs

from cnnjob import storage
from cnnjob.config.score import ScoreConfig
from cnnjob.data.place import lies_in
from cnnjob.errors import CnnjobError, UserError
from cnnjob.scoring.dates import parse
from cnnjob.scoring.plan import ScoringModel
from cnnjob.scoring.table import ScoresManifest, Table, current
from pipelines.console import Console

_DATE = re.compile(r"date=(\d{4}-\d{2}-\d{2})")


def check_root(config: ScoreConfig) -> None:
    """The table's folder is one, and on the disk of what lies beside it: a version is put in place by a rename.

    Raises:
        UserError: It is a file, or a disk is mounted there.
    """
    root = Path(storage.real(config.output)) if storage.is_local(config.output) else None
    if root is None or not root.exists():
        return
    if not root.is_dir():
        raise UserError(f"output: {root} is a file; it should be a folder, or a place where there is none yet.")
    if root.stat().st_dev != root.parent.stat().st_dev:
        raise UserError(
            f"output: a disk is mounted at {root}, and the table's log and unfinished parts lie beside it, in "
            f"{root}.meta on another disk. Choose a folder below it, such as {root / 'scores'}."
        )


def check_apart(config: ScoreConfig, source: str) -> None:
    """The table does not lie in its input, whose next listing would have its files as images, nor the input in it.

    Raises:
        UserError: One of them lies in the other.
    """
    above, name = storage.parent(config.output), storage.name(config.output)
    for place in (config.output, storage.join(above, f"{name}.meta")):
        if lies_in(place, source) or lies_in(source, place):
            raise UserError(
                f"output: {config.output} and the input {source} lie one in the other: what is written would be taken "
                f"for images the next time. Choose an output beside the input."
            )


def check_ours(table: Table, before: ScoresManifest | None) -> None:
    """The table is none of somebody else's, nor is its date: what is published replaces what lies there.

    Raises:
        UserError: With a file that no job of ours has written.
    """
    if storage.is_local(table.partition) and storage.local_path(table.partition).is_symlink():
        raise UserError(f"output: {table.partition} is a link, and a version is put in its place. Make it a folder.")
    if before is not None:
        return
    log = storage.parent(table.meta)
    if (there := _names(table.root)) and not _names(log):
        raise UserError(
            f"output: {table.root} has {there[0]!r} and is no table of scores: it has no {log} beside it. "
            f"Choose another output."
        )
    if there := _names(table.partition):
        raise UserError(
            f"output: {table.partition} has {there[0]!r}, and no job has published scores of this date. "
            f"Move it away, or choose another output."
        )


def check_form(config: ScoreConfig, table: Table, model: ScoringModel, console: Console) -> None:
    """The date's scores have the columns that the table's other dates have: it is read as one.

    Raises:
        UserError: The config asks for other columns.
    """
    other = next(_other_dates(table), None)
    if other is None:
        return
    if other.config["probabilities"] != config.probabilities:
        raise UserError(
            f"probabilities: {config.probabilities} is not what {table.root} has of {other.date}, which is "
            f"{other.config['probabilities']}: the table could not be read as one. Keep that, or choose another output."
        )
    if other.class_names != list(model.class_names):
        console.note(
            f"{model.name} version {model.version} has other classes than what {other.date} of this table was scored "
            f"with, in number, name or order: who reads several dates has to look at the class names of each"
        )


def _other_dates(table: Table) -> Iterator[ScoresManifest]:
    """What is published for other dates of the table, the newest first."""
    found = [match[1] for name in _names(storage.parent(table.meta)) if (match := _DATE.fullmatch(name))]
    for date in sorted(found, reverse=True):
        if date != table.date.isoformat():
            # What is wrong with another date is told where that one is scored.
            with suppress(CnnjobError):
                manifest = current(Table(table.root, parse(date, "date")))
                if manifest is not None:
                    yield manifest


def _names(uri: str) -> list[str]:
    """What lies in a folder itself, sorted; nothing where there is none."""
    filesystem, path = storage.resolve(uri)
    with storage.told(uri):
        return sorted(
            info.base_name for info in filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        )
