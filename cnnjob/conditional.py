"""Writes to S3 on a condition: where nothing is, or over one known version. Exactly one of several writers succeeds.

Through boto3, since pyarrow's S3 drops ``If-None-Match`` and ``If-Match`` without a word; it is given the same server,
region and credentials. A write whose answer got lost may have been carried out: then the object is read back. Each
object says in its metadata what it replaced: so a writer can tell "not written" from "written, and replaced since".
"""

import hashlib
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from cnnjob import object_store, storage
from cnnjob.errors import StorageError, UserError

_REPLACES, _NOTHING = "cnnjob-replaces", "nothing"
_FAILED = {404, 412}
"""The condition does not hold. AWS answers 404 to ``If-Match`` where there is nothing, SeaweedFS 412."""
_AGAIN = {408, 409, 429, 500, 502, 503, 504}
"""Worth another try; 409 is AWS's ConditionalRequestConflict, where another write was under way."""
_NOT_IMPLEMENTED = 501


@dataclass(frozen=True)
class Found:
    """An object.

    Attributes:
        content: All of it.
        tag: Its ETag, quotes included.
        replaces: Tag of what it was written over, or ``nothing``; None where another tool has written it.
    """

    content: bytes
    tag: str
    replaces: str | None


def get(uri: str) -> Found | None:
    """Read an object with its tag; None where there is none.

    Raises:
        UserError: The store is not S3, there is no such bucket, or access was refused.
        StorageError: The store failed.
    """
    from botocore.exceptions import ClientError, IncompleteReadError

    def once() -> Found | None:
        try:
            answer = client.get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                return None
            raise
        with closing(answer["Body"]) as body:
            content = body.read()
        # Headers that end early with the connection pass for whole, and an answer without a length for an empty one.
        if len(content) != answer.get("ContentLength") or "ETag" not in answer:
            raise IncompleteReadError(actual_bytes=len(content), expected_bytes=answer.get("ContentLength"))
        return Found(content, answer["ETag"], answer["Metadata"].get(_REPLACES))

    with storage.told(uri):
        client, bucket, key = _open(uri)
        return _retrying()(once)


def put(uri: str, content: bytes, *, expected: str | None = None) -> bool:
    """Write an object if its tag is ``expected``; None: if there is no object.

    Args:
        uri: An ``s3://`` address.
        content: Must differ from all that was or will be written there by others, else one writer's is taken for
            another's after an answer got lost.
        expected: From ``get``.

    Returns:
        Whether this call wrote it, also where another writer has replaced it since.

    Raises:
        UserError: There is no such bucket, access was refused, or the store has no conditional writes.
        StorageError: The store failed, and may have carried the write out.
    """
    from botocore.exceptions import ClientError

    condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}

    def once() -> bool:
        try:
            client.put_object(
                Bucket=bucket, Key=key, Body=content, Metadata={_REPLACES: expected or _NOTHING}, **condition
            )
        except ClientError as error:
            if _status(error) in _FAILED and _code(error) != "NoSuchBucket":
                return False
            if _status(error) == _NOT_IMPLEMENTED:
                raise UserError(f"{uri}: this store has no conditional writes ({error}); use one that has") from error
            raise
        return True

    with storage.told(uri):
        client, bucket, key = _open(uri)
        retrying = _retrying()
        try:
            written = retrying(once)
        except Exception as error:
            if not _is_passing(error):
                raise
            return _settle(uri, content, expected, error)
        # A condition that fails at the first try failed. Later, an earlier try may have changed the object.
        if written or retrying.statistics["attempt_number"] == 1:
            return written
        return _settle(uri, content, expected, None)


def _settle(uri: str, content: bytes, expected: str | None, failure: Exception | None) -> bool:
    """What became of a write whose answer got lost, by what is there now and what that replaced."""
    found = get(uri)
    if found is not None:
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        if found.content == content or found.replaces == etag:
            return True
        if found.replaces == (expected or _NOTHING):
            return False
    if failure is not None and (found.tag if found else None) == expected:
        raise failure
    raise StorageError(
        f"{object_store.shown(uri)}: the store's answer to a write got lost, and the object has been changed more than "
        f"once since: whether it was written in between cannot be told. Nothing is lost: run the same command again."
    )


def _retrying() -> Retrying:
    return Retrying(
        stop=stop_after_attempt(object_store.S3_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=4),
        retry=retry_if_exception(_is_passing),
        reraise=True,
    )


def _is_passing(error: BaseException) -> bool:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        return _status(error) in _AGAIN or _code(error) == "RequestTimeout"
    broken = (exceptions.IncompleteReadError, exceptions.FlexibleChecksumError, ResponseParserError)
    return isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError, *broken))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _open(uri: str) -> tuple[Any, str, str]:
    if not uri.startswith("s3://"):
        raise UserError(
            f"{object_store.shown(uri)}: this store cannot tell which of two writers came first, so nothing can be "
            f"published on it safely; use a local path or s3://."
        )
    filesystem, path = storage.resolve(uri)
    bucket, _, key = path.partition("/")
    if not key:
        raise UserError(f"{uri} is a bucket, and an object is needed; an address is s3://BUCKET/NAME")
    is_anonymous = parse_qs(uri.partition("?")[2]).get("anonymous") == ["true"]
    where = object_store.endpoint_of(uri), filesystem.region
    return _client(*where, is_anonymous=is_anonymous, environment=object_store.aws_environment()), bucket, key


@lru_cache(maxsize=8)
def _client(
    endpoint: str | None, region: str | None, *, is_anonymous: bool, environment: tuple[tuple[str, str], ...]
) -> Any:
    from boto3.session import Session
    from botocore import UNSIGNED
    from botocore.config import Config

    del environment  # Part of the key: a session reads it once.
    config = Config(
        connect_timeout=object_store.S3_CONNECT_TIMEOUT_S,
        read_timeout=object_store.S3_REQUEST_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 1},
        signature_version=UNSIGNED if is_anonymous else None,
        # As pyarrow, which knows neither proxies nor the endpoints of profiles: both must speak to the same server.
        proxies={},
        ignore_configured_endpoint_urls=True,
    )
    try:
        return Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except ValueError as error:
        raise UserError(f"the S3 endpoint {endpoint!r} is no URL: {error}") from error
