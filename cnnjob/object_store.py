"""Stores that are no disk of this machine: how they are reached, and what their failures mean.

S3, and whatever speaks it, through pyarrow; everything else through fsspec. Only ``storage`` comes here for a
filesystem. The second half tells a failure as the user's mistake or the world's, in one paragraph without secrets.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from cnnjob.errors import CnnjobError, StorageError, UserError

S3_ATTEMPTS = 4
"""The SDK backs off exponentially between them: with four, a store that answers 503 is given up after 2 to 6 s."""
S3_CONNECT_TIMEOUT_S = 3.0
"""A host that drops packets is given up after four of these and the pauses, under 20 s."""
S3_REQUEST_TIMEOUT_S = 10.0
"""Silence on an open connection; the SDK's own 3 s are short for a store that spins up a disk."""

S3_LARGE_BYTES = 5 * 2**20
"""From here on objects are uploaded in parts: the least size of one. pyarrow must do so from 10 MiB on."""

_S3_OPTIONS = ("region", "endpoint_override", "scheme", "anonymous")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""In the order of AWS's own tools. pyarrow 25 reads neither (tried)."""
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")

_AWS = re.compile(r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<call>\w+) operation: ")
_REQUEST_ID = re.compile(r" \(Request ID: [^)]*\)")
_NO_BUCKET = re.compile(r"Bucket '[^']*' not found")
_UNFIT = re.compile(r"Cannot open for reading|Not a regular file|ZipFS can only")
"""How pyarrow and fsspec say, with neither kind nor number, that a folder is no file and an archive is read-only."""
_REFUSED = re.compile(
    r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|UNRECOGNIZED_CLIENT|REQUEST_EXPIRED|TIME_TOO_SKEWED|ExpiredToken|InvalidToken"
    r"|NoCredentialsError|PartialCredentialsError|ProfileNotFound"
)
_FREE_LISTINGS, _FILES_PER_LISTING = 1000, 250
"""A folder is listed by itself, at a request of some 30 ms, as long as that brings a quarter of the 1000 names that
one request can; the first thousand requests, half a minute, are not counted."""

_NO_OBJECT = {"NO_SUCH_KEY", "RESOURCE_NOT_FOUND"}
"""How S3 says that an object is not there: pyarrow makes no FileNotFoundError of it where it copies or reads."""

_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")

_BACKENDS = {"adlfs", "aiohttp", "azure", "botocore", "gcsfs", "google", "paramiko", "requests", "s3fs", "zipfile"}
"""Packages behind fsspec whose errors are not all OSError."""
_MISTAKES = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS}
_GONE, _DENIED, _ELSEWHERE = {404, 410}, {401, 403, 407}, {301, 307, 400}
_BUSY = {408, 429}
"""The statuses of RFC 9110 and RFC 6585 that call for another try, beside the server's own, from 500 on."""
_AGAIN = "Nothing is lost: run the same command again when it works."


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
        connect_timeout=S3_CONNECT_TIMEOUT_S,
        request_timeout=S3_REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        # One request for a small object instead of the three of an upload in parts; errors come with the close. But
        # where such an upload cannot be begun, the close then writes an empty object over the old one (tried).
        allow_delayed_open=not is_large,
    )


def _options(where: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _S3_OPTIONS:
            raise UserError(
                f"{where}: {name!r} is no option of an s3:// address; there are {', '.join(_S3_OPTIONS)}. "
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


def open_fsspec(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI that fsspec opens, and the path on it.

    Raises:
        UserError: fsspec does not know the protocol, or lacks the package for it, which is named.
        FileNotFoundError: The archive that the URI looks into is not there.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        filesystem, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{shown(uri)}: {_tidy(str(error))}. A local path that looks like an address is written ./PATH."
        ) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise explain(uri, error) or UserError(f"{shown(uri)}: {_tidy(str(error))}") from error
    return pafs.PyFileSystem(_Handler(filesystem)), str(path)


class _Handler(pafs.FSSpecHandler):  # type: ignore[misc]
    """fsspec for pyarrow, where a server that fails is not taken for a file that is missing.

    fsspec's HTTP filesystem raises FileNotFoundError *from* whatever went wrong, and pyarrow's own handler asks
    ``isfile`` first, which answers False to every error.
    """

    def get_file_info(self, paths: list[str]) -> list[Any]:
        found = []
        for path in paths:
            try:
                with faults_kept():
                    found.append(self._create_file_info(path, self.fs.info(path)))
            except FileNotFoundError:
                found.append(pafs.FileInfo(path, pafs.FileType.NotFound))
        return found

    def open_input_stream(self, path: str) -> Any:
        with faults_kept():
            return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    open_input_file = open_input_stream


@contextmanager
def faults_kept() -> Iterator[None]:
    """Raise what a store failed by, where fsspec makes a missing file of it; a file that is missing stays one."""
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__
        if cause is None or not _is_of_a_store(cause) or _status(cause) in _GONE:
            raise
        raise cause from None


def listing(filesystem: Any, folder: str, *, recursive: bool = True, may_be_gone: bool = False) -> list[Any]:
    """What pyarrow finds in a folder, as its FileInfo, all at once.

    Raises:
        FileNotFoundError: There is no such folder, unless it may be gone.
        UserError: S3 has an object there that cannot be addressed.
    """
    infos: list[Any] = filesystem.get_file_info(
        pafs.FileSelector(folder, recursive=recursive, allow_not_found=may_be_gone)
    )
    if isinstance(filesystem, pafs.S3FileSystem):
        for info in infos:
            check_key(info.path)
    return infos


def walk(filesystem: Any, root: str) -> Iterator[Any]:
    """The FileInfo of each file below a folder, in no promised order.

    pyarrow returns a listing whole, with 0.6 KB of memory a file (576 MiB for a million objects), so it is asked for
    folder after folder. Where the folders turn out small, the rest is listed at once: a request for each of a
    million folders would take hours.

    Raises:
        FileNotFoundError: There is no such folder.
        UserError: S3 has an object there that cannot be addressed.
    """
    waiting, done, found = [root], set[str](), 0
    while waiting and len(done) <= _FREE_LISTINGS + found // _FILES_PER_LISTING:
        folder = waiting.pop()
        infos = listing(filesystem, folder, recursive=False, may_be_gone=folder != root)
        done.add(folder.rstrip("/"))
        below = (info.path for info in infos if info.type == pafs.FileType.Directory)
        waiting += [path for path in below if path.rstrip("/") not in done]
        files = [info for info in infos if info.type == pafs.FileType.File]
        found += len(files)
        yield from files
    if waiting:
        for info in listing(filesystem, root):
            if info.type == pafs.FileType.File and info.path.rpartition("/")[0] not in done:
                yield info


@contextmanager
def told(uri: str) -> Iterator[None]:
    """Tell what a store raises in the block as a UserError or a StorageError about ``uri``.

    Wrap the access to the store and not the decoding of what it holds. Errors that no store raised pass unchanged.

    Raises:
        UserError: There is no such bucket, file or folder; access was refused; the address is wrong.
        StorageError: The network, the server or the disk failed, after the retries.
    """
    try:
        with told_unless_missing(uri):
            yield
    except FileNotFoundError as error:
        raise _missing(uri) from error


@contextmanager
def told_unless_missing(uri: str) -> Iterator[None]:
    """As ``told``, for callers to whom a missing file is an answer.

    Raises:
        FileNotFoundError: There is no such file, or no bucket that could have it.
        UserError: As ``told``.
        StorageError: As ``told``.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        if (aws := _AWS.search(str(error))) and aws["code"] in _NO_OBJECT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown(uri)) from error
        explained = explain(uri, error)
        if explained is None:
            raise
        raise explained from error


def explain(uri: str, error: BaseException) -> CnnjobError | None:
    """What a store's error means to a person; None where no store raised it."""
    text = str(error)
    if aws := _AWS.search(text):
        reason = _tidy(f"{aws['code']} in {aws['call']}: {text[aws.end() :]}")
        return _explain_s3(uri, aws["code"], int(aws["status"] or 0), reason, refused=bool(_REFUSED.search(reason)))
    if _NO_BUCKET.match(text):
        return _explain_s3(uri, "NO_SUCH_BUCKET", 0, text)
    if is_s3(uri) and type(error).__module__.startswith("botocore."):
        return _explain_boto(uri, error)
    if isinstance(error, NotImplementedError) or _UNFIT.match(text):
        return UserError(f"{shown(uri)}: this cannot be read or written so: {_tidy(text) or 'not implemented'}")
    return _explain_other(uri, error) if _is_of_a_store(error) else None


def _is_of_a_store(error: BaseException) -> bool:
    if not isinstance(error, OSError):
        return type(error).__module__.partition(".")[0] in _BACKENDS
    # With neither kind nor number it is how Arrow tells that the content of a file is damaged.
    return type(error) is not OSError or error.errno is not None


def _explain_boto(uri: str, error: BaseException) -> CnnjobError:
    response = getattr(error, "response", None)
    told = response.get("Error", {}) if isinstance(response, dict) else {}
    code = told.get("Code") or type(error).__name__
    text = f"{getattr(error, 'operation_name', 'request')}: {told.get('Message') or error}"
    return _explain_s3(uri, code, _status(error), _tidy(f"{code} in {text}"), refused=bool(_REFUSED.search(code)))


def _explain_s3(uri: str, code: str, status: int, reason: str, *, refused: bool = False) -> CnnjobError:
    store = _store(uri)
    if code in {"NO_SUCH_BUCKET", "NoSuchBucket"}:
        return UserError(f"{shown(uri)}: there is no such bucket at {store}. Create it, or correct the address.")
    if refused or status in _DENIED:
        unset = "" if os.environ.get("AWS_ACCESS_KEY_ID") else " (not set here)"
        return UserError(
            f"{shown(uri)}: {store} refused access: {reason}. Give credentials that may use it, by AWS_ACCESS_KEY_ID"
            f"{unset} and AWS_SECRET_ACCESS_KEY, by a profile, or as a role of this machine."
        )
    if code in _NO_OBJECT or status in _GONE:
        return _missing(uri)
    if status in _ELSEWHERE and code != "RequestTimeout":
        return UserError(
            f"{shown(uri)}: {store} does not take the request: {reason}. Most often the region is wrong (give ?region= "
            f"or AWS_REGION), or the endpoint is, or a session token has expired."
        )
    return StorageError(f"{shown(uri)}: {store} failed or did not answer in {S3_ATTEMPTS} attempts: {reason}. {_AGAIN}")


def _explain_other(uri: str, error: BaseException) -> CnnjobError:
    reason = _tidy(getattr(error, "strerror", None) or str(error)) or type(error).__name__
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in _GONE:
        return _missing(uri)
    if isinstance(error, PermissionError) or status in _DENIED:
        return UserError(f"{shown(uri)}: access was refused: {reason}. Give the right to it, or correct the address.")
    if type(error).__name__ == "BadZipFile":
        return UserError(f"{shown(uri)}: the archive is damaged, or is no zip file: {reason}")
    refused = 0 < status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _BUSY
    kinds = (NotADirectoryError, IsADirectoryError, FileExistsError)
    if refused or isinstance(error, kinds) or getattr(error, "errno", None) in _MISTAKES:
        return UserError(f"{shown(uri)}: {reason}. Correct the address.")
    store = "the store" if "://" in uri else "the disk"
    return StorageError(f"{shown(uri)}: {store} failed: {reason}. {_AGAIN}")


def _missing(uri: str) -> UserError:
    where = f" at {_store(uri)}: no such bucket, or nothing in it by this name" if is_s3(uri) else ""
    return UserError(f"{shown(uri)} does not exist{where}. Correct the address.")


def _store(uri: str) -> str:
    return shown(endpoint_of(uri) or "AWS")


def shown(uri: str) -> str:
    """A URI as it may be printed: without user, password and query."""
    return _QUERY.sub(r"\1", _USER_INFO.sub("", uri))


def _tidy(text: str) -> str:
    return shown(" ".join(_REQUEST_ID.sub("", text).split())).rstrip(".")


def _status(error: BaseException) -> int:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = next((getattr(error, name, None) for name in ("status", "status_code", "code") if hasattr(error, name)), 0)
    return found if isinstance(found, int) else 0
