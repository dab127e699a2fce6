"""Every knob of the local head that ``cnnjob up`` starts."""

from pydantic import Field

from cnnjob.config.base import Config, Uri


class ClusterConfig(Config):
    """A Ray head on this machine, for development: loopback only, token authentication on."""

    num_cpus: int | None = Field(default=None, ge=1, le=4096)
    """CPUs that the head offers to jobs. Default: one more than the machine has, for the tasks that a job runs beside
    its workers."""

    port: int = Field(default=6379, ge=1024, le=65_535)
    """Port of the head's control service (GCS), on 127.0.0.1."""

    dashboard_port: int = Field(default=8265, ge=1024, le=65_535)
    """Port of the dashboard and of the jobs API, on 127.0.0.1."""

    state: Uri = Field(default="~/.cnnjob", validate_default=True)
    """Folder, readable by its owner alone, that holds the head's token, its log, and what `cnnjob down` needs."""
