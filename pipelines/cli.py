"""The command line. It parses, loads the config, calls one job, prints its result; nothing else.

Everything heavy is imported inside the commands, so that ``--help`` and ``check`` answer at once.
"""

import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any

# Looking for pydantic's plugins reads the metadata of every installed package: a tenth of the time to an answer.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import typer

from cnnjob.errors import UserError
from pipelines import cli_cluster, cli_look
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
from pipelines.console import Console, open_closed_streams, write

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


app.add_typer(cli_look.app)
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
    """Turn a pile of images into a prepared data set.

    It is uint8, split, counted and sharded, and its manifest says what is in it.
    """
    run_command(_job(JobKind.PREPARE, conf, sets or ()), as_json=json, debug=debug)


@app.command()
def train(conf: Conf, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Train a classifier and register it in MLflow.

    DDP on all workers; the weights of the best validation epoch are evaluated on the test split, exported and checked.
    """
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
    """Score a date's images into a table of Parquet files.

    With --from and --to the dates of a range that have no scores yet. A date is published whole, or not at all.
    """

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
    """Score a date and compare it with the training data.

    The exit code is 1 where it drifted.
    """
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
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the registered model.", show_default=False)],
    version: Annotated[str | None, typer.Option(metavar="VERSION", help="Its version; by default the newest.")] = None,
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="The alias to point at it.")] = "champion",
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
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where everything is written.")] = Path(
        "cnnjob-demo"
    ),
    date: Date = None,
    sets: DemoSets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the whole line on the handwritten digits.

    They come with scikit-learn: prepare, train, promote, score, with the shipped confs and no network.
    """

    def job(console: Console) -> object:
        from pipelines import demo as demo_job

        result = demo_job.run(folder.absolute(), None if date is None else date_of(date), console, sets or ())
        demo_job.show(result, console)
        return result

    run_command(job, as_json=json, debug=debug)


def main() -> None:
    """The console script."""
    # An import makes objects that stay: looking through them as often as by default takes a tenth of its time.
    gc.set_threshold(50_000)
    open_closed_streams()
    try:
        sys.exit(_exit_code())
    except SystemExit as ended:
        if not isinstance(ended.code, int) or ended.code <= _SIGNALS:
            raise
        # Ray has been closed; the end of an interpreter that was interrupted may still crash in native code.
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(ended.code)
    finally:
        # What MLflow has loaded is looked through object by object at exit otherwise, for half a second and more.
        gc.freeze()


def _exit_code() -> int:
    """Run the command line, and print what is no job's result: help, and the version."""
    with redirect_stdout(io.StringIO()) as told:
        code = _called()
    lost = write(sys.stdout, told.getvalue())
    if lost is None:
        return code
    write(sys.stderr, f"Error: standard output cannot be written to: {lost.strerror}.\n")
    return code or 1


def _called() -> int:
    """Call the command. How it is called wrongly is told as all else is: a script finds one object."""
    try:
        code = app(standalone_mode=False)
    except _USAGE_ERROR as error:
        # So pydantic, which typer reads values with, begins what the value itself says.
        error.message = error.message.removeprefix("Value error, ")
        usage = io.StringIO()
        error.show(usage)
        write(sys.stderr, usage.getvalue())
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
