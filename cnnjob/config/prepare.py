"""Every knob of ``cnnjob prepare``: which images, their canonical form, the splits, the limits, the shards."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from cnnjob.config.base import Config, Uri, rule


class SourceConfig(Config):
    """Where the images come from."""

    kind: Literal["digits"]
    """`digits`: scikit-learn's 1,797 handwritten digits, 8x8, inside the installed package."""

    uri: Uri | None = None
    """Path or URI of the source; `digits` has none."""


class ImageConfig(Config):
    """The canonical form: every image becomes uint8, channels x height x width."""

    color: Literal["rgb", "gray"] = "rgb"
    """3 channels or 1. Gray sources are repeated over the 3."""

    height: int = Field(default=32, ge=1, le=4096)
    """Pixels."""

    width: int = Field(default=32, ge=1, le=4096)
    """Pixels."""

    resize: Literal["exact", "pad", "fit_pad", "center_crop", "stretch"] = "exact"
    """What happens to other sizes. `exact`: refused. `pad`: never scaled, larger ones refused. `fit_pad`: scaled
    to fit, then padded. `center_crop`: scaled to cover, then cut. `stretch`: scaled to the size."""

    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Resampling filter where `resize` scales."""

    @property
    def channels(self) -> int:
        """Number of channels: 3 or 1."""
        return 3 if self.color == "rgb" else 1


class SplitConfig(Config):
    """How rows are divided into train, val and test."""

    method: Literal["hash"] = "hash"
    """`hash`: a row's split follows from its id and the seed alone, so it keeps its split when data grows."""

    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows for validation."""

    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows for the test."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the split and of the order of rows in the shards."""


class LimitsConfig(Config):
    """Bounds on what is decoded; a row beyond one is refused with its reason."""

    max_bytes: int = Field(default=20_000_000, ge=1)
    """Largest encoded image, in bytes."""

    max_pixels: int = Field(default=50_000_000, ge=1)
    """Largest decoded image, in pixels (width x height)."""

    max_refused_share: float = Field(default=0.01, ge=0, le=1)
    """Largest share of the rows that may be refused before the job fails and publishes nothing."""


class ShardsConfig(Config):
    """The files of the prepared data set."""

    target_bytes: int = Field(default=64_000_000, ge=1)
    """Size of a shard before compression, in bytes; it sets the number of rows."""

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


@rule("source.kind", "source.uri")
def source_has_its_uri(kind: str, uri: str | None) -> Iterator[str]:
    """Each kind of source says whether it has a URI."""
    if kind == "digits" and uri is not None:
        yield f"digits come with scikit-learn and have no uri, but uri is {uri!r}; leave it out"


RULES = (shares_leave_training_rows, source_has_its_uri)
