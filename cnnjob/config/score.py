"""Every knob of ``cnnjob score``: which images, which model, the table of one date."""

import datetime as dt
import os
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cnnjob.config.base import TRACKING_RULES, Check, Config, TrackingConfig, Uri, no_passwords, rule
from cnnjob.config.prepare import Level, LimitsConfig

OWN_COLUMNS = ("id", "prediction", "confidence", "probabilities", "model_name", "model_version", "scored_at", "date")
"""What a table of scores calls its own."""

_NAME_BYTES = 255
"""Of a file or a folder on a local disk."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _as_written(date: object) -> object:
    """Only what is written as a date is one: pydantic would take a number for seconds since 1970."""
    is_date = isinstance(date, dt.date) and not isinstance(date, dt.datetime)
    if not is_date and not (isinstance(date, str) and _DATE.fullmatch(date)):
        raise ValueError("it should be YYYY-MM-DD")
    return date


class InputColumnsConfig(Config):
    """The columns of a manifest: a CSV or Parquet table with a row for each image."""

    id: str | None = Field(default=None, min_length=1)
    """Column with each row's unique name. Default: the column `id` where there is one, else the image's URI."""

    uri: str | None = Field(default=None, min_length=1)
    """Column with the path or URI of each image; a relative path starts at the folder that the table lies in or, where
    the table is a folder of Parquet files, at that folder. Default: `uri`."""

    image: str | None = Field(default=None, min_length=1)
    """Column with the encoded image files themselves, as bytes (Parquet only); instead of `uri`."""

    keys: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    """Further columns that are copied into the table of scores with their types, such as a customer's number."""


class InputConfig(Config):
    """The images to score."""

    kind: Literal["dataset", "folder", "manifest"]
    """`dataset`: a split of a prepared data set. `folder`: every file below a folder. `manifest`: a CSV or Parquet
    table of URIs, or Parquet with the encoded bytes inside."""

    uri: Uri
    """Path or URI of the input; `{date}` in it stands for the date that is scored, as YYYY-MM-DD."""

    split: Literal["train", "val", "test", "all"] | None = None
    """Which split of a prepared data set; `all`: all three. Needed for the kind `dataset`, and only there."""

    columns: InputColumnsConfig = Field(default_factory=InputColumnsConfig)


class ScoreImageConfig(Config):
    """How images of a folder or manifest are brought to the form that the model takes.

    A key that is not set is as it was when the model's data set was prepared.
    """

    resize: Literal["exact", "pad", "fit_pad", "center_crop", "stretch"] | None = None
    """What happens to other sizes; see `image.resize` of prepare."""

    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    """Resampling filter where `resize` scales."""

    background: tuple[Level, Level, Level] | None = Field(default=None, strict=False)
    """Red, green and blue, 0 to 255, of what transparent images are laid on."""


class UnitsConfig(Config):
    """The units of work: the rows that one process reads, scores and writes in one go."""

    target_rows: int | None = Field(default=None, ge=1, le=10**9)
    """Most rows in a unit. Default on CPUs: 16,384, and for the packed images of a data set up to 65,536, about as
    many as one core scores in a second or two; on GPUs 65,536. Towards the end of a job units get smaller, down to
    2,048 rows, so that all processes end together."""

    target_bytes: int = Field(default=256_000_000, ge=1, le=10**12)
    """Most bytes of image files in a unit, where their sizes are known; a larger image is a unit of its own. On GPUs
    it also bounds the decoded pixels of a unit."""


class EngineConfig(Config):
    """How the model is run: processes, threads, batches, GPUs."""

    num_processes: int | None = Field(default=None, ge=1, le=4096)
    """Upper limit on scoring processes. Default: one for every `threads_per_process` CPUs, growing with the cluster;
    with GPUs, one for each GPU present at the start."""

    threads_per_process: int = Field(default=1, ge=1, le=256)
    """Threads of ONNX Runtime in each process, and CPUs that Ray reserves for it."""

    batch_size_per_process: int | None = Field(default=None, ge=1, le=65_536)
    """Images in one call of the model. Default on CPUs: the largest power of two, from 4 to 64, with which the largest
    activation of the model stays within 1 MiB, which a core's cache holds; on GPUs: as many as fit its memory, up to
    4,096."""

    use_gpu: bool = False
    """Score on GPUs, one for each process. Images that have to be decoded are decoded on the CPUs that are left."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of convolutions and matrix products; `bf16` needs `use_gpu`. Probabilities are float32 either way."""


class ScoreConfig(Config):
    """A job that scores one date's images into a table of class probabilities."""

    input: InputConfig
    model: str = Field(pattern=r"^models:/[^@/]+(@[^@/]+|/[0-9]+)$")
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION` in the MLflow registry."""

    output: Uri
    """Root folder of the table. Only published files lie below it, as `date=YYYY-MM-DD/NAME.parquet`; manifests,
    receipts, the quarantine of refused rows and unfinished work lie beside it, in `OUTPUT.meta`."""

    date: (
        Annotated[dt.date, Field(strict=False), BeforeValidator(_as_written)] | Literal["today", "yesterday"] | None
    ) = None
    """The date that is scored: YYYY-MM-DD, `today` or `yesterday`; usually given on the command line (`--date`). Today
    is the day in `timezone` when the job starts."""

    timezone: str = "UTC"
    """Time zone in which `today` and `yesterday` are meant, as an IANA name such as `Europe/Berlin`."""

    mode: Literal["error", "skip", "replace"] = "replace"
    """What happens where the date has scores already, from other inputs or another model. `error`: the job fails.
    `skip`: they stay. `replace`: they are replaced once the new ones are complete."""

    probabilities: Literal["list", "columns"] = "list"
    """`list`: one column with a fixed-size list. `columns`: one column `p_CLASS` for each class."""

    image: ScoreImageConfig = Field(default_factory=ScoreImageConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    history: int = Field(default=10, ge=1, le=10_000)
    """How many versions of a date keep their manifest, quarantine and receipts, the published one included. The scores
    themselves are kept of the published version alone."""

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
    names = [key.casefold() for key in columns.keys]
    for key, name in zip(columns.keys, names, strict=True):
        is_odd = name.startswith(("_", "p_")) or key in (columns.id, columns.uri, columns.image)
        if name in OWN_COLUMNS:
            yield (
                f"{key!r} in keys is taken: a table of scores has a column {name} of its own, and DuckDB, Spark and "
                f"Hive do not tell upper from lower case. Give the input's column another name"
            )
        elif is_odd or names.count(name) > 1:
            yield (
                f"{key!r} in keys is taken: keys are further columns, each named once, whatever the case of its "
                f"letters, without a leading _ or p_"
            )


def _for_raw_images(key: str, section: type[Config]) -> Check:
    """The rule that ``key`` is for raw images: those of a prepared data set were checked and brought to their form."""
    name = key.rpartition(".")[2]

    @rule(key, "input.kind")
    def for_raw_images(value: object, kind: str) -> Iterator[str]:
        default = section.model_fields[name].get_default(call_default_factory=True)
        if kind == "dataset" and value != default:
            yield "the images of a prepared data set were checked and brought to their form already; leave it out"

    return for_raw_images


@rule("tracking.experiment")
def scoring_has_no_experiment(experiment: str) -> Iterator[str]:
    """Scoring reads a model from the registry; it makes no run that an experiment could hold."""
    if experiment != TrackingConfig.model_fields["experiment"].default:
        yield f"scoring makes no MLflow run, so {experiment!r} would do nothing; leave it out"


@rule("output")
def output_can_be_committed(output: str) -> Iterator[str]:
    """A version is committed by a file that exactly one writer creates."""
    if "://" in output and not output.startswith(("s3://", "file://")):
        yield f"{output.partition(':')[0]}:// cannot be published to; it should be a local path or s3://BUCKET/FOLDER"
    path = output.partition("?")[0].rstrip("/") if output.startswith("s3://") else output.rstrip("/")
    if output.startswith("s3://") and "/" not in path.removeprefix("s3://"):
        yield f"{output} is a whole bucket, and the log lies beside the table; it should be s3://BUCKET/FOLDER"
    if path.endswith(".meta"):
        yield f"{output} is where the table of that name without .meta keeps its log; choose another name"
    if "{date}" in output:
        yield (
            "{date} is for input.uri: the table is one for all dates, each in a folder date=YYYY-MM-DD of its own "
            "below output. Leave {date} out"
        )
    if "://" not in output and (long := _too_long(output)):
        yield (
            f"the name {long[:20]!r}... has {len(os.fsencode(long))} bytes, and a disk takes {_NAME_BYTES}, here with "
            f".meta behind the last one. Choose a shorter name"
        )


def _too_long(path: str) -> str:
    """The first name in a local path, or the log's beside it, that a disk does not take; empty where there is none."""
    *above, name = path.rstrip("/").split("/")
    return next((each for each in (*above, f"{name}.meta") if len(os.fsencode(each)) > _NAME_BYTES), "")


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


RULES: tuple[Check, ...] = (
    bf16_on_gpus,
    split_belongs_to_dataset,
    columns_belong_to_a_manifest,
    _for_raw_images("image", ScoreConfig),
    _for_raw_images("limits.max_bytes", LimitsConfig),
    _for_raw_images("limits.max_pixels", LimitsConfig),
    _for_raw_images("limits.formats", LimitsConfig),
    _for_raw_images("limits.max_refused_share", LimitsConfig),
    scoring_has_no_experiment,
    output_can_be_committed,
    timezone_is_known,
    *TRACKING_RULES,
    *no_passwords("input.uri", "output"),
)
