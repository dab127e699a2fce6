"""Every knob of the local head that ``cnnjob up`` starts."""

from collections.abc import Iterator

from pydantic import Field

from cnnjob.config.base import Check, Config, Uri, rule

_WORKER_PORTS = range(10_002, 20_000)
"""Of Ray's worker processes, by default: https://docs.ray.io/en/latest/ray-core/configure.html#ports-configurations"""


class ClusterConfig(Config):
    """A Ray head on this machine, for development: dashboard and jobs API on loopback, with a token."""

    num_cpus: int | None = Field(default=None, ge=1, le=4096)
    """CPUs that the head offers to jobs. Default: one more than the machine has, for the tasks that a job runs beside
    its workers."""

    port: int = Field(default=6379, ge=1024, le=65_535)
    """Port of the head's control service (GCS), which asks for the token."""

    dashboard_port: int = Field(default=8265, ge=1024, le=65_535)
    """Port of the dashboard and of the jobs API, on 127.0.0.1."""

    state: Uri = Field(default="~/.cnnjob", validate_default=True)
    """Folder, readable by its owner alone, that holds the head's token, its log, and what `cnnjob down` needs."""


@rule("port")
def port_is_free_of_workers(port: int) -> Iterator[str]:
    """The control service has a port that no worker takes."""
    yield from _told_where_workers_are(port)


@rule("dashboard_port")
def dashboard_port_is_free_of_workers(dashboard_port: int) -> Iterator[str]:
    """The dashboard has a port that no worker takes."""
    yield from _told_where_workers_are(dashboard_port)


@rule("dashboard_port", "port")
def ports_differ(dashboard_port: int, port: int) -> Iterator[str]:
    """Two services have two ports."""
    if dashboard_port == port:
        yield f"{dashboard_port} is the control service's port too; choose another"


@rule("state")
def state_is_a_folder(state: str) -> Iterator[str]:
    """What lies in it is of this machine, and for its owner alone."""
    if "://" in state:
        yield f"{state} is a URI; give a folder of this machine"


def _told_where_workers_are(port: int) -> Iterator[str]:
    if port in _WORKER_PORTS:
        yield f"{port} is among {_WORKER_PORTS[0]} to {_WORKER_PORTS[-1]}, which Ray's workers take; choose another"


RULES: tuple[Check, ...] = (
    port_is_free_of_workers,
    dashboard_port_is_free_of_workers,
    ports_differ,
    state_is_a_folder,
)
