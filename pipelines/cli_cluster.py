"""The commands about clusters: a local head, and jobs on any cluster. Added to the command line by ``cli``."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.command import (
    DEFAULT_ADDRESS,
    DEFAULT_STATE,
    Address,
    Conf,
    Date,
    Debug,
    JobId,
    JobKind,
    Json,
    Sets,
    State,
    run_command,
    state_of,
    with_date,
)
from pipelines.console import Console

app = typer.Typer()


@app.command()
def up(
    conf: Annotated[Path | None, typer.Option("--config", metavar="CONF", help="A cluster conf.")] = None,
    sets: Sets = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Start a Ray head on this machine.

    Its dashboard and jobs API listen on loopback, and it asks for a token.
    """

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.up(conf, sets or (), console)

    run_command(job, as_json=json, debug=debug)


@app.command()
def down(state: State = DEFAULT_STATE, json: Json = False, debug: Debug = False) -> None:
    """Stop the head that `cnnjob up` started."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.down(state_of(state), console)

    run_command(job, as_json=json, debug=debug)


@app.command()
def submit(
    kind: Annotated[JobKind, typer.Argument(metavar="KIND", help="The job.", show_default=False)],
    conf: Conf,
    address: Address = DEFAULT_ADDRESS,
    sets: Sets = None,
    date: Date = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the log; end with the job's exit code.")] = False,
    state: State = DEFAULT_STATE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Submit a job to a Ray cluster.

    Through its jobs API: cnnjob's own code and the conf are sent along.
    """

    def job(console: Console) -> object:
        from pipelines import jobs

        result = jobs.submit(
            kind.value, conf, with_date(kind, sets, date), address, state_of(state), console, wait=follow
        )
        if result.exit_code:
            console.result(result)
            raise typer.Exit(result.exit_code)
        return result

    run_command(job, as_json=json, debug=debug)


@app.command(name="jobs")
def list_jobs(
    address: Address = DEFAULT_ADDRESS, state: State = DEFAULT_STATE, json: Json = False, debug: Debug = False
) -> None:
    """List the jobs of a cluster."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.listing(address, state_of(state), console)

    run_command(job, as_json=json, debug=debug)


@app.command()
def logs(
    job_id: JobId,
    address: Address = DEFAULT_ADDRESS,
    state: State = DEFAULT_STATE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the log of a submitted job."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.logs(job_id, address, state_of(state), console)

    run_command(job, as_json=json, debug=debug)


@app.command()
def stop(
    job_id: JobId,
    address: Address = DEFAULT_ADDRESS,
    state: State = DEFAULT_STATE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Stop a submitted job."""

    def job(console: Console) -> object:
        from pipelines import jobs

        return jobs.stop(job_id, address, state_of(state), console)

    run_command(job, as_json=json, debug=debug)
