"""What an output may replace: an earlier data set, or what is left of one; never other files, nor the source."""

import os
import re
from pathlib import Path

from cnnjob import storage
from cnnjob.data.manifest import MANIFEST
from cnnjob.data.sources.walk import is_litter
from cnnjob.errors import DatasetError, IntegrityError
from cnnjob.s3_store import endpoint_of

_OURS = re.compile(r"manifest\.json|refused[^/]*\.parquet|contact_sheet[^/]*\.png|(train|val|test)/[^/]+\.parquet")
"""Files that a prepared data set consists of."""
VERSIONED = re.compile(r"(?:refused|contact_sheet|(?:train|val|test)/\d+)(-[0-9a-f]{12})\.(?:parquet|png)")
"""Those that are named by a version, as on an object store, and its tag: no program but this one names files so."""


def refuse_output(output: str, source: str | None) -> None:
    """Refuse to write where something would be lost: over other people's files, or over or into the source.

    Raises:
        DatasetError: The output is a file, a whole bucket or holds what is no prepared data set, or it and the source
            lie one in the other.
    """
    if storage.is_s3(output) and not storage.name(storage.parent(output)):
        raise DatasetError(
            f"output {output} is a whole bucket, and unfinished work lies beside the output. Choose a folder in it."
        )
    if source and lies_in(source, output):
        raise DatasetError(f"{output} is or holds the source {source}, which would be replaced. Choose another output.")
    if source and lies_in(output, source):
        raise DatasetError(
            f"{output} lies in the source {source}: the next run would take the data set for a part of it. "
            f"Choose an output beside the source."
        )
    here = storage.real(output)
    if storage.is_local(here):
        with storage.told(output):
            file = next((each for each in (Path(here), *Path(here).parents) if each.is_file()), None)
        if file is not None:
            what = f"output {output}" if file == Path(here) else f"output {output}: {file}"
            raise DatasetError(f"{what} is a file; it should be a folder. Choose another output.")
        if os.path.ismount(here):
            raise DatasetError(
                f"output {output}: a disk is mounted there, and a data set's folder is renamed into its place. Choose "
                f"a folder on that disk."
            )
    # A desktop leaves its own files wherever somebody looks.
    names = [name for name in storage.list_files(here) if not is_litter(os.fsencode(name.rpartition("/")[2]))]
    foreign = next((name for name in names if not _OURS.fullmatch(name)), None)
    is_ours = not names or _is_unpublished(here, names) or _is_manifest(storage.join(here, MANIFEST))
    if foreign is None and not is_ours:
        foreign = names[0]
    if foreign is not None:
        raise DatasetError(
            f"{output} exists and is not a prepared data set (it has {foreign!r}), and would be replaced. "
            f"Choose another output."
        )


def lies_in(inner: str, outer: str) -> bool:
    """Whether two URIs name one place, or the first names one below the second.

    Links, percent-encoding and the query of an address make no other place of it; another server does.
    """
    (store, path), (other, above) = _address(inner), _address(outer)
    return store == other and f"{path}/".startswith(f"{above}/")


def _address(uri: str) -> tuple[str, str]:
    """The store and the path on it, the same for every spelling; of stores that no output can be on, the URI alone."""
    if storage.is_local(uri):
        return "", storage.real(uri).rstrip("/")
    if storage.is_s3(uri):
        return endpoint_of(uri) or "AWS", storage.resolve(uri)[1]
    return uri, ""


def _is_unpublished(output: str, names: list[str]) -> bool:
    """Whether all that lies in an output was written by jobs on an object store that ended before they published."""
    return not storage.is_local(output) and all(VERSIONED.fullmatch(name) for name in names)


def _is_manifest(uri: str) -> bool:
    """Whether a file is a data set's manifest; a damaged one is taken for it, another document is not."""
    try:
        document = storage.read_json(uri)
    except FileNotFoundError:
        return False
    except IntegrityError:
        return True
    return isinstance(document, dict) and "format_version" in document
