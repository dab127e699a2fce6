"""One file on another machine, as a table names it: whatever becomes of asking for it costs its row, and bounded time.

A table may name any machine, so a host that does not answer is no failure of the job, unless the table lies there too:
then it has answered before, and what is done is kept until it does again. Libraries wait for a host from some seconds
to some minutes, or without end; here it is the same time for all of them, and after a few such waits a process does not
ask the host again for a while: thousands of rows may be of it.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

from cnnjob import storage
from cnnjob.data.decode import Refusal
from cnnjob.errors import StorageError, UserError
from cnnjob.s3_store import endpoint_of
from cnnjob.store_errors import faults_kept, shown, told_unless_missing

_T = TypeVar("_T")

ANSWER_S = 60.0
"""For all of a file. A web server would be waited for ten minutes."""
PATIENCE_S = 100.0
"""Of waiting for failures of one host in a row, after which it is not asked again: two of the longest."""
REST_S = 600.0
"""For how long it is not asked then."""


@dataclass
class _Host:
    """What a process knows of a host.

    Attributes:
        waited_s: For failures in a row.
        rests_until: Time of the monotonic clock.
    """

    waited_s: float = 0.0
    rests_until: float = 0.0


_hosts: dict[str, _Host] = {}


def fetch(uri: str, max_bytes: int, home: str = "") -> tuple[bytes, int] | Refusal:
    """The bytes of a file and the second of its last change, see ``storage.read_dated``; or why there are none.

    Args:
        uri: A URI that is not local, of any form.
        max_bytes: One byte more is read at most.
        home: Where the table lies.

    Raises:
        StorageError: The host that the table lies on does not answer.
    """
    name, began = _host_of(uri), time.monotonic()
    host = _hosts.setdefault(name, _Host())
    if began < host.rests_until:
        return Refusal("unreadable", f"{shown(uri)}: {name} has not answered before; it was not asked again")
    found: tuple[bytes, int] | Refusal
    try:
        # S3 has bounds of its own, and ends by itself.
        found = storage.read_dated(uri, max_bytes) if storage.is_s3(uri) else _read(uri, max_bytes)
    except FileNotFoundError:
        found = Refusal("gone", f"{shown(uri)} is not there")
    except (StorageError, TimeoutError) as error:
        if name == _host_of(home):
            raise StorageError(_told(uri, error)) from error
        host.waited_s += time.monotonic() - began
        if host.waited_s >= PATIENCE_S:
            host.waited_s, host.rests_until = 0.0, time.monotonic() + REST_S
        return Refusal("unreadable", _told(uri, error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - nobody knows what the library behind an address raises
        found = Refusal("unreadable", _told(uri, error))
    # Whatever it says, this is an answer.
    host.waited_s = 0.0
    return found


def _read(uri: str, max_bytes: int) -> tuple[bytes, int]:
    """What fsspec opens, within ``ANSWER_S``."""
    return _within(ANSWER_S, lambda: _content(uri, max_bytes + 1)), 0


def _content(uri: str, limit: int) -> bytes:
    filesystem, path = storage.resolve(uri)
    pieces: list[bytes] = []
    # Without pyarrow between: a thread that is left alone inside its code would take the process down at the end.
    with told_unless_missing(uri), faults_kept(), filesystem.handler.fs.open(path, "rb") as stream:
        while limit and (piece := stream.read(limit)):
            pieces.append(piece)
            limit -= len(piece)
    return b"".join(pieces)


def _within(seconds: float, function: Callable[[], _T]) -> _T:
    """What a function returns or raises. One that is not done in time is left alone, in a thread that ends with us."""
    done: queue.SimpleQueue[Callable[[], _T]] = queue.SimpleQueue()

    def work() -> None:
        try:
            found = function()
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            done.put(partial(_raise, error))
        else:
            done.put(lambda: found)

    threading.Thread(target=work, name="cnnjob.remote", daemon=True).start()
    try:
        answer = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    return answer()


def _raise(error: BaseException) -> NoReturn:
    raise error


def _told(uri: str, error: Exception) -> str:
    """One line that begins with the address; of an error of a library's own also its kind."""
    text = shown(" ".join(str(error).split()))
    if not isinstance(error, UserError | StorageError | TimeoutError):
        text = f"{type(error).__name__}: {text}"
    return text[:500] if text.startswith(shown(uri)) else f"{shown(uri)}: {text}"[:500]


def _host_of(uri: str) -> str:
    """Who is asked: of a chain the last link, of a bucket its store."""
    last = uri.rpartition("::")[2]
    if storage.is_s3(last):
        return shown(endpoint_of(last) or "AWS")
    try:
        parts = urlsplit(last)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return last
