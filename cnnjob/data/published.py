"""The data set that lies at an output already: whether it is the one that is asked for, and whole."""

from typing import Any

from cnnjob import storage
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.manifest import Manifest, read_manifest
from cnnjob.data.reach import any_within_reach
from cnnjob.data.sources.base import Source
from cnnjob.errors import IntegrityError, UserError


def current(config: PrepareConfig, source: Source) -> Manifest | None:
    """The data set that is already there, if this source and config made it and a new one would be no other.

    It would where a file is missing, and where a picture that was gone or closed can be read now.
    """
    manifest = manifest_at(config.output)
    if manifest is None or difference(manifest, config, source.digest()) or not _is_whole(config.output, manifest):
        return None
    refused = storage.join(config.output, manifest.refused_table)
    return None if any_within_reach(manifest.refused, refused, config.limits.max_bytes) else manifest


def manifest_at(output: str) -> Manifest | None:
    """The manifest of the data set that lies there, if there is one that can be read."""
    try:
        return read_manifest(output)
    except (UserError, IntegrityError):
        return None


def difference(manifest: Manifest, config: PrepareConfig, digest: str) -> str:
    """How a data set was prepared otherwise than a config asks for now; empty where it was not."""
    before, now = manifest.config, config_of(config)
    if _but_uri(before) != _but_uri(now):
        return "with another conf"
    return "" if before == now and manifest.source.get("digest") == digest else "from another input"


def _but_uri(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "source": {**config.get("source", {}), "uri": None}}


def _is_whole(output: str, manifest: Manifest) -> bool:
    """Whether all files of a data set are in place."""
    beside = (manifest.refused_table, manifest.contact_sheet)
    if not all(storage.exists(storage.join(output, name)) for name in beside):
        return False
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    return all(storage.size(storage.join(output, shard.path)) == shard.bytes for shard in shards)


def config_of(config: PrepareConfig) -> dict[str, Any]:
    """The config as the manifest keeps it: where the data set lies is not part of what it is."""
    return config.model_dump(mode="json", exclude={"output"})
