"""The command line. It parses, loads the config, calls one job, prints its result; nothing else.

Everything heavy is imported inside the commands, so that ``--help`` and ``check`` answer at once.
"""

import datetime as dt
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn, cast

# Looking for pydantic's plugins reads the metadata of every installed package: a tenth of the time to an answer.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import typer

from cnnjob.errors import CnnjobError, JobError, UserError
from pipelines.console import Console, guarded_stdout

app = typer.Typer(
    name="cnnjob",
    help="Train image classifiers on a Ray cluster, compare runs in MLflow, score images into Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Conf = Annotated[Path, typer.Argument(metavar="CONF", help="The YAML file of the job.", show_default=False)]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print one result object; all else goes to standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Date = Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="The date that is scored.")]
Tracking = Annotated[str, typer.Option("--tracking", envvar="MLFLOW_TRACKING_URI", help="Folder or MLflow URI.")]
Address = Annotated[str, typer.Option("--address", help="URL of the cluster's dashboard and jobs API.")]
State = Annotated[str, typer.Option("--state", help="Folder with the token of the local head.")]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
DEFAULT_STATE = "~/.cnnjob"


class JobKind(StrEnum):
    """What can be submitted."""

    PREPARE = "prepare"
    TRAIN = "train"
    SCORE = "score"
    NIGHTLY = "nightly"


class SchemaKind(StrEnum):
    """What has a JSON Schema."""

    PREPARE = "prepare"
    TRAIN = "train"
    SCORE = "score"
    NIGHTLY = "nightly"
    CLUSTER = "cluster"


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"cnnjob {installed('cnnjob')}")
        raise typer.Exit


@app.command()
def prepare(conf: Conf, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Turn a pile of images into a prepared data set: uint8, split, counted, sharded."""

    def job(console: Console) -> object:
        from cnnjob.config import kinds
        from pipelines import prepare as job

        result = job.run(kinds.load("prepare", conf, sets or ()), console)
        job.show(result, console)
        return result

    _run(job, as_json=json, debug=debug)


@app.command()
def train(conf: Conf, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Train a classifier with DDP on all workers, evaluate it, register it in MLflow."""

    def job(console: Console) -> object:
        from cnnjob.config import kinds

        config = kinds.load("train", conf, sets or ())
        from pipelines import train as job

        result = job.run(config, console)
        job.show(result, console)
        return result

    _run(job, as_json=json, debug=debug)


@app.command()
def score(conf: Conf, date: Date = None, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Score one date's images into a committed Parquet table of class probabilities."""

    def job(console: Console) -> object:
        from cnnjob.config import kinds

        config = kinds.load("score", conf, [*(sets or ()), *([f"date={date}"] if date else [])])
        from pipelines import score as job

        result = job.run(config, console)
        job.show(result, console)
        return result

    _run(job, as_json=json, debug=debug)


@app.command()
def nightly(conf: Conf, date: Date = None, sets: Sets = None, json: Json = False, debug: Debug = False) -> None:
    """Score one date, then compare it with the training data; exit 1 if it drifted."""

    def job(console: Console) -> object:
        from cnnjob.config import kinds

        config = kinds.load("nightly", conf, [*(sets or ()), *([f"score.date={date}"] if date else [])])
        from pipelines import nightly as job

        result = job.run(config, console)
        job.show(result, console)
        if not result.within_bounds:
            console.result(result)
            raise typer.Exit(1)
        return result

    _run(job, as_json=json, debug=debug)


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
        from cnnjob.config.base import absolute
        from pipelines import promote as job

        result = job.run(absolute(tracking), model, version, alias)
        job.show(result, console)
        return result

    _run(job, as_json=json, debug=debug)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where everything is written.")] = Path("cnnjob-demo"),
    date: Date = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the whole line on real images: prepare, train, promote, score."""

    def job(console: Console) -> object:
        day = _date(date)
        from pipelines import demo as job

        result = job.run(folder.absolute(), day, console)
        job.show(result, console)
        return result

    _run(job, as_json=json, debug=debug)


@app.command()
def trace(
    conf: Annotated[Path | None, typer.Option("--config", help="Take the net from a train conf.")] = None,
    preset: Annotated[str, typer.Option(help="Take a preset.")] = "default",
    shape: Annotated[str, typer.Option(help="Channels x height x width of an image.")] = "3x32x32",
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 10,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a net stage by stage: shapes, parameters, work."""

    def job(console: Console) -> object:
        from cnnjob.config import kinds
        from cnnjob.config.load import load_config
        from cnnjob.config.train import ModelConfig
        from pipelines import trace as job

        model = (
            kinds.load("train", conf).model if conf else load_config(ModelConfig, {"preset": preset}, where="--preset")
        )
        result = job.run(model, _shape(shape), classes)
        job.show(result, console)
        return result

    _run(job, as_json=json, debug=debug)


@app.command()
def check(
    confs: Annotated[list[Path], typer.Argument(metavar="CONF...", help="YAML files.", show_default=False)],
    kind: Annotated[SchemaKind | None, typer.Option(help="What they are; by default told by folder or keys.")] = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check confs without touching a cluster; all mistakes of all files are reported."""

    def job(console: Console) -> object:
        from cnnjob.config import kinds

        problems, found = [], []
        for conf in confs:
            try:
                name = kind.value if kind else kinds.kind_of(conf)
                kinds.load(name, conf, sets or ())
                found.append({"conf": str(conf), "kind": name})
                console.say(f"{conf}: a {name} config, sound")
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        return {"sound": found}

    _run(job, as_json=json, debug=debug)


@app.command()
def schema(kind: Annotated[SchemaKind, typer.Argument(help="Which config.")]) -> None:
    """Print the JSON Schema of a config, for editors."""
    import json

    from cnnjob.config import kinds

    document = kinds.kind(kind.value).model.model_json_schema()
    typer.echo(json.dumps(document, indent=1))


@app.command()
def up(
    conf: Annotated[Path | None, typer.Option("--config", help="A cluster conf.")] = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Start a Ray head on this machine: loopback, token authentication on."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.up(conf, sets or (), console)

    _run(job, as_json=json, debug=debug)


@app.command()
def down(state: State = DEFAULT_STATE, json: Json = False, debug: Debug = False) -> None:
    """Stop the head that `cnnjob up` started."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.down(state, console)

    _run(job, as_json=json, debug=debug)


@app.command()
def submit(
    kind: Annotated[JobKind, typer.Argument(help="The job.")],
    conf: Conf,
    address: Address = DEFAULT_ADDRESS,
    sets: Sets = None,
    date: Date = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the log; end with the job's exit code.")] = False,
    state: State = DEFAULT_STATE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Submit a job to a Ray cluster through its jobs API."""

    def job(console: Console) -> object:
        from pipelines import jobs

        key = "score.date" if kind is JobKind.NIGHTLY else "date"
        overrides = [*(sets or ()), *([f"{key}={date}"] if date else [])]
        result = jobs.submit(kind.value, conf, overrides, address, state, console, wait=follow)
        if result.exit_code:
            console.result(result)
            raise typer.Exit(result.exit_code)
        return result

    _run(job, as_json=json, debug=debug)


@app.command(name="jobs")
def list_jobs(
    address: Address = DEFAULT_ADDRESS, state: State = DEFAULT_STATE, json: Json = False, debug: Debug = False
) -> None:
    """List the jobs of a cluster."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.listing(address, state, console)

    _run(job, as_json=json, debug=debug)


@app.command()
def logs(job_id: str, address: Address = DEFAULT_ADDRESS, state: State = DEFAULT_STATE, debug: Debug = False) -> None:
    """Show the log of a submitted job."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.logs(job_id, address, state, console)

    _run(job, as_json=False, debug=debug)


@app.command()
def stop(
    job_id: str,
    address: Address = DEFAULT_ADDRESS,
    state: State = DEFAULT_STATE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Stop a submitted job."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.stop(job_id, address, state, console)

    _run(job, as_json=json, debug=debug)


def main() -> None:
    """The console script."""
    app()


def _run(job: Callable[[Console], object], *, as_json: bool, debug: bool) -> None:
    """Call a job with a console; print its result, or its error, and exit."""
    with guarded_stdout() as out:
        console = Console(as_json=as_json, out=out, err=sys.stderr)
        try:
            console.result(job(console))
        except CnnjobError as error:
            console.close()
            if debug:
                raise
            _fail(error, console)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            console.close()
            if debug:
                raise
            _fail(JobError(f"{type(error).__name__}: {error}. With --debug you see where it happened."), console)
        except KeyboardInterrupt:
            console.close()
            console.note("Interrupted. Run the same command again to go on.")
            sys.exit(130)
        finally:
            console.close()


def _fail(error: CnnjobError, console: Console) -> NoReturn:
    console.note(f"Error: {error}")
    console.result({"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
    sys.exit(error.exit_code)


def _date(text: str | None) -> dt.date:
    try:
        return dt.date.fromisoformat(text) if text else dt.datetime.now().astimezone().date()
    except ValueError as error:
        raise UserError(f"--date {text!r} is no date; it should be YYYY-MM-DD, such as 2026-01-31") from error


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):  # noqa: PLR2004 - C, H, W
        raise UserError(f"--shape {text!r} should be CHANNELSxHEIGHTxWIDTH, such as 3x32x32")
    return cast("tuple[int, int, int]", tuple(int(part) for part in parts))
