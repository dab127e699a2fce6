"""Reading ahead: the next item is made by a thread while the one before it is used."""

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """The same items in the same order, each made while the one before is used.

    Two exist at once: the one that is used, and the next; a user who keeps none of them holds no more. Where the user
    stops early the thread ends with the item that it is making.

    Raises:
        Exception: What making an item raised, where that item would have come.
    """
    ready: SimpleQueue[tuple[Item] | BaseException | None] = SimpleQueue()
    wanted = threading.Semaphore(1)
    closed = threading.Event()

    def work() -> None:
        try:
            while wanted.acquire() and not closed.is_set():
                ready.put((next(items),))
        except StopIteration:
            ready.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the item is waited for
            ready.put(error)

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            wanted.release()
            yield found[0]
            del found
    finally:
        closed.set()
        wanted.release()
        thread.join()
