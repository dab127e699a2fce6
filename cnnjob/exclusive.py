"""A file that exactly one of several writers creates: what a commit rests on. No lock, and no clock.

Local disks: the content is written beside, flushed, and linked to its name, which link(2) refuses where there is one.
S3: a conditional PutObject (``If-None-Match: *``), through boto3, since pyarrow ignores the condition without a word.
"""

import os
import uuid
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cnnjob import local_disk, storage
from cnnjob.errors import UserError
from cnnjob.object_store import S3_ATTEMPTS, S3_CONNECT_TIMEOUT_S, S3_REQUEST_TIMEOUT_S
from cnnjob.phases import reached

_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


def create(uri: str, content: bytes) -> bool:
    """Create a file, whole or not at all, unless there is one.

    Args:
        uri: Where; a local path or ``s3://``.
        content: Must differ from what any other writer would write there: after an answer that got lost, the file is
            read back to see whose it is.

    Returns:
        Whether it is this writer's.

    Raises:
        UserError: The store has no conditional writes, or access was refused.
        StorageError: The store failed. The file may have been created; the same call again finds out.
    """
    if storage.is_local(uri):
        with storage.told(uri):
            return _link(storage.local_path(uri), content)
    if not uri.startswith("s3://"):
        raise UserError(f"{uri}: this store cannot create a file for one writer alone; use a local path or s3://.")
    with storage.told(uri):
        return _put(uri, content)


def _link(path: Path, content: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{storage.TEMPORARY_MARK}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        reached("create", file=path.name)
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):
        # Who has lost may find its own file cleaned away by who has won.
        return path.read_bytes() == content
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    local_disk.sync_folder(path.parent)
    return True


def _put(uri: str, content: bytes) -> bool:
    from botocore.exceptions import ClientError

    path = storage.resolve(uri)[1]
    bucket, _, key = path.partition("/")
    reached("create", file=storage.name(uri))
    try:
        _client(uri.partition("?")[2], _environment()).put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in _TAKEN:
            raise
        return storage.read_bytes(uri) == content
    return True


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


@lru_cache(maxsize=8)
def _client(query: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """A client with the options of an ``s3://`` address; credentials and the rest from the standard chain."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    del environment
    options = dict(parse_qsl(query))
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=options.get("region"),
        config=Config(
            connect_timeout=S3_CONNECT_TIMEOUT_S,
            read_timeout=S3_REQUEST_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": S3_ATTEMPTS},
            signature_version=UNSIGNED if options.get("anonymous") == "true" else None,
        ),
    )
