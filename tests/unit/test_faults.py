"""What storage does when the network or the server of a bucket fails: a bounded number of tries, and the truth."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from cnnjob import exclusive, object_store, storage, swap
from cnnjob.errors import StorageError
from tests.faults import Fault
from tests.servers import told
from tests.unit.test_swap import swapped, unique

pytestmark = pytest.mark.slow

OLD, NEW = b"old " * 50_000, b"new " * 50_000
REQUESTS = {"read": 2, "write": 1, "list": 1, "remove": 5, "swap.read": 1, "swap": 2, "create": 2}
"""How many requests an action is made of, each of which may be tried a bounded number of times."""


def actions(folder: str) -> dict[str, object]:
    """What is done to the file of each name; all may be done at the same time."""
    uri = {name: storage.join(folder, name, "file") for name in REQUESTS}
    return {
        "read": lambda: storage.read_bytes(uri["read"]),
        "write": lambda: storage.write_bytes(uri["write"], NEW),
        "list": lambda: storage.list_files(storage.parent(uri["list"])),
        "remove": lambda: storage.remove(uri["remove"]),
        "swap.read": lambda: swap.read(uri["swap.read"]).content,
        "swap": lambda: swapped(uri["swap"], NEW),
        "create": lambda: exclusive.create(uri["create"], NEW),
    }


RESULTS = {"read": OLD, "list": ["file"], "swap.read": OLD, "swap": True, "create": True}
AFTER = {"read": OLD, "write": NEW, "list": OLD, "remove": None, "swap.read": OLD, "swap": NEW, "create": NEW}


@pytest.fixture
def folder(s3, s3_folder, proxy) -> str:
    """A folder behind the proxy, with a file for each action but that which creates one."""
    for name in REQUESTS:
        if name != "create":
            storage.write_bytes(f"{storage.join(s3_folder, name, 'file')}?endpoint_override={s3.endpoint}", OLD)
    return s3_folder


def there(s3, folder: str, name: str) -> bytes | None:
    """The truth: what the server has."""
    try:
        return storage.read_bytes(f"{storage.join(folder, name, 'file')}?endpoint_override={s3.endpoint}")
    except FileNotFoundError:
        return None


def be_impatient(monkeypatch, kind: str) -> None:
    """Wait less for answers where none will come; long enough for those that come from a busy machine."""
    if kind in {"hang", "silence"}:
        monkeypatch.setattr(object_store, "S3_REQUEST_TIMEOUT_S", {"hang": 1.0, "silence": 3.0}[kind])


def at_once(tasks) -> list:
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


@pytest.mark.parametrize("kind", ["busy", "hang", "lose", "reset"])
def test_what_fails_for_ever_is_given_up(s3, folder, proxy, monkeypatch, kind):
    """Each action ends after a bounded number of requests with what is clear to a person, and nothing is half there."""
    be_impatient(monkeypatch, kind)
    proxy.faults.append(Fault(kind))

    def fails(name: str, action) -> None:
        message = told(action, StorageError)
        assert f"{folder}/{name}" in message
        assert "Nothing is lost" in message
        assert len(proxy.asked(f"/{name}")) <= object_store.S3_ATTEMPTS * REQUESTS[name]

    at_once([lambda name=name, action=action: fails(name, action) for name, action in actions(folder).items()])
    for name, after in AFTER.items():
        before = None if name == "create" else OLD
        assert there(s3, folder, name) in {before, after}


@pytest.mark.parametrize("kind", ["busy", "silence", "break", "cut", "slow"])
def test_what_fails_once_is_overcome(s3, folder, proxy, monkeypatch, kind):
    """A fault at the first request of each action costs nothing but time: all is as if it had not been."""
    be_impatient(monkeypatch, kind)
    proxy.faults += [Fault(kind, times=1, only=f"/{name}") for name in REQUESTS]
    done = actions(folder)
    results = dict(zip(done, at_once(list(done.values())), strict=True))
    assert {name: result for name, result in results.items() if result is not None} == RESULTS
    assert {name: there(s3, folder, name) for name in REQUESTS} == AFTER


@pytest.mark.parametrize("kind", ["busy", "lose"])
def test_an_upload_in_parts_is_whole_or_not_at_all(s3, folder, proxy, kind):
    """A large file of which the upload fails at any request leaves the old content; failing once costs only time."""
    large = random.Random(0).randbytes(12_000_000)
    uri = storage.join(folder, "write", "file")
    for only in ("?uploads", "partNumber=2", "?uploadId"):
        proxy.faults = [Fault(kind, only=only)]
        told(lambda: storage.write_bytes(uri, large), StorageError)
        is_carried_out = only == "?uploadId" and kind == "lose"
        assert there(s3, folder, "write") == (large if is_carried_out else OLD)
        storage.write_bytes(f"{uri}?endpoint_override={s3.endpoint}", OLD)
    proxy.faults = [Fault(kind, times=1, only=only) for only in ("?uploads", "partNumber=2")]
    storage.write_bytes(uri, large)
    assert there(s3, folder, "write") == large


def test_half_a_head_is_no_document(s3, folder, proxy):
    """An answer that ends within its headers is not taken for an empty document, nor for one without a tag."""
    proxy.faults.append(Fault("behead", times=1))
    uri = storage.join(folder, "swap", "file")
    assert swap.read(uri).content == OLD
    assert len(proxy.requests) == 2
    proxy.faults.append(Fault("behead"))
    told(lambda: swap.read(uri), StorageError)


# A swap tells its caller the truth


@pytest.mark.parametrize(("kind", "times"), [("lose", 1), ("lose", 2), ("silence", 1), ("cut", 1), ("reset", 2)])
def test_a_swap_whose_answer_is_lost_has_won(folder, proxy, monkeypatch, kind, times):
    """A swap that was carried out is a win, though its answer, or the answer to each of its tries, never comes."""
    be_impatient(monkeypatch, kind)
    proxy.faults.append(Fault(kind, times=times, only="PUT"))
    uri, mine = storage.join(folder, "swap", "file"), unique()
    assert swapped(uri, mine)
    assert swap.read(uri).content == mine
    assert len(proxy.asked("PUT")) == 2


@pytest.mark.parametrize("kind", ["busy", "break", "hang"])
def test_a_swap_that_never_arrived_has_not_won(s3, folder, proxy, monkeypatch, kind):
    """A swap of which the server saw nothing is told as the world's failure, and the old version stands."""
    be_impatient(monkeypatch, kind)
    proxy.faults.append(Fault(kind, only="PUT"))
    told(lambda: swapped(storage.join(folder, "swap", "file"), unique()), StorageError)
    assert there(s3, folder, "swap") == OLD


@pytest.mark.parametrize("fresh", [False, True])
def test_a_swap_that_was_overtaken_has_lost(s3, folder, proxy, fresh):
    """Where another writer came between the first try and the second, the caller is told that it lost."""
    name = "create" if fresh else "swap"
    uri, others = storage.join(folder, name, "file"), unique()
    expected = None if fresh else swap.read(uri).tag
    assert swap.replace(f"{uri}?endpoint_override={s3.endpoint}", others, expected=expected)
    # The server sees the second try alone, which fails; what the first one did, the caller cannot know.
    proxy.faults.append(Fault("busy", times=1, only="PUT"))
    assert not swap.replace(uri, unique(), expected=expected)
    assert len(proxy.asked("PUT")) == 2
    assert there(s3, folder, name) == others


@pytest.mark.parametrize("fresh", [False, True])
def test_a_swap_that_was_replaced_had_won(s3, folder, proxy, fresh):
    """A swap whose answer got lost and whose version another has replaced since is told that it won."""
    uri, mine, others = storage.join(folder, "create" if fresh else "swap", "file"), unique(), unique()
    direct = f"{uri}?endpoint_override={s3.endpoint}"
    proxy.faults.append(Fault("lose", times=1, only="PUT", then=lambda: swapped(direct, others)))
    assert swapped(uri, mine)
    assert swap.read(uri).content == others


def test_a_swap_that_cannot_know_says_so(s3, folder, proxy):
    """Where two others came after a swap whose answer got lost, nothing tells of it any more, and that is said."""
    uri = storage.join(folder, "swap", "file")
    direct = f"{uri}?endpoint_override={s3.endpoint}"
    twice = lambda: [swapped(direct, unique()) for _ in range(2)]  # noqa: E731
    proxy.faults.append(Fault("lose", times=1, only="PUT", then=twice))
    assert "cannot be told" in told(lambda: swapped(uri, unique()), StorageError)


@pytest.mark.parametrize("seed", range(3))
def test_races_under_faults_have_one_winner(s3, folder, proxy, seed):
    """Of four that swap while answers get lost and requests are refused, one is told that it won, and it has."""
    draw = random.Random(seed)
    uri = storage.join(folder, "swap", "file")
    tag = swap.read(uri).tag
    proxy.faults += [
        Fault(draw.choice(["busy", "break", "lose", "cut", "reset"]), times=1, only="PUT") for _ in range(3)
    ]

    def is_told_it_won(content: bytes) -> bool:
        with suppress(StorageError):  # Refused twice.
            return swap.replace(uri, content, expected=tag)
        return False

    contents = [unique() for _ in range(4)]
    won = at_once([lambda content=content: is_told_it_won(content) for content in contents])
    assert sum(won) == 1
    assert there(s3, folder, "swap") == contents[won.index(True)]
