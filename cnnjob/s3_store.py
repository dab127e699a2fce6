"""How S3, and whatever speaks it, is reached: addresses, options, endpoint, and pyarrow's filesystem for a bucket."""

import os
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import pyarrow.fs as pafs

from cnnjob.errors import UserError

ATTEMPTS = 4
"""The SDK backs off exponentially between them: with four, a store that answers 503 is given up after 2 to 6 s."""
CONNECT_TIMEOUT_S = 3.0
"""A host that drops packets is given up after four of these and the pauses, under 20 s."""
REQUEST_TIMEOUT_S = 10.0
"""Silence on an open connection; the SDK's own 3 s are short for a store that spins up a disk."""

LARGE_BYTES = 5 * 2**20
"""From here on objects are uploaded in parts: the least size of one. pyarrow must do so from 10 MiB on."""

_OPTIONS = ("region", "endpoint_override", "scheme", "anonymous")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""In the order of AWS's own tools. pyarrow 25 reads neither (tried)."""
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


def open_s3(path: str, query: str, *, is_large: bool = False) -> tuple[Any, str]:
    """The filesystem of ``s3://PATH?QUERY`` and the path on it, bucket first; ``is_large`` is for uploads in parts.

    The path may be percent-encoded, as pyarrow has it. Credentials come from the standard chain: the environment,
    the profile's files, the machine's role. The object is shared within the process while ``AWS_*`` stay the same.

    Raises:
        UserError: The URI has credentials, an unknown option or a name that S3 paths cannot express.
    """
    bucket = path.partition("/")[0]
    if not bucket:
        raise UserError(f"s3://{path} names no bucket; an address is s3://BUCKET/FOLDER")
    if "@" in bucket or ":" in bucket:
        raise UserError(
            "an s3:// address must not have credentials in it, since addresses are logged and stored; "
            "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment"
        )
    key = unquote(path).rstrip("/")
    check_key(key)
    options = tuple(sorted(_options(f"s3://{path}", query).items()))
    return _connect(bucket, options, aws_environment(), is_large=is_large), key


def is_s3(uri: str) -> bool:
    """Whether a URI is an ``s3://`` address."""
    return uri[:5].lower() == "s3://"


def aws_environment() -> tuple[tuple[str, str], ...]:
    """The variables that say how S3 is reached: what is shared within the process is shared while they are the same."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


def endpoint_of(uri: str) -> str | None:
    """URL of the server that an ``s3://`` address or else the environment names; None for AWS's own."""
    options = dict(parse_qsl(uri.partition("?")[2]))
    endpoint = _endpoint(options, dict(os.environ))
    return endpoint if endpoint is None or "://" in endpoint else f"{options.get('scheme', 'https')}://{endpoint}"


def check_key(path: str) -> None:
    """Refuse a bucket and key that pyarrow cannot open, or that the SDK would turn into those of another object.

    Raises:
        UserError: A part of the path is empty, ``.`` or ``..``.
    """
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise UserError(
            f"s3://{path}: the name has a part that is empty, '.' or '..', and such an object cannot be read. "
            f"Correct the address, or rename the object."
        )


@lru_cache(maxsize=64)
def _connect(
    bucket: str, options: tuple[tuple[str, str], ...], environment: tuple[tuple[str, str], ...], *, is_large: bool
) -> Any:
    chosen, variables = dict(options), dict(environment)
    endpoint = _endpoint(chosen, variables)
    region = chosen.get("region") or _first(variables, _REGIONS)
    if region is None and endpoint is None:
        region = pafs.resolve_s3_region(bucket)
    return pafs.S3FileSystem(
        anonymous=chosen.get("anonymous") == "true",
        region=region,
        endpoint_override=endpoint,
        scheme=chosen.get("scheme"),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # One request for a small object instead of the three of an upload in parts; errors come with the close. But
        # where such an upload cannot be begun, the close then writes an empty object over the old one (tried).
        allow_delayed_open=not is_large,
    )


def _options(where: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            raise UserError(
                f"{where}: {name!r} is no option of an s3:// address; there are {', '.join(_OPTIONS)}. "
                f"A question mark that belongs to a name is written %3F."
            )
        allowed = {"scheme": ("http", "https"), "anonymous": ("true", "false")}.get(name)
        if not value or (allowed and value not in allowed):
            raise UserError(f"{where}: {name}={value} should be {' or '.join(allowed) if allowed else 'given a value'}")
    return options


def _endpoint(options: dict[str, str], variables: dict[str, str]) -> str | None:
    return options.get("endpoint_override") or _first(variables, _ENDPOINTS)


def _first(variables: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((variables[name] for name in names if variables.get(name)), None)
