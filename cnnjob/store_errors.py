"""What the failures of stores and disks mean: the user's mistake or the world's, in one paragraph without secrets."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from cnnjob import s3_store
from cnnjob.errors import CnnjobError, StorageError, UserError
from cnnjob.s3_store import endpoint_of, is_s3

_AWS = re.compile(r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<call>\w+) operation: ")
_REQUEST_ID = re.compile(r" \(Request ID: [^)]*\)")
_NO_BUCKET = re.compile(r"Bucket '[^']*' not found")
_UNFIT = re.compile(r"Cannot open for reading|Not a regular file|ZipFS can only")
"""How pyarrow and fsspec say, with neither kind nor number, that a folder is no file and an archive is read-only."""
_REFUSED = re.compile(
    r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|UNRECOGNIZED_CLIENT|REQUEST_EXPIRED|TIME_TOO_SKEWED|ExpiredToken|InvalidToken"
    r"|NoCredentialsError|PartialCredentialsError|ProfileNotFound"
)
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
        reason = tidy(f"{aws['code']} in {aws['call']}: {text[aws.end() :]}")
        return _explain_s3(uri, aws["code"], int(aws["status"] or 0), reason, refused=bool(_REFUSED.search(reason)))
    if _NO_BUCKET.match(text):
        return _explain_s3(uri, "NO_SUCH_BUCKET", 0, text)
    if is_s3(uri) and type(error).__module__.startswith("botocore."):
        return _explain_boto(uri, error)
    if isinstance(error, NotImplementedError) or _UNFIT.match(text):
        return UserError(f"{shown(uri)}: this cannot be read or written so: {tidy(text) or 'not implemented'}")
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
    return _explain_s3(uri, code, _status(error), tidy(f"{code} in {text}"), refused=bool(_REFUSED.search(code)))


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
    return StorageError(
        f"{shown(uri)}: {store} failed or did not answer in {s3_store.ATTEMPTS} attempts: {reason}. {_AGAIN}"
    )


def _explain_other(uri: str, error: BaseException) -> CnnjobError:
    reason = tidy(getattr(error, "strerror", None) or str(error)) or type(error).__name__
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


def tidy(text: str) -> str:
    """What a library says, on one line, as it may be printed, and without its stop."""
    return shown(" ".join(_REQUEST_ID.sub("", text).split())).rstrip(".")


def _status(error: BaseException) -> int:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = next((getattr(error, name, None) for name in ("status", "status_code", "code") if hasattr(error, name)), 0)
    return found if isinstance(found, int) else 0


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
