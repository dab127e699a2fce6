"""Every knob of ``cnnjob prepare``: which images, their canonical form, the splits, the limits, the shards."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from cnnjob.config.base import Check, Config, Uri, no_passwords, rule

Level = Annotated[int, Field(ge=0, le=255)]
Format = Literal["png", "jpeg", "gif", "webp", "bmp", "tiff"]


class ColumnsConfig(Config):
    """The columns of a manifest: a CSV or Parquet table with a row for each image."""

    id: str | None = Field(default=None, min_length=1)
    """Column with each row's unique name. Default: the column `id` where there is one, else the image's URI."""

    uri: str | None = Field(default=None, min_length=1)
    """Column with the path or URI of each image; a relative path starts at the folder that the table lies in or, where
    the table is a folder of Parquet files, at that folder. Default: `uri`."""

    image: str | None = Field(default=None, min_length=1)
    """Column with the encoded image files themselves, as bytes (Parquet only); instead of `uri`."""

    label: str = Field(default="label", min_length=1)
    """Column with each row's class: its name, or its number from 0 on. A row without one is refused."""

    split: str | None = Field(default=None, min_length=1)
    """Column with each row's split, `train`, `val` or `test`; only read where `split.method` is `given`. Default:
    `split`."""

    keys: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    """Further columns that are copied into the data set with their types, such as a customer's number."""


class SourceConfig(Config):
    """Where the images come from."""

    kind: Literal["digits", "idx", "cifar", "folder", "manifest"]
    """`digits`: scikit-learn's 1,797 handwritten digits, 8x8, which come with the package. `idx`: MNIST's files,
    raw or .gz. `cifar`: CIFAR-10 or -100 in the binary version, a folder or .tar.gz. `folder`: a folder with a
    sub-folder for each class, CLASS/.../FILE; where `split.method` is `given`, SPLIT/CLASS/.../FILE, and the first
    level is called train or training, val, valid or validation, and test; folders whose names begin with a dot are
    passed over. `manifest`: a CSV or Parquet table with a row for each image."""

    uri: Uri | None = None
    """Path or URI of the folder, archive or table; needed for every kind but `digits`, which has none."""

    class_names: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(default=None, strict=False)
    """Class names, the name of label 0 first; for `manifest`, `idx` and `cifar`. Default: the label column's words in
    sorted order, CIFAR's file of names, else the labels' numbers. A folder's classes are its sub-folders, sorted."""

    labels: Literal["fine", "coarse"] = "fine"
    """Which labels of CIFAR-100: its 100 classes (`fine`) or their 20 groups (`coarse`)."""

    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)


class ImageConfig(Config):
    """The canonical form: every image becomes uint8, channels x height x width."""

    color: Literal["rgb", "gray"] = "rgb"
    """`rgb`: 3 channels, where a gray image has the same values in all three. `gray`: 1 channel."""

    height: int = Field(default=32, ge=1, le=4096)
    """Height of the prepared images, in pixels."""

    width: int = Field(default=32, ge=1, le=4096)
    """Width of the prepared images, in pixels."""

    resize: Literal["exact", "pad", "fit_pad", "center_crop", "stretch"] = "exact"
    """What happens to images of another size. `exact`: they are refused. `pad`: smaller ones get a black border, larger
    ones are refused. `fit_pad`: scaled until they fit, then given a black border. `center_crop`: scaled until they
    cover height and width, then cut. `stretch`: scaled to height and width, whatever their shape."""

    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Resampling filter where `resize` scales."""

    background: tuple[Level, Level, Level] = Field(default=(0, 0, 0), strict=False)
    """Red, green and blue, 0 to 255, of what transparent images are laid on."""

    storage: Literal["packed", "encoded"] = "packed"
    """`packed`: images are decoded once and stored as uint8 pixels. `encoded`: the original files are stored, once it
    is sure that they can be decoded, and are decoded again whenever they are read; for large pictures."""

    @property
    def channels(self) -> int:
        """Number of channels: 3 or 1."""
        return 3 if self.color == "rgb" else 1


class SplitConfig(Config):
    """How rows are divided into train, val and test."""

    method: Literal["given", "hash", "stratified"] = "hash"
    """`hash`: a row's split follows from its id and the seed alone, so it stays when the data grow; the shares hold
    approximately. `stratified`: the shares hold exactly in each class; rows may change their split when the data grow.
    `given`: as the source says; where it has no validation rows, or no test rows, see `val` and `test`."""

    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows for validation. With `given`: only where the source has no validation rows; then this share of
    its training rows is taken, by hash. 0: none are."""

    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows for the test. With `given`: only where the source has no test rows; then this share of its
    training rows is taken, by hash. 0: none are."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the split and of the order of rows in the shards."""

    duplicates: Literal["keep", "drop"] = "keep"
    """What happens where the same picture, pixel by pixel, is in two splits. `keep`: it stays in both, and is counted.
    `drop`: it stays in one (training before test before validation); in the other it is refused as
    `duplicate_image`."""


class LimitsConfig(Config):
    """Bounds on what is decoded; a row beyond one is refused with its reason."""

    max_bytes: int = Field(default=20_000_000, ge=1, le=10**12)
    """Largest encoded image, in bytes."""

    max_pixels: int = Field(default=16_777_216, ge=1, le=1 << 28)
    """Largest decoded image, in pixels (width x height). To decode one takes up to 12 bytes of memory for each pixel,
    and a few times the size of the file: with the defaults at most 256 MB."""

    formats: tuple[Format, ...] = Field(default=get_args(Format), min_length=1, strict=False)
    """Formats that are decoded; a file of another one is refused. Told by a file's first bytes, not by its name."""

    max_refused_share: float = Field(default=0.01, ge=0, le=1)
    """Largest share of the rows that may be refused before the job fails and publishes nothing."""


class ShardsConfig(Config):
    """The files of the prepared data set."""

    target_bytes: int = Field(default=64_000_000, ge=1, le=10**12)
    """Size that a shard should have before compression, in bytes; the number of its rows follows from it."""

    rows_per_group: int = Field(default=2048, ge=1, le=1_000_000)
    """Rows in a Parquet row group: the smallest piece that is read."""

    compression: Literal["none", "lz4", "zstd"] = "lz4"
    """Codec of the Parquet pages."""


class PrepareConfig(Config):
    """A job that turns a pile of images into a prepared data set."""

    output: Uri
    """Folder of the prepared data set; written whole or not at all."""

    source: SourceConfig
    image: ImageConfig = Field(default_factory=ImageConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    shards: ShardsConfig = Field(default_factory=ShardsConfig)


@rule("split.val", "split.test")
def shares_leave_training_rows(val: float, test: float) -> Iterator[str]:
    """Validation and test together leave rows to train on."""
    if val + test >= 1:
        yield f"val {val} and test {test} leave no rows for training; together they should stay below 1"


@rule("output")
def output_can_be_published(output: str) -> Iterator[str]:
    """A data set is put in place at once, which takes a disk's rename or an object store's whole objects."""
    if "://" in output and not output.startswith(("s3://", "file://")):
        yield f"{output.partition(':')[0]}:// cannot be written to; it should be a local path or s3://BUCKET/FOLDER"


@rule("source.uri", "source.kind")
def source_has_its_uri(uri: str | None, kind: str) -> Iterator[str]:
    """Each kind of source says whether it has a URI."""
    if kind == "digits" and uri is not None:
        yield f"digits come with scikit-learn and have no uri, but uri is {uri!r}; leave it out"
    if kind != "digits" and uri is None:
        yield f"is missing; the kind {kind} needs the path or URI that its images come from"


@rule("source.columns", "source.kind")
def columns_belong_to_a_manifest(columns: ColumnsConfig, kind: str) -> Iterator[str]:
    """A manifest says where an image is, once; other sources have no columns."""
    if kind != "manifest":
        if columns != ColumnsConfig():
            yield f"only a manifest has columns, and the kind is {kind}; leave them out"
        return
    if columns.uri is not None and columns.image is not None:
        yield "either uri or image should name the column that the images come from; both are given"
    taken = [columns.id, columns.uri, columns.image, columns.label, columns.split]
    for key in columns.keys:
        if key in ("id", "image", "label") or key.startswith("_") or columns.keys.count(key) > 1 or key in taken:
            yield f"{key!r} in keys is taken; keys are further columns, each named once, without a leading _"


@rule("split.method", "source.kind")
def given_splits_are_given(method: str, kind: str) -> Iterator[str]:
    """The method `given` needs a source that says."""
    if method == "given" and kind == "digits":
        yield "digits have no splits of their own; use hash or stratified"


@rule("source.class_names", "source.kind")
def class_names_are_a_set(names: tuple[str, ...] | None, kind: str) -> Iterator[str]:
    """Class names are unique, at least two, and not given where the source has its own."""
    if names is None:
        return
    if kind in ("digits", "folder"):
        yield f"the kind {kind} has class names of its own; leave them out"
    elif len(names) < 2 or len(set(names)) < len(names):  # noqa: PLR2004 - one class is no choice
        yield "at least two names are needed, each once"


@rule("image.storage", "source.kind")
def encoded_sources_have_bytes(storage: str, kind: str) -> Iterator[str]:
    """What has no encoded bytes cannot keep them."""
    if storage == "encoded" and kind in ("digits", "idx", "cifar"):
        yield f"the kind {kind} has no encoded images to keep; use packed"


RULES: tuple[Check, ...] = (
    *no_passwords("source.uri", "output"),
    output_can_be_published,
    shares_leave_training_rows,
    source_has_its_uri,
    columns_belong_to_a_manifest,
    given_splits_are_given,
    class_names_are_a_set,
    encoded_sources_have_bytes,
)
