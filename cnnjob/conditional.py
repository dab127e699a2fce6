"""Writing an object to S3 where there is none, or still the one that was seen: one of several writers succeeds.

Through boto3, since pyarrow's S3 drops such conditions without a word; it is given the same server, region and
credentials. A write whose answer got lost may have been carried out: then the object is read back, to see whose it is.
"""

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from cnnjob import s3_store, storage, store_errors
from cnnjob.errors import UserError

_MISSING = 404
_FAILED = 412
"""The condition does not hold: there is an object, or another one."""
_AGAIN = {408, 409, 429, 500, 502, 503, 504}
"""Worth another try; 409 is AWS's ConditionalRequestConflict, where another write was under way."""
_NOT_IMPLEMENTED = 501


class _NoConditionsError(Exception):
    """The store has no conditional writes."""


def put_where_nothing_is(uri: str, content: bytes) -> bool:
    """Write an object if there is none.

    Args:
        uri: An ``s3://`` address.
        content: Must differ from all that others would write there, else one writer's is taken for another's after an
            answer got lost.

    Returns:
        Whether the object that is there is this call's.

    Raises:
        UserError: There is no such bucket, access was refused, or the store has no conditional writes.
        StorageError: The store failed, and may have carried the write out.
    """
    try:
        return _put(uri, content, {"IfNoneMatch": "*"})
    except _NoConditionsError as error:
        raise UserError(f"{uri}: this store has no conditional writes ({error}); use one that has") from error


def replace(uri: str, content: bytes, seen: str | None) -> bool:
    """Write an object if what is there is still what was seen; where a store has no such writes, it is looked at first.

    Args:
        uri: An ``s3://`` address.
        content: As of ``put_where_nothing_is``.
        seen: Its ``version_of``.

    Returns:
        Whether the object that is there is this call's.

    Raises:
        UserError: There is no such bucket, or access was refused.
        StorageError: The store failed, and may have carried the write out.
    """
    condition = {"IfNoneMatch": "*"} if seen is None else {"IfMatch": seen}
    try:
        return _put(uri, content, condition)
    except _NoConditionsError:
        if version_of(uri) != seen:
            return False
        storage.write_bytes(uri, content)
        return True


def version_of(uri: str) -> str | None:
    """What tells an object from any that replaces it, its ETag; None where there is no object.

    Raises:
        UserError: There is no such bucket, or access was refused.
        StorageError: The store failed.
    """
    from botocore.exceptions import ClientError

    def once() -> str | None:
        try:
            return str(client.head_object(Bucket=bucket, Key=key)["ETag"])
        except ClientError as error:
            # Without a bucket the write that follows says so.
            if _status(error) == _MISSING:
                return None
            raise

    with storage.told(uri):
        client, bucket, key = _open(uri)
        return _retrying()(once)


def _put(uri: str, content: bytes, condition: dict[str, str]) -> bool:
    from botocore.exceptions import ClientError

    def once() -> bool:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=content, **condition)
        except ClientError as error:
            # What was seen may be gone, too.
            if _status(error) == _FAILED or _code(error) == "NoSuchKey":
                return False
            if _status(error) == _NOT_IMPLEMENTED:
                raise _NoConditionsError(str(error)) from error
            raise
        return True

    def is_ours() -> bool:
        try:
            return storage.read_bytes(uri) == content
        except FileNotFoundError:
            return False

    with storage.told(uri):
        client, bucket, key = _open(uri)
        try:
            return _retrying()(once) or is_ours()
        except Exception as error:
            # The last try, or one before it, may have been carried out.
            if _is_passing(error) and is_ours():
                return True
            raise


def _retrying() -> Retrying:
    return Retrying(
        stop=stop_after_attempt(s3_store.ATTEMPTS),
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
    if not storage.is_s3(uri):
        raise UserError(
            f"{store_errors.shown(uri)}: this store cannot tell which of two writers came first, so nothing can be "
            f"published on it safely; use a local path or s3://."
        )
    filesystem, path = storage.resolve(uri)
    bucket, _, key = path.partition("/")
    if not key:
        raise UserError(f"{uri} is a bucket, and an object is needed; an address is s3://BUCKET/NAME")
    is_anonymous = parse_qs(uri.partition("?")[2]).get("anonymous") == ["true"]
    where = s3_store.endpoint_of(uri), filesystem.region
    return _client(*where, is_anonymous=is_anonymous, environment=s3_store.aws_environment()), bucket, key


@lru_cache(maxsize=8)
def _client(
    endpoint: str | None, region: str | None, *, is_anonymous: bool, environment: tuple[tuple[str, str], ...]
) -> Any:
    from boto3.session import Session
    from botocore import UNSIGNED
    from botocore.config import Config

    del environment  # Part of the key: a session reads it once.
    config = Config(
        connect_timeout=s3_store.CONNECT_TIMEOUT_S,
        read_timeout=s3_store.REQUEST_TIMEOUT_S,
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
