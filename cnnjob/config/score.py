"""Every knob of ``cnnjob score``: which images, which model, the table of one date."""

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cnnjob.config.base import Config, TrackingConfig, Uri, rule, tracking_has_no_password
from cnnjob.config.prepare import Level, LimitsConfig

OWN_COLUMNS = ("id", "prediction", "confidence", "probabilities", "model_name", "model_version", "scored_at", "date")
"""What a table of scores calls its own."""


class InputColumnsConfig(Config):
    """The columns of a manifest: a CSV or Parquet table with a row for each image."""

    id: str | None = Field(default=None, min_length=1)
    """Unique name of a row; by default the column `id` where there is one, else the URI."""

    uri: str | None = Field(default=None, min_length=1)
    """Path or URI of the image, a relative one below the manifest's folder; by default the column `uri`."""

    image: str | None = Field(default=None, min_length=1)
    """The encoded image itself, as bytes (Parquet only); instead of `uri`."""

    keys: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    """Columns that are carried into the table with their types, such as a customer's number."""


class InputConfig(Config):
    """The images to score."""

    kind: Literal["dataset", "folder", "manifest"]
    """`dataset`: a split of a prepared data set. `folder`: every file below a folder. `manifest`: a CSV or Parquet
    table of URIs, or Parquet with the encoded bytes inside."""

    uri: Uri
    """Path or URI of the input; `{date}` in it stands for the date that is scored, as YYYY-MM-DD."""

    split: Literal["train", "val", "test", "all"] | None = None
    """Which split of a prepared data set; `all` takes the three."""

    columns: InputColumnsConfig = Field(default_factory=InputColumnsConfig)


class ScoreImageConfig(Config):
    """How raw images are brought to the model's form: by default as its data set was prepared."""

    resize: Literal["exact", "pad", "fit_pad", "center_crop", "stretch"] | None = None
    """What happens to other sizes; see `image.resize` of prepare."""

    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    """Resampling filter where `resize` scales."""

    background: tuple[Level, Level, Level] | None = Field(default=None, strict=False)
    """Red, green and blue, 0 to 255, that shine through where an image is transparent."""


class UnitsConfig(Config):
    """The work units: what one call reads, scores and writes."""

    target_rows: int | None = Field(default=None, ge=1)
    """Rows in a unit, at most; towards the end of a job they have fewer, down to 2,048, so that all processes end
    together. By default as many packed images as a core scores in a second or two, 16,384 to 65,536, or 65,536 on a
    GPU; 16,384 that are decoded."""

    target_bytes: int = Field(default=256_000_000, ge=1)
    """Encoded bytes in a unit, at most, where sizes are known; a larger image is a unit of its own."""


class EngineConfig(Config):
    """The arithmetic."""

    num_processes: int | None = Field(default=None, ge=1, le=4096)
    """Scoring processes, never more; by default as many as the CPUs allow, also those of a cluster that grows, or as
    there are GPUs when the job starts."""

    threads_per_process: int = Field(default=1, ge=1, le=256)
    """Threads of ONNX Runtime in each process; each reserves as many CPUs."""

    batch_size_per_process: int | None = Field(default=None, ge=1, le=65_536)
    """Images in one call of the net; by default as many as keep its largest map within 1 MiB, a core's own cache, 4
    to 64, or as a GPU's memory bears."""

    use_gpu: bool = False
    """A GPU for each process. Images that have to be decoded are, by all CPUs beside the processes."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of convolutions and products, on GPUs; probabilities are float32. On CPUs it is fp32."""


class ScoreConfig(Config):
    """A job that scores one date's images into a table of class probabilities."""

    input: InputConfig
    model: str = Field(pattern=r"^models:/[^@/]+(@[^@/]+|/[0-9]+)$")
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION` in the MLflow registry."""

    output: Uri
    """Root of the table. Only committed parts lie below it, as `date=YYYY-MM-DD/NAME.parquet`; manifests,
    receipts and quarantine lie in `OUTPUT.meta`."""

    date: Annotated[dt.date, Field(strict=False)] | Literal["today", "yesterday"] | None = None
    """The date that is scored, YYYY-MM-DD, usually given on the command line; or `today` or `yesterday` in `timezone`,
    as the clock has it when the job starts."""

    timezone: str = "UTC"
    """IANA name of the time zone whose days the dates are, such as `Europe/Berlin`."""

    mode: Literal["error", "skip", "replace"] = "replace"
    """Where the date has scores from other inputs or another model: fail, leave them, or replace them."""

    probabilities: Literal["list", "columns"] = "list"
    """One fixed-size list, or one column `p_CLASS` for each class."""

    image: ScoreImageConfig = Field(default_factory=ScoreImageConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    history: int = Field(default=10, ge=1, le=10_000)
    """Versions of a date whose manifest, quarantine and receipts are kept, with the one that is published."""

    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


@rule("input.kind", "input.split")
def split_belongs_to_dataset(kind: str, split: str | None) -> Iterator[str]:
    """A prepared data set is scored by split, and nothing else is."""
    if kind == "dataset" and split is None:
        yield "a prepared data set needs input.split: train, val, test or all"
    if kind != "dataset" and split is not None:
        yield f"input.split is {split}, and only a prepared data set has splits; leave it out"


@rule("input.columns", "input.kind")
def columns_belong_to_a_manifest(columns: InputColumnsConfig, kind: str) -> Iterator[str]:
    """A manifest says where an image is, once; other inputs have no columns."""
    if kind != "manifest" and columns != InputColumnsConfig():
        yield f"only a manifest has columns, and the kind is {kind}; leave them out"
    if columns.uri is not None and columns.image is not None:
        yield "either uri or image should name the column that the images come from; both are given"
    for key in columns.keys:
        taken = key in OWN_COLUMNS or key.startswith(("_", "p_"))
        if taken or columns.keys.count(key) > 1 or key in (columns.id, columns.uri, columns.image):
            yield f"{key!r} in keys is taken: keys are further columns, each named once, without a leading _ or p_"


@rule("image", "input.kind")
def packed_images_have_their_form(image: ScoreImageConfig, kind: str) -> Iterator[str]:
    """A prepared data set's images are in their form already."""
    if kind == "dataset" and image != ScoreImageConfig():
        yield "the images of a prepared data set are in their form already; leave image out"


@rule("output")
def output_can_be_committed(output: str) -> Iterator[str]:
    """A version is committed by a file that exactly one writer creates."""
    if "://" in output and not output.startswith(("s3://", "file://")):
        yield f"{output!r} cannot be published to; it should be a local path or s3://BUCKET/FOLDER"


@rule("timezone")
def timezone_is_known(timezone: str) -> Iterator[str]:
    """The time zone is one of IANA's."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        yield f"{timezone!r} is no time zone; it should be an IANA name such as UTC or Europe/Berlin"


@rule("engine.precision", "engine.use_gpu")
def bf16_on_gpus(precision: str, use_gpu: bool) -> Iterator[str]:  # noqa: FBT001 - named as the keys
    """bfloat16 is for GPUs."""
    if precision == "bf16" and not use_gpu:
        yield "scoring in bf16 is for GPUs; leave it out, or set engine.use_gpu: true"


RULES = (
    bf16_on_gpus,
    split_belongs_to_dataset,
    columns_belong_to_a_manifest,
    packed_images_have_their_form,
    output_can_be_committed,
    timezone_is_known,
    tracking_has_no_password,
)
