"""A document that is replaced by compare-and-swap: one winner, always whole, whoever is killed where."""

import json
import multiprocessing
import os
import signal
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnnjob import conditional, phases, storage, swap
from cnnjob.errors import StorageError, UserError
from tests.servers import failure, serving, told

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cnnjob.swap"])
PHASES = ["write", "swap", "swapped", "clean"]


def unique(text: str = "") -> bytes:
    return f"{text} {uuid.uuid4().hex}".encode()


@pytest.fixture
def local(tmp_path) -> str:
    return str(tmp_path / "deep" / "document.json")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def uri(request) -> str:
    """A document that is not there yet, in each kind of store."""
    if request.param == "local":
        return request.getfixturevalue("local")
    return storage.join(request.getfixturevalue("s3_folder"), "document.json")


def swapped(uri: str, content: bytes) -> bool:
    """Replace whatever is there."""
    before = swap.read(uri)
    return swap.replace(uri, content, expected=before and before.tag)


def test_a_document_is_replaced_by_who_knows_it(uri):
    """The first version needs nothing to be there, each next one the tag of the one before, and reads are whole."""
    assert swap.read(uri) is None
    tags = [None]
    for content in (b"", unique("second"), unique("third")):
        assert swap.replace(uri, content, expected=tags[-1])
        found = swap.read(uri)
        assert found.content == content
        tags.append(found.tag)
    assert len(set(tags)) == 4
    for old in tags[:-1]:
        assert not swap.replace(uri, unique(), expected=old)
        assert swap.read(uri) == found


def test_a_tag_of_nothing_wins_nothing(uri):
    """A tag that no version has replaces nothing, also where no document is."""
    assert not swap.replace(uri, unique(), expected="0" * 32)
    assert swap.read(uri) is None
    assert swap.replace(uri, unique(), expected=None)
    assert not swap.replace(uri, unique(), expected="0" * 32)


def is_tidy(uri: str) -> None:
    """Of the document there is one version, and its pointer."""
    folder, name = Path(uri).parent, Path(uri).name
    files = storage.list_files(str(folder))
    assert len(files) == 2
    assert all(file.startswith(f"{name}/") for file in files)
    assert [path.name for path in folder.iterdir()] == [name]


def race(uri: str, expected: str | None, contents: list[bytes]) -> list[bytes]:
    """The contents that won, all tried at once."""
    barrier = threading.Barrier(len(contents))

    def go(content: bytes) -> bool:
        barrier.wait()
        return swap.replace(uri, content, expected=expected)

    with ThreadPoolExecutor(len(contents)) as pool:
        return [content for content, won in zip(contents, pool.map(go, contents), strict=True) if won]


def races(uri: str, count: int) -> None:
    for number in range(count):
        before = swap.read(uri)
        won = race(uri, before and before.tag, [unique(f"{number} {each}") for each in range(4)])
        assert won == [swap.read(uri).content]


def test_one_of_four_wins(local):
    """Of four that replace one version at the same time exactly one wins, and its content is what all then read."""
    for number in range(5):
        races(f"{local}{number}", 20)


@pytest.mark.slow
def test_one_of_four_wins_on_s3(s3_folder):
    """On S3 too: ten races for a document that is not there, ten for a newer version of one."""
    for number in range(10):
        races(storage.join(s3_folder, str(number)), 2)


def add_up(uri: str, times: int) -> None:
    """Add one to the number in the document, again and again until it is won, so often."""
    for _ in range(times):
        while True:
            before = swap.read(uri)
            number = int(before.content.split()[0]) if before else 0
            if swap.replace(uri, unique(str(number + 1)), expected=before and before.tag):
                break


def test_no_addition_is_lost(local):
    """Four processes that add to one number lose no addition, and a reader never sees it smaller or damaged."""
    workers = [PROCESSES.Process(target=add_up, args=(local, 50), daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    seen = [0]
    while any(worker.is_alive() for worker in workers):
        found = swap.read(local)
        if found is not None:
            number, _ = found.content.split()
            seen.append(int(number))
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert seen == sorted(seen)
    assert int(swap.read(local).content.split()[0]) == 200
    is_tidy(local)


# Kills


def swap_apart(uri: str, content: bytes, phase: str, mark: Path, blow: str = "SIGKILL") -> multiprocessing.Process:
    """A process that replaces what is there, and is struck at a phase."""
    fault = {"phase": phase, "signal": blow, "mark": str(mark), "where": {}}
    process = PROCESSES.Process(target=_swap, args=(uri, content, json.dumps([fault]), dict(os.environ)), daemon=True)
    process.start()
    return process


def _swap(uri: str, content: bytes, faults: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.environ[phases.ENVIRONMENT] = faults
    swapped(uri, content)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("versions", [0, 1, 3])
def test_killed_anywhere_it_is_whole(local, tmp_path, phase, versions):
    """Killed at any step, the old version or the new one is there, whole; the next swap works and tidies up."""
    old = None
    for _ in range(versions):
        old = unique()
        assert swapped(local, old)
    new, mark = unique(), tmp_path / "mark"
    process = swap_apart(local, new, phase, mark)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert mark.exists()
    found = swap.read(local)
    assert (found and found.content) == (old if phase in {"write", "swap"} else new)
    next_one = unique()
    assert swapped(local, next_one)
    assert swap.read(local).content == next_one
    is_tidy(local)


@pytest.mark.parametrize("phase", PHASES)
def test_who_sleeps_holds_up_nobody(local, tmp_path, phase):
    """A writer that is stopped at any step keeps nobody from swapping, and when it wakes it has lost or it had won."""
    for versions in range(2):
        stopped, mark = unique("stopped"), tmp_path / f"mark{versions}"
        process = swap_apart(local, stopped, phase, mark, "SIGSTOP")
        while not mark.exists():
            assert process.is_alive()
        contents = [unique() for _ in range(3)]
        assert all(swapped(local, content) for content in contents)
        os.kill(process.pid, signal.SIGCONT)
        process.join()
        assert process.exitcode == 0
        assert swap.read(local).content == contents[-1]
        assert swapped(local, unique())
        is_tidy(local)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["swap", "swapped"])
def test_killed_on_s3_it_is_whole(s3_folder, tmp_path, phase):
    """On S3 a put is one step: killed before it the old version is there, after it the new one."""
    uri, old, new = storage.join(s3_folder, "document"), unique(), unique()
    swapped(uri, old)
    process = swap_apart(uri, new, phase, tmp_path / "mark")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert swap.read(uri).content == (old if phase == "swap" else new)
    assert swapped(uri, unique())


# What disks and stores do


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("versions", [0, 1])
def test_a_full_disk_loses_nothing(local, monkeypatch, step, versions):
    """A step that fails before the swap is told as the world's failure; the old version stays, and nothing else."""
    for _ in range(versions):
        swapped(local, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        told(lambda: swapped(local, b"new"), StorageError)
    found = swap.read(local)
    assert (found and found.content) == (b"old" if versions else None)
    assert len(storage.list_files(str(Path(local).parent))) == 2 * versions


def test_a_document_without_its_version_is_told(local):
    """A folder from which the version was removed by hand is told as damage, with what to do."""
    swapped(local, b"x")
    for file in Path(local).iterdir():
        file.unlink()
    assert "remove the folder" in told(lambda: swap.read(local), StorageError)


@pytest.mark.parametrize("uri", ["memory://a/b", "http://host/a"])
def test_other_stores_are_refused(uri):
    """A store that has no conditional writes is refused, with what would do."""
    for action in (lambda: swap.read(uri), lambda: swap.replace(uri, b"x", expected=None)):
        message = told(action, UserError)
        assert uri in message
        assert "a local path or s3://" in message


# Answers of a store. The real ones are in test_faults.py.

SLOW = (503, failure("SlowDown"))
REFUSED = (412, failure("PreconditionFailed"))
BUSY = (409, failure("ConditionalRequestConflict"))


def put(s3_folder: str, *plan: tuple[int, bytes], content: bytes = b"mine") -> tuple[bool, list[str]]:
    with serving(*plan) as (endpoint, requests):
        won = swap.replace(f"s3://b/a?endpoint_override={endpoint}", content, expected=None)
    return won, [request.partition(" ")[0] for request in requests]


def test_a_refusal_is_believed_at_once(s3_folder):
    """A condition that fails at the first try has failed: nothing is read back."""
    assert put(s3_folder, REFUSED) == (False, ["PUT"])


def test_a_refusal_after_a_lost_answer_is_looked_into(s3_folder):
    """A condition that fails after a failed try may have been met by that one: the object tells."""
    assert put(s3_folder, SLOW, REFUSED, (200, b"mine")) == (True, ["PUT", "PUT", "GET"])
    assert put(s3_folder, BUSY, BUSY, (200, b"")) == (True, ["PUT"] * 3)


def test_what_cannot_be_known_is_said(s3_folder):
    """Where another object is there and nothing tells what it replaced, the caller is told that it cannot be known."""
    message = told(lambda: put(s3_folder, SLOW, REFUSED, (200, b"another's")), StorageError)
    assert "cannot be told" in message


@pytest.mark.parametrize("status", [404, 412])
def test_a_version_that_is_gone_is_lost(s3_folder, status):
    """Replacing a version of an object that is gone fails, however the store says it."""
    code = {404: "NoSuchKey", 412: "PreconditionFailed"}[status]
    with serving((status, failure(code))) as (endpoint, _):
        assert not swap.replace(f"s3://b/a?endpoint_override={endpoint}", b"x", expected='"0"')


def test_a_store_without_conditions_is_told(s3_folder):
    """A server that says it has no conditional writes is the user's to change."""
    assert "no conditional writes" in told(lambda: put(s3_folder, (501, failure("NotImplemented"))), UserError)


@pytest.mark.parametrize(
    ("status", "code", "kind", "problem"),
    [
        (403, "AccessDenied", UserError, "refused access"),
        (400, "ExpiredToken", UserError, "refused access"),
        (400, "AuthorizationHeaderMalformed", UserError, "region"),
        (404, "NoSuchBucket", UserError, "no such bucket"),
        (507, "InsufficientStorage", StorageError, "Nothing is lost"),
    ],
)
def test_refusals_of_a_server(s3_folder, status, code, kind, problem):
    """What a server refuses is told in the same words as when it is read or written otherwise, after one request."""
    with serving((status, failure(code))) as (endpoint, requests):
        where = f"s3://b/TOKEN?endpoint_override={endpoint}"
        for action in (lambda: swap.read(where), lambda: swap.replace(where, b"x", expected=None)):
            message = told(action, kind)
            assert problem in message
            assert endpoint in message
    assert len(requests) == 2


def test_credentials_are_asked_for(s3_folder, monkeypatch, tmp_path):
    """Without credentials, and with a profile that is not there, the user is told to give some."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "Give credentials" in told(lambda: swap.read("s3://bucket/a"), UserError)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in told(lambda: swap.read("s3://bucket/a"), UserError)


def test_the_query_says_where(s3, s3_folder, monkeypatch):
    """Endpoint and scheme may stand in the URI; a change of the environment is noticed; proxies are passed by."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    host = s3.endpoint.removeprefix("http://")
    for query in (f"endpoint_override={s3.endpoint}", f"endpoint_override={host}&scheme=http&region=us-east-1"):
        assert swapped(f"{storage.join(s3_folder, 'a')}?{query}", unique())
    assert storage.read_bytes(f"{s3_folder}/a?{query}") == swap.read(f"{s3_folder}/a?{query}").content
    told(lambda: swap.read(f"{s3_folder}/a?{query}&anonymous=true"), UserError)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    told(lambda: swap.read(f"{s3_folder}/a?{query}"), UserError)


def test_an_object_says_what_it_replaced(s3_folder):
    """In the metadata of each version stands the tag of the one before."""
    uri = storage.join(s3_folder, "a")
    swapped(uri, unique())
    first = conditional.get(uri)
    swapped(uri, unique())
    assert (first.replaces, conditional.get(uri).replaces) == ("nothing", first.tag)
