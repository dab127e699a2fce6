"""The source that a config names."""

from cnnjob.config.prepare import SourceConfig
from cnnjob.data.sources.base import Source
from cnnjob.data.sources.digits import DigitsSource


def open_source(config: SourceConfig) -> Source:
    """Open the source of a config, listing it."""
    match config.kind:
        case "digits":
            return DigitsSource()
