"""The source that a config names."""

from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.sources.base import Source
from cnnjob.data.sources.cifar import CifarSource
from cnnjob.data.sources.digits import DigitsSource
from cnnjob.data.sources.folder import FolderSource
from cnnjob.data.sources.idx import IdxSource
from cnnjob.data.sources.table import TableSource


def open_source(config: PrepareConfig) -> Source:
    """The source of a config; nothing is read yet."""
    match config.source.kind:
        case "digits":
            return DigitsSource()
        case "idx":
            return IdxSource(config.source)
        case "cifar":
            return CifarSource(config.source)
        case "folder":
            return FolderSource(config, labelled=True)
        case "manifest":
            return TableSource(config)
