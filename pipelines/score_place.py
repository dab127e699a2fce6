"""Where a table of scores may lie: checked before any work, since what is put in place replaces what is there."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from cnnjob import storage
from cnnjob.config.score import ScoreConfig
from cnnjob.data.output import lies_in
from cnnjob.errors import CnnjobError, DatasetError, StorageError, UserError
from cnnjob.schema import has_no_type, key_types
from cnnjob.scoring.dates import parse
from cnnjob.scoring.plan import ScoringModel
from cnnjob.scoring.table import LOG, ScoresManifest, Table, current, numbers
from pipelines.console import Console

_DATE = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_META = ".meta"
_TO_WRITE = os.W_OK | os.X_OK
_DATES_SEEN = 3


def check_root(config: ScoreConfig) -> None:
    """The table's folder is one, and on the disk of what lies beside it: a version is put in place by a rename.

    Raises:
        UserError: It is a file, or a disk is mounted there.
    """
    root = Path(storage.real(config.output)) if storage.is_local(config.output) else None
    with storage.told(config.output):
        if root is None or not root.exists():
            return
        is_folder, is_mounted = root.is_dir(), root.stat().st_dev != root.parent.stat().st_dev
    if not is_folder:
        raise UserError(f"output: {root} is a file; it should be a folder, or a place where there is none yet.")
    if is_mounted:
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


def check_table(table: Table) -> None:
    """The table is none of somebody else's, and neither in another table nor round one.

    On an object store it takes a few requests for each folder of the address, whatever there is in it.

    Raises:
        UserError: With a file that no job of ours has written, or with the other table.
    """
    log = storage.parent(table.meta)
    there = _names(table.root)
    if there and not _names(log):
        raise UserError(
            f"output: {table.root} has {there[0]!r} and is no table of scores: it has no {log} beside it. "
            f"Choose another output."
        )
    for name in there:
        if name.endswith(_META) and _is_log(storage.join(table.root, name)):
            inner = storage.join(table.root, name.removesuffix(_META))
            raise UserError(_one_in_the_other(table.root, inner, table.root))
    for above in _above(table.root):
        name = storage.name(above)
        beside = storage.join(storage.parent(above), f"{name}{_META}")
        # Where the right to look ends, nothing is known of what lies there.
        with suppress(UserError):
            outer = above if _is_log(beside) else ""
            if name.endswith(_META) and _is_log(above):
                outer = storage.join(storage.parent(above), name.removesuffix(_META))
        if outer:
            raise UserError(_one_in_the_other(table.root, table.root, outer))


def check_date(table: Table) -> None:
    """On a local disk: the date's folders are such that a version can be put in place.

    Raises:
        UserError: One is a link, a file, or of others alone.
    """
    if not storage.is_local(table.partition):
        return
    if storage.local_path(table.partition).is_symlink():
        raise UserError(f"output: {table.partition} is a link, and a version is put in its place. Make it a folder.")
    for place in map(storage.local_path, (table.partition, table.meta)):
        if place.exists() and not (place.is_dir() and os.access(place, _TO_WRITE)):
            what = "you have no right to write in" if place.is_dir() else "a file lies where a folder has to be:"
            raise UserError(f"output: {what} {place}. Mend that, or choose another output.")


def check_unclaimed(table: Table) -> None:
    """A date without scores has no files of somebody else's: what is published replaces what lies there.

    Raises:
        UserError: With a file that no job of ours has written.
    """
    # Another job may have published since the log was looked at: it commits before a file of its lies here.
    if (there := _names(table.partition)) and not numbers(table):
        raise UserError(
            f"output: {table.partition} has {there[0]!r}, and no job has published scores of this date. "
            f"Move it away, or choose another output."
        )


def check_writable(table: Table) -> None:
    """On a local disk: a folder can be made where the table's folder and its log are or will be.

    Raises:
        UserError: There is no right to it, or no folder can be made there.
        StorageError: The disk is full, fails or is mounted for reading alone.
    """
    if not storage.is_local(table.root):
        return
    root, log = Path(table.root), Path(storage.parent(table.meta))
    here = next(place for place in (log, *log.parents) if place.exists())
    with storage.told(table.root):
        try:
            # Made and removed: what else there may be in the way, such as a quota, no look at rights tells.
            Path(tempfile.mkdtemp(prefix=".cnnjob-", dir=here)).rmdir()
            if root.exists() and not os.access(root, _TO_WRITE):
                here = root
                raise PermissionError  # noqa: TRY301 - told as above
        except PermissionError as error:
            raise UserError(
                f"output: you have no right to write in {here}. Give the right to it, or choose another output."
            ) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"output: no folder can be made in {here}. Choose another output.") from error
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            raise StorageError(
                f"output: the disk of {here} is mounted for reading alone. Nothing was scored; mount it for writing "
                f"and run the same command again, or choose another output."
            ) from error


def _one_in_the_other(root: str, inner: str, outer: str) -> str:
    return (
        f"output: {root} cannot be a table of scores: {inner} would lie in the table {outer}, whose readers take every "
        f"file below it for a part of it. Choose an output beside it."
    )


def _above(uri: str) -> Iterator[str]:
    """The folders that a place lies in, the nearest first; of a bucket, which has no folder beside it, not itself."""
    while storage.name(above := storage.parent(uri)):
        if not storage.is_local(above) and not storage.name(storage.parent(above)):
            return
        yield above
        uri = above


def _is_log(uri: str) -> bool:
    """Whether a folder is the log of a table; of its dates the newest are looked at, since any has one."""
    dates = [name for name in _names(uri) if _DATE.fullmatch(name)]
    return any(storage.exists(storage.join(uri, name, LOG)) for name in dates[-_DATES_SEEN:])


def check_form(config: ScoreConfig, table: Table, model: ScoringModel, console: Console) -> None:
    """The date's scores have the columns that the table's other dates have: it is read as one.

    Raises:
        UserError: The config asks for other columns.
    """
    other = next(_other_dates(table), None)
    if other is None:
        return
    if other.layout != config.probabilities:
        raise UserError(
            f"probabilities: {config.probabilities} is not what {table.root} has of {other.date}, which is "
            f"{other.layout}: the table could not be read as one. Keep that, or choose another output."
        )
    if other.class_names != list(model.class_names):
        console.note(
            f"{model.name} version {model.version} has other classes than what {other.date} of this table was scored "
            f"with, in number, name or order: who reads several dates has to look at the class names of each"
        )


def check_keys(table: Table, source: str, keys: Sequence[pa.Field]) -> None:
    """The date's key columns are those that the newest other date of the table has, each of its type; in any order.

    Who reads the root as one table has the columns and types of the file that comes first. Of another type, pyarrow and
    DuckDB fail or not by the order of the dates, and Polars always. A column that some dates lack is null there or left
    out without a word (pyarrow, DuckDB), or an error (DuckDB, Polars). So both are refused, and a column without type.
    Dates that were published before key columns were recorded are not compared.

    Raises:
        DatasetError: With the column, and both types.
    """
    other = next(_other_dates(table), None)
    known = other.keys if other else None
    if untyped := [key.name for key in keys if has_no_type(key.type)]:
        wanted = (known or {}).get(untyped[0], "string")
        raise DatasetError(
            f"{source}: the key column {untyped[0]!r} has no type (Arrow's null), as what is written without a value "
            f"has: the table could not be read together with dates that have values. Cast it, such as to {wanted}."
        )
    found = key_types(keys)
    if other is None or known is None or found == known:
        return
    if found.keys() != known.keys():
        raise DatasetError(
            f"{source} gives the key columns {_listed(found)}, and {table.root} has {_listed(known)} of {other.date}: "
            f"the table could not be read as one. Give the same ones, or choose another output."
        )
    name = next(name for name in found if found[name] != known[name])
    raise DatasetError(
        f"{source}: the key column {name!r} is {found[name]}, and {table.root} has it as {known[name]} of "
        f"{other.date}: the table could not be read as one. Cast it to {known[name]}, or choose another output."
    )


def _listed(keys: Mapping[str, str]) -> str:
    return ", ".join(sorted(keys)) or "none"


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
