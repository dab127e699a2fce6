"""One date of a table of scores: where its files lie, and what is published for it.

Beside the root lies ``ROOT.meta/date=D/log``: one manifest a version, numbered. The newest is what is published; a new
one is created by exactly one writer (``exclusive.create``), and that is the commit. Everything else follows from it.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cnnjob import storage
from cnnjob.errors import FormatVersionError, IntegrityError
from cnnjob.schema import SCORES_FORMAT_VERSION

LOG = "log"
MANIFEST = "manifest.json"
_DIGITS = 12
_LOOKS = 20
"""How often one looks for the newest manifest that others replace meanwhile."""


@dataclass(frozen=True)
class Part:
    """A published file: its name in the date's folder, the unit it came from, rows, bytes and hash."""

    name: str
    unit: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ScoresManifest:
    """What a date says of itself.

    Attributes:
        format_version: Of this document and the table.
        number: Its place in the date's log, 1 on.
        date: YYYY-MM-DD.
        version: Unique to this publication; part of its files' names.
        plan_digest: The plan it came from: the same inputs, model and config.
        listing_digest: Of the inputs.
        rows: Rows in the table.
        refused: Rows in quarantine, by reason.
        parts: The files, in the order of the plan.
        model: Name, version and digest.
        class_names: In the order of the probabilities.
        counts: Rows by predicted class.
        pixels: Counts of pixel values over a sample of rows, for drift.
        scored_at: When the plan was made.
        config: The resolved config.
        replaced: The version before; None for the first.
        keys: Types of the key columns by name, see ``schema.key_types``; None where they were not recorded yet.
    """

    format_version: int
    number: int
    date: str
    version: str
    plan_digest: str
    listing_digest: str
    rows: int
    refused: dict[str, int]
    parts: list[Part]
    model: dict[str, str]
    class_names: list[str]
    counts: list[int]
    pixels: list[list[int]]
    scored_at: str
    config: dict[str, Any]
    replaced: str | None
    keys: dict[str, str] | None = None

    @property
    def layout(self) -> str:
        """Of the probabilities, see ``schema.scores_schema``."""
        return str(self.config.get("probabilities", "list"))

    @property
    def file_names(self) -> set[str]:
        """Of its parts."""
        return {part.name for part in self.parts}

    @property
    def file_sizes(self) -> dict[str, int]:
        """Bytes of its parts by their names."""
        return {part.name: part.bytes for part in self.parts}


_MANIFESTS = TypeAdapter(ScoresManifest)


@dataclass(frozen=True)
class Table:
    """Where one date of a table lies.

    Attributes:
        root: URI of the table. Of a link the table is what it leads to: parts and log have to be on one disk.
        date: The date.
    """

    root: str
    date: dt.date

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", storage.real(self.root))

    @property
    def partition(self) -> str:
        """Folder of the committed parts."""
        return storage.join(self.root, f"date={self.date.isoformat()}")

    @property
    def meta(self) -> str:
        """Folder of everything else about the date."""
        above, name = storage.parent(self.root), storage.name(self.root)
        return storage.join(above, f"{name}.meta", f"date={self.date.isoformat()}")

    def log(self, number: int) -> str:
        """The manifest of a version."""
        return storage.join(self.meta, LOG, f"{number:0{_DIGITS}d}.json")

    @property
    def stagings(self) -> str:
        """Folder of the staging folders."""
        return storage.join(self.meta, "staging")

    def staging(self, plan_digest: str, base: int) -> str:
        """Folder of the unpublished parts and receipts of a plan that would replace the version ``base``."""
        return storage.join(self.stagings, f"{base:0{_DIGITS}d}-{plan_digest[:32]}")

    def staging_of(self, manifest: ScoresManifest) -> str:
        """Where the parts of a version lay until they were published."""
        return self.staging(manifest.plan_digest, manifest.number - 1)

    def beside(self, kind: str, number: int, version: str) -> str:
        """A file that tells of a version: its ``quarantine`` (Parquet) or its ``receipts`` (JSON)."""
        ending = "parquet" if kind == "quarantine" else "json"
        return storage.join(self.meta, kind, f"{number:0{_DIGITS}d}-{version}.{ending}")


def numbers(table: Table) -> list[int]:
    """Numbers in the log, oldest first."""
    found = numbered(storage.list_files(storage.join(table.meta, LOG)))
    return sorted(number for name, number in found.items() if name.endswith(".json"))


def current(table: Table) -> ScoresManifest | None:
    """What is published for the date; None where nothing is.

    Raises:
        FormatVersionError: It was published in another version of the format.
        IntegrityError: The newest manifest is damaged.
    """
    for _ in range(_LOOKS):
        found = numbers(table)
        if not found:
            return None
        try:
            return read(table.log(found[-1]))
        except FileNotFoundError:
            continue  # It was pruned between listing and reading, since so many came after it; list again.
    raise IntegrityError(
        f"{table.log(found[-1])} is empty, and it is the newest of its date. Remove it, and score again."
    )


def read(uri: str) -> ScoresManifest:
    """A manifest.

    Raises:
        FileNotFoundError: There is none, or it was forgotten: its number stays taken.
        FormatVersionError: It is of another version of the format.
        IntegrityError: It is damaged.
    """
    content = storage.read_bytes(uri)
    if not content:
        raise FileNotFoundError(uri)
    meta = storage.parent(storage.parent(uri))
    try:
        manifest = parse(uri, content)
        _check_place(uri, meta, manifest)
    except IntegrityError as error:
        raise IntegrityError(
            f"{error}. Put its copy, {storage.join(meta, MANIFEST)}, in its place if that is whole and of this number. "
            f"Else move it and the date's folder in the table away, and score the date again."
        ) from error
    return manifest


def _check_place(uri: str, meta: str, manifest: ScoresManifest) -> None:
    told = f"date={manifest.date}", f"{manifest.number:0{_DIGITS}d}.json"
    if told != (storage.name(meta), storage.name(uri)):
        raise IntegrityError(f"{uri} is damaged: it says that it is number {manifest.number} of {manifest.date}")


def parse(uri: str, content: bytes) -> ScoresManifest:
    """A manifest that was read from a file.

    Raises:
        FormatVersionError: It is of another version of the format.
        IntegrityError: It is damaged.
    """
    document = storage.parse_json(uri, content)
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise IntegrityError(f"{uri} is damaged: it is no manifest of a table of scores")
    if version != SCORES_FORMAT_VERSION:
        raise FormatVersionError.of("table of scores", uri, version, SCORES_FORMAT_VERSION)
    try:
        manifest = _MANIFESTS.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise IntegrityError(f"{uri} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if len(manifest.counts) != len(manifest.class_names) or not {"name", "version", "digest"} <= manifest.model.keys():
        raise IntegrityError(f"{uri} is damaged: its model or its counts are not whole")
    return manifest


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Those of the names that begin with the number of a version, with it."""
    return {name: int(name[:_DIGITS]) for name in names if name[:_DIGITS].isdigit()}


def as_document(manifest: ScoresManifest) -> dict[str, Any]:
    """A manifest as it is written."""
    return asdict(manifest)
