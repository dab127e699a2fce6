"""Reading ahead changes nothing but when things are made."""

import threading
import time

import pytest

from cnnjob.ahead import ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_items_come_in_order(count):
    """The items are those of the iterator, in its order, and the thread is gone at the end."""
    assert list(ahead(iter(range(count)))) == list(range(count))
    assert not threads()


def test_one_item_is_made_ahead():
    """While an item is used the next is made, and none after it."""
    made = []
    items = ahead(made.append(number) or number for number in range(10))
    for number in range(5):
        assert next(items) == number
        time.sleep(0.02)
        assert made == list(range(number + 2))
    items.close()
    assert not threads()


def test_an_error_comes_where_its_item_would():
    """What making the third item raised is raised after the second, as it is."""

    def broken():
        yield from (1, 2)
        raise OSError("gone")

    items = ahead(broken())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(items)
    assert not threads()
