"""``manifest.json``: what a prepared data set says of itself. Written last, so its presence means: complete."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cnnjob import storage
from cnnjob.digests import digest_of
from cnnjob.errors import DatasetError, FormatVersionError, IntegrityError
from cnnjob.schema import DATASET_FORMAT_VERSION

MANIFEST = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Shard(_Part):
    """One Parquet file."""

    path: str
    """Relative to the data set's folder."""
    rows: int
    bytes: int
    sha256: str
    footer_sha256: str
    """Of the footer alone, which is checked wherever rows are read; pages have checksums of their own."""


class Split(_Part):
    """The rows of one split, in order: shard after shard."""

    rows: int
    class_counts: tuple[int, ...]
    shards: tuple[Shard, ...]
    fingerprint: str
    """Order-free digest of the rows (id, label, pixels): independent of shard sizes and compression."""


class Image(_Part):
    """The canonical form of every image."""

    channels: int
    height: int
    width: int
    color: str
    layout: str = "CHW"
    dtype: str = "uint8"
    resize: str
    filter: str
    storage: str = "packed"
    """`packed`: uint8, as above. `encoded`: the original bytes, decoded where they are read."""
    background: tuple[int, int, int] = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, self.height, self.width)


class Statistics(_Part):
    """Of the training split; the one truth about normalization, and the reference of drift."""

    mean: tuple[float, ...]
    """A channel each, on the 0..1 scale."""
    std: tuple[float, ...]
    """A channel each, on the 0..1 scale; population standard deviation."""
    pixel_histogram: tuple[tuple[int, ...], ...]
    """How often each value 0..255 occurs, a channel each."""
    class_shares: tuple[float, ...]


class Manifest(_Part):
    """The whole document."""

    format_version: int
    fingerprint: str
    """Digest of classes, image form and the splits' fingerprints: the content, not how it is stored."""
    class_names: tuple[str, ...]
    image: Image
    splits: dict[str, Split]
    statistics: Statistics
    rows_in: int
    refused: dict[str, int]
    """Rows refused, by reason; the rows themselves are in `refused.parquet`."""
    refused_table: str = "refused.parquet"
    """Relative to the data set's folder."""
    contact_sheet: str = "contact_sheet.png"
    """Relative to the data set's folder: some pictures of each class, and the refused."""
    duplicates: dict[str, int] = {}
    """Pictures that are in two splits, by the splits, such as `train, test`; what was done stands in the config."""
    passed_over: dict[str, int] = {}
    """What lay in the source and is no row, such as desktop litter, by kind."""
    source: dict[str, Any]
    """Digest and rows of the listing."""
    config: dict[str, Any]
    """The resolved config of the job that wrote it."""
    versions: dict[str, str]

    @property
    def files(self) -> frozenset[str]:
        """Paths of all files of the data set but this one, relative to its folder."""
        shards = (shard.path for split in self.splits.values() for shard in split.shards)
        return frozenset({self.refused_table, self.contact_sheet, *shards})

    @property
    def rows_digest(self) -> str:
        """Digest of the rows as they lie: two data sets of one fingerprint may have them in another order."""
        return digest_of(self.model_dump(mode="json", include={"splits"}))

    def missing_classes(self) -> dict[str, list[str]]:
        """Names of the classes that have no row in a split, for each split that has rows."""
        return {
            name: [self.class_names[label] for label, count in enumerate(split.class_counts) if not count]
            for name, split in self.splits.items()
            if split.rows and not all(split.class_counts)
        }


def fingerprint_of(class_names: tuple[str, ...], image: Image, splits: dict[str, Split]) -> str:
    """The fingerprint of a data set's content.

    A split's fingerprint is of what is stored; of original bytes, how they are decoded makes other pixels.
    """
    decoded = {"image": image.model_dump(mode="json")} if image.storage == "encoded" else {}
    return digest_of(
        {
            **decoded,
            "format_version": DATASET_FORMAT_VERSION,
            "class_names": class_names,
            "shape": image.shape,
            "color": image.color,
            "storage": image.storage,
            "splits": {name: split.fingerprint for name, split in splits.items()},
        }
    )


def read_manifest(dataset: str) -> Manifest:
    """Read the manifest of the data set in a folder.

    Raises:
        DatasetError: There is no prepared data set, or its manifest is damaged.
        UserError: The path leads below a file, or access is refused.
        FormatVersionError: It was written by another version of the format.
    """
    where = storage.join(dataset, MANIFEST)
    try:
        document = storage.read_json(where)
    except FileNotFoundError as error:
        raise DatasetError(
            f"there is no prepared data set at {dataset}: {MANIFEST} is missing. "
            f"Run cnnjob prepare with this output first, or correct the path."
        ) from error
    except IntegrityError as error:
        raise DatasetError(f"{error}. Prepare the data set again.") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != DATASET_FORMAT_VERSION:
        raise FormatVersionError.of("data set", where, version, DATASET_FORMAT_VERSION)
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise DatasetError(f"{where} is damaged: {wrong}. Prepare the data set again.") from error
