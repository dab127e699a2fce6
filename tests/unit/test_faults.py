"""What storage does when the network or the server of a bucket fails: a bounded number of tries, and the truth."""

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from cnnjob import exclusive, s3_store, storage
from cnnjob.errors import StorageError
from tests.faults import Fault
from tests.servers import told

pytestmark = pytest.mark.slow

OLD, NEW = b"old " * 50_000, b"new " * 50_000
REQUESTS = {"read": 2, "write": 1, "list": 1, "remove": 5, "create": 3}
"""How many requests an action is made of, each of which may be tried a bounded number of times."""


def actions(folder: str) -> dict[str, object]:
    """What is done to the file of each name; all may be done at the same time."""
    uri = {name: storage.join(folder, name, "file") for name in REQUESTS}
    return {
        "read": lambda: storage.read_bytes(uri["read"]),
        "write": lambda: storage.write_bytes(uri["write"], NEW),
        "list": lambda: storage.list_files(storage.parent(uri["list"])),
        "remove": lambda: storage.remove(uri["remove"]),
        "create": lambda: exclusive.create(uri["create"], NEW),
    }


RESULTS = {"read": OLD, "list": ["file"], "create": True}
AFTER = {"read": OLD, "write": NEW, "list": OLD, "remove": None, "create": NEW}


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
        monkeypatch.setattr(s3_store, "REQUEST_TIMEOUT_S", {"hang": 1.0, "silence": 3.0}[kind])


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
        assert len(proxy.asked(f"/{name}")) <= s3_store.ATTEMPTS * REQUESTS[name]

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


# A write on a condition tells its caller the truth


def unique() -> bytes:
    """A content that no other writer has."""
    return uuid.uuid4().hex.encode()


@pytest.mark.parametrize(("kind", "times"), [("lose", 1), ("lose", 2), ("silence", 1), ("cut", 1), ("reset", 2)])
def test_a_creation_whose_answer_is_lost_has_won(s3, folder, proxy, monkeypatch, kind, times):
    """A file that was created is this writer's, though the answer, or the answer to each of its tries, never comes."""
    be_impatient(monkeypatch, kind)
    proxy.faults.append(Fault(kind, times=times, only="PUT"))
    mine = unique()
    assert exclusive.create(storage.join(folder, "create", "file"), mine)
    assert there(s3, folder, "create") == mine


@pytest.mark.parametrize("kind", ["busy", "break", "hang"])
def test_a_creation_that_never_arrived_has_not_won(s3, folder, proxy, monkeypatch, kind):
    """A creation of which the server saw nothing is told as the world's failure, and nothing is there."""
    be_impatient(monkeypatch, kind)
    proxy.faults.append(Fault(kind, only="PUT"))
    told(lambda: exclusive.create(storage.join(folder, "create", "file"), unique()), StorageError)
    assert there(s3, folder, "create") is None


def test_a_creation_that_was_overtaken_has_lost(s3, folder, proxy):
    """Where another writer came between the first try and the second, the caller is told that it lost."""
    uri, others = storage.join(folder, "create", "file"), unique()
    assert exclusive.create(f"{uri}?endpoint_override={s3.endpoint}", others)
    proxy.faults.append(Fault("busy", times=1, only="PUT"))
    assert not exclusive.create(uri, unique())
    assert there(s3, folder, "create") == others


@pytest.mark.parametrize("seed", range(3))
def test_races_under_faults_have_one_winner(s3, folder, proxy, seed):
    """Of four that create while answers get lost and requests are refused, one is told that it won, and it has."""
    draw = random.Random(seed)
    uri = storage.join(folder, "create", "file")
    kinds = [draw.choice(["busy", "break", "lose", "cut", "reset"]) for _ in range(3)]
    proxy.faults += [Fault(kind, times=1, only="PUT") for kind in kinds]

    def is_told_it_won(content: bytes) -> bool:
        with suppress(StorageError):  # Refused again and again.
            return exclusive.create(uri, content)
        return False

    contents = [unique() for _ in range(4)]
    won = at_once([lambda content=content: is_told_it_won(content) for content in contents])
    assert sum(won) == 1
    assert there(s3, folder, "create") == contents[won.index(True)]
