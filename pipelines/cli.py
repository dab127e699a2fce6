"""The command line. It parses, loads the config, calls one job, prints its result; nothing else.

Everything heavy is imported inside the commands, so that ``--help`` and ``check`` answer at once.
"""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

# Looking for pydantic's plugins reads the metadata of every installed package: a tenth of the time to an answer.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import typer

from cnnjob.errors import UserError
from pipelines import cli_cluster
from pipelines.command import (
    Conf,
    Date,
    Debug,
    First,
    JobKind,
    Json,
    Last,
    Sets,
    Tracking,
    date_of,
    run_command,
    tracking_of,
    with_date,
)
from pipelines.console import Console

app = typer.Typer(
    name="cnnjob",
    help="Train image classifiers on a Ray cluster, compare runs in MLflow, score images into Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


DemoSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="JOB.KEY=VALUE",
        help="Override a key of a job's conf; it begins with prepare., train. or score., such as train.num_epochs=3. "
        "Repeatable.",
    ),
]
PNG = Path("feature_maps.png")
Confs = Annotated[list[Path], typer.Argument(metavar="CONF", help="YAML files.", show_default=False)]


class SchemaKind(StrEnum):
    """The kinds of config."""

    PREPARE = "prepare"
    TRAIN = "train"
    SCORE = "score"
    NIGHTLY = "nightly"
    CLUSTER = "cluster"


app.add_typer(cli_cluster.app)

_SIGNALS = 128
"""An exit code above it is that of a command that a signal has ended."""

_USAGE_ERROR: Any = typer.BadParameter.__base__
"""What a call with wrong options or arguments raises; typer names only this kind of it."""


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"cnnjob {installed('cnnjob')}")
        raise typer.Exit


@app.command()
def prepare(conf: Conf, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Turn a pile of images into a prepared data set: uint8, split, counted, sharded."""
    run_command(_job(JobKind.PREPARE, conf, sets or ()), as_json=json, debug=debug)


@app.command()
def train(conf: Conf, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Train a classifier with DDP on all workers, evaluate it, register it in MLflow."""
    run_command(_job(JobKind.TRAIN, conf, sets or ()), as_json=json, debug=debug)


@app.command()
def score(
    conf: Conf,
    date: Date = None,
    first: First = None,
    last: Last = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score one date's images, or the dates of a range that are missing, into a committed Parquet table."""

    def missing(console: Console) -> object:
        if first is None or last is None or date is not None:
            raise UserError("--from and --to go together, and without --date: they name the first and the last date")
        if any(override.partition("=")[0] == "date" for override in sets or ()):
            raise UserError(
                "--set date names one date, --from and --to name those of a range: leave one of the two out"
            )
        from cnnjob.config import kinds

        config = kinds.load("score", conf, sets or ())
        from pipelines import score as score_job

        result = score_job.run_range(config, first, last, console)
        score_job.show(result, console)
        if result.failed:
            console.result(result)
            raise typer.Exit(1)
        return result

    job = _job(JobKind.SCORE, conf, sets or (), date)
    run_command(job if first is None and last is None else missing, as_json=json, debug=debug)


@app.command()
def nightly(conf: Conf, date: Date = None, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Score one date, then compare it with the training data; exit 1 if it drifted."""
    scoring = _job(JobKind.NIGHTLY, conf, sets or (), date)

    def job(console: Console) -> object:
        result = scoring(console)
        if not result.within_bounds:
            console.result(result)
            raise typer.Exit(1)
        return result

    run_command(job, as_json=json, debug=debug)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="Name of the registered model.")],
    version: Annotated[str | None, typer.Option(help="Its version; by default the newest.")] = None,
    alias: Annotated[str, typer.Option(help="The alias to point at it.")] = "champion",
    tracking: Tracking = "tracking",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Point an alias of a registered model at a version."""

    def job(console: Console) -> object:
        from pipelines import promote as promote_job

        result = promote_job.run(tracking_of(tracking), model, version, alias)
        promote_job.show(result, console)
        return result

    run_command(job, as_json=json, debug=debug)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where everything is written.")] = Path("cnnjob-demo"),
    date: Date = None,
    sets: DemoSets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the whole line on real images: prepare, train, promote, score."""

    def job(console: Console) -> object:
        from pipelines import demo as demo_job

        result = demo_job.run(folder.absolute(), None if date is None else date_of(date), console, sets or ())
        demo_job.show(result, console)
        return result

    run_command(job, as_json=json, debug=debug)


@app.command()
def trace(
    conf: Annotated[Path | None, typer.Option("--config", help="Take the net from a train conf.")] = None,
    preset: Annotated[str | None, typer.Option(help="Take a preset: default, simple, net or cnn64.")] = None,
    model: Annotated[str | None, typer.Option(help="Take a registered model, such as models:/NAME@champion.")] = None,
    tracking: Tracking = "tracking",
    shape: Annotated[str | None, typer.Option(help="Channels x height x width of an image.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    image: Annotated[str | None, typer.Option(help="Run one picture, and show what each layer makes of it.")] = None,
    png: Annotated[
        Path | None, typer.Option(help="Where the picture's maps are drawn. Default: feature_maps.png.")
    ] = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a net stage by stage: shapes, parameters, work; with --image, a picture on its way through it."""

    def job(console: Console) -> object:
        from pipelines import trace as trace_job

        if sum(given is not None for given in (conf, preset, model)) > 1:
            raise UserError("--config, --preset and --model each name a net; give one of them")
        if sets and conf is None:
            raise UserError("--set overrides keys of a train conf; give the conf with --config")
        if png is not None and image is None:
            raise UserError("--png is where the picture of --image is drawn; give --image")
        if model is not None:
            if shape is not None or classes is not None:
                raise UserError("a registered model has its own shape and classes; leave --shape and --classes out")
            net, bundle = trace_job.of_model(model, tracking_of(tracking))
        else:
            net, bundle = _net(conf, preset, sets or (), shape, classes), None
        result = trace_job.run(net, image=image, bundle=bundle, png=png or PNG, console=console)
        trace_job.show(result, console)
        return result

    run_command(job, as_json=json, debug=debug)


def _net(conf: Path | None, preset: str | None, sets: Sequence[str], shape: str | None, classes: int | None) -> Any:
    """The net of a conf or a preset, on images as given, else as the preset is usually drawn with."""
    from cnnjob.config import kinds
    from cnnjob.config.load import load_config
    from cnnjob.config.train import ModelConfig
    from cnnjob.models.presets import PRESETS, net_for

    if conf:
        model = kinds.load("train", conf, sets).model
    else:
        model = load_config(ModelConfig, {"preset": preset or "default"}, where="--preset")
    usual = PRESETS[model.preset or "default"]
    num_classes = usual.num_classes if classes is None else classes
    return net_for(model, usual.shape if shape is None else _shape(shape), num_classes)


@app.command()
def check(
    confs: Confs,
    kind: Annotated[
        SchemaKind | None,
        typer.Option(help="What the files are. Default: the name of a file's folder, else what its keys fit."),
    ] = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check confs without touching a cluster, and report all mistakes of all files."""

    def job(console: Console) -> object:
        from cnnjob.config import kinds

        problems, valid = [], []
        for conf in confs:
            try:
                name = kind.value if kind else kinds.kind_of(conf)
                kinds.load(name, conf, sets or ())
                valid.append({"conf": str(conf), "kind": name})
                console.say(f"{conf}: valid {name} config")
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        return {"valid": valid}

    run_command(job, as_json=json, debug=debug)


@app.command()
def schema(
    kind: Annotated[SchemaKind, typer.Argument(help="Which config.", show_default=False)],
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print a conf with every key, its default and what it means, for people.")
    ] = False,
) -> None:
    """Print the JSON Schema of a config, for editors; or, with --yaml, all of its keys for people."""
    import json

    from cnnjob.config import kinds

    model = kinds.kind(kind.value).model
    if as_yaml:
        from cnnjob.config.template import template

        typer.echo(template(model), nl=False)
    else:
        typer.echo(json.dumps(model.model_json_schema(), indent=1))


def main() -> None:
    """The console script."""
    # An import makes objects that stay: looking through them as often as by default takes a tenth of its time.
    gc.set_threshold(50_000)
    try:
        sys.exit(_exit_code())
    except SystemExit as ended:
        if not isinstance(ended.code, int) or ended.code <= _SIGNALS:
            raise
        # Ray has been closed; the end of an interpreter that was interrupted may still crash in native code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code)
    finally:
        # What MLflow has loaded is looked through object by object at exit otherwise, for half a second and more.
        gc.freeze()


def _exit_code() -> int:
    """Run the command line. How it is called wrongly is told as all else is: a script finds one object."""
    try:
        code = app(standalone_mode=False)
    except _USAGE_ERROR as error:
        error.show()
        if "--json" in sys.argv:
            import json

            told = {"error": "UsageError", "message": error.format_message(), "exit_code": error.exit_code}
            typer.echo(json.dumps(told, ensure_ascii=False))
        return int(error.exit_code)
    return code if isinstance(code, int) else 0


def _job(kind: JobKind, conf: Path, overrides: Sequence[str], date: str | None = None) -> Callable[[Console], Any]:
    """A job that loads its config first, so that a mistake is told before anything heavy is imported."""

    def job(console: Console) -> Any:
        from cnnjob.config import kinds

        config = kinds.load(kind.value, conf, with_date(kind, overrides, date))
        module = _module(kind)
        result = module.run(config, console)
        module.show(result, console)
        return result

    return job


def _module(kind: JobKind) -> Any:
    match kind:
        case JobKind.PREPARE:
            from pipelines import prepare

            return prepare
        case JobKind.TRAIN:
            from pipelines import train

            return train
        case JobKind.SCORE:
            from pipelines import score

            return score
        case JobKind.NIGHTLY:
            from pipelines import nightly

            return nightly


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):  # noqa: PLR2004 - C, H, W
        raise UserError(f"--shape {text!r} should be CHANNELSxHEIGHTxWIDTH, such as 3x32x32")
    return cast("tuple[int, int, int]", tuple(int(part) for part in parts))
