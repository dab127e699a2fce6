"""What every command shares: its options, and how it runs a job, prints its result or its error, and exits."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cnnjob import interrupt
from cnnjob.errors import CnnjobError, JobError, UserError
from pipelines.console import Console, guarded_stdout

Conf = Annotated[Path, typer.Argument(metavar="CONF", help="The YAML file of the job.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the conf; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one result object; all else goes to standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Date = Annotated[
    str | None,
    typer.Option(
        "--date", metavar="YYYY-MM-DD", help="The date to score, or today or yesterday in the conf's timezone."
    ),
]
First = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="YYYY-MM-DD", help="First date of a range whose missing dates are scored; with --to."
    ),
]
Last = Annotated[
    str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Last date of the range, included; with --from.")
]
Tracking = Annotated[
    str,
    typer.Option(
        "--tracking", metavar="URI", help="Where MLflow is: a folder or a URI, as tracking.uri of the train conf."
    ),
]
Address = Annotated[
    str, typer.Option("--address", metavar="ADDRESS", help="URL of the cluster's dashboard and jobs API.")
]
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id, as `cnnjob jobs` lists it.", show_default=False)
]
State = Annotated[str, typer.Option("--state", metavar="FOLDER", help="Folder with the token of the local head.")]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
DEFAULT_STATE = "~/.cnnjob"

GO_ON = "What is finished is kept; run the same command again to go on."
"""What follows where a signal ends a command; a job that knows better notes it on the exception."""


class JobKind(StrEnum):
    """What can be submitted."""

    PREPARE = "prepare"
    TRAIN = "train"
    SCORE = "score"
    NIGHTLY = "nightly"


def run_command(job: Callable[[Console], object], *, as_json: bool, debug: bool) -> None:
    """Call a job with a console; print its result, or its error, and exit."""
    interrupt.install()
    with guarded_stdout() as out:
        console = Console(as_json=as_json, out=out, err=sys.stderr)
        try:
            _check_begun(as_json=as_json)
            console.result(job(console))
            _check_told(console)
        except CnnjobError as error:
            console.close()
            _fail(error, console, debug=debug)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - told by its kind, and with --debug by its place
            console.close()
            told = JobError(f"{type(error).__name__}: {error}. With --debug you see where it happened.")
            _fail(told, console, debug=debug)
        except (KeyboardInterrupt, interrupt.EndedBySignalError) as ended:
            console.close()
            _ended(interrupt.received() or signal.SIGINT, getattr(ended, "__notes__", [GO_ON]), console)
        finally:
            console.close()


def _check_begun(*, as_json: bool) -> None:
    """Raises before the work where its result could not be told, or where relative paths would mean nothing."""
    try:
        os.getcwd().encode()  # noqa: PTH109 - it is the call that fails
    except (OSError, UnicodeEncodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "its name is no UTF-8, in which paths are written down"
        raise UserError(
            f"the folder that this command was started in cannot be used: {why}. Change to another one."
        ) from error
    if as_json and sys.__stdout__ is None:
        raise JobError(
            "--json prints the result on standard output, and that is closed; nothing was done. "
            "Open it, or leave --json out."
        )


def _check_told(console: Console) -> None:
    """Raises after the work where some of its result could not be told."""
    if console.lost is not None:
        raise JobError(
            f"standard output cannot be written to: {console.lost.strerror}. The work is done, and its result could "
            f"not be printed whole; run the same command again where it can."
        )


def _fail(error: CnnjobError, console: Console, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    console.note(f"Error: {error}")
    console.result({"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
    sys.exit(error.exit_code)


def _ended(by: signal.Signals, then: Sequence[str], console: Console) -> NoReturn:
    told = " ".join([f"Ended by {by.name}.", *then])
    console.note(told)
    console.result({"error": "EndedBySignalError", "message": told, "exit_code": 128 + by})
    sys.exit(128 + by)


def with_date(kind: JobKind, sets: Sequence[str] | None, date: str | None) -> list[str]:
    """The overrides with ``--date`` among them, as the key it stands for.

    Raises:
        UserError: It is no date.
    """
    key = "score.date" if kind is JobKind.NIGHTLY else "date"
    return [*(sets or ()), *([] if date is None else [f"{key}={date_of(date)}"])]


def date_of(text: str) -> str:
    """``--date`` as it was given.

    As the value of an override a wrong one would be told as a mistake of ``--set``, and a number would be a date.

    Raises:
        UserError: It is no date.
    """
    from cnnjob.scoring.dates import parse

    if text in ("today", "yesterday"):
        return text
    try:
        return parse(text, "--date").isoformat()
    except UserError as error:
        raise UserError(f"{error}; or today, or yesterday") from error


def tracking_of(text: str) -> str:
    """``--tracking`` as ``tracking.uri`` of a conf.

    Raises:
        UserError: It is no path or URI.
    """
    return place_of("--tracking", text, "a folder or a URI, as in the train conf")


def state_of(text: str) -> str:
    """``--state`` as ``state`` of a cluster conf.

    Raises:
        UserError: It is no folder of this machine.
    """
    wanted = "a folder of this machine"
    place = place_of("--state", text, wanted)
    if "://" in place:
        raise UserError(f"--state {text} is a URI. Give {wanted}.")
    return place


def place_of(option: str, text: str, wanted: str) -> str:
    """What an option says of a place, as a conf has it: absolute, with ~ expanded.

    Raises:
        UserError: It is no path or URI; the message names the option and what is wanted.
    """
    from cnnjob.config.base import absolute

    try:
        return absolute(text)
    except ValueError as error:
        raise UserError(f"{f'{option} {text}'.strip()}: {error}. Give {wanted}.") from error
