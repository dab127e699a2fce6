"""Creating a file on a store of which another writer may have one: what its answers mean."""

import pyarrow as pa
import pytest

from cnnjob import conditional, exclusive, storage
from cnnjob.data import staging
from cnnjob.errors import StorageError, UserError
from tests.servers import failure, serving, told

SLOW = (503, failure("SlowDown"))
REFUSED = (412, failure("PreconditionFailed"))
BUSY = (409, failure("ConditionalRequestConflict"))


def put(s3_folder: str, *plan: tuple[int, bytes]) -> tuple[bool, list[str]]:
    """What a creation comes to on a server that answers as planned, and its requests."""
    with serving(*plan) as (endpoint, requests):
        won = exclusive.create(f"s3://b/a?endpoint_override={endpoint}", b"mine")
    return won, [request.partition(" ")[0] for request in requests]


@pytest.mark.parametrize("uri", ["memory://a/b", "http://host/a"])
def test_other_stores_are_refused(uri):
    """A store that has no conditional writes is refused, with what would do."""
    message = told(lambda: exclusive.create(uri, b"x"), UserError)
    assert uri in message
    assert "a local path or s3://" in message


def test_a_first_answer_is_believed(s3_folder):
    """A write that succeeds needs no other request; a conflict under way is tried again."""
    assert put(s3_folder, (200, b"")) == (True, ["PUT"])
    assert put(s3_folder, BUSY, BUSY, (200, b"")) == (True, ["PUT"] * 3)


def test_a_refusal_is_looked_into(s3_folder):
    """A condition that fails may have been met by a try whose answer got lost: the object tells whose it is."""
    won, requests = put(s3_folder, SLOW, REFUSED, (200, b"mine"))
    assert won
    assert requests[:2] == ["PUT", "PUT"]
    assert not put(s3_folder, SLOW, REFUSED, (200, b"another's"))[0]


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
        message = told(lambda: exclusive.create(where, b"x"), kind)
    assert problem in message
    assert endpoint in message
    assert len(requests) == 1


def test_credentials_are_asked_for(s3_folder, monkeypatch, tmp_path):
    """Without credentials, and with a profile that is not there, the user is told to give some."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "Give credentials" in told(lambda: exclusive.create("s3://bucket/a", b"x"), UserError)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in told(lambda: exclusive.create("s3://bucket/a", b"x"), UserError)


def test_the_query_says_where(s3, s3_folder, monkeypatch):
    """Endpoint and scheme may stand in the URI; a change of the environment is noticed; proxies are passed by."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    host = s3.endpoint.removeprefix("http://")
    queries = (f"endpoint_override={s3.endpoint}", f"endpoint_override={host}&scheme=http&region=us-east-1")
    for name, query in zip("ab", queries, strict=True):
        assert exclusive.create(f"{s3_folder}/{name}?{query}", b"mine")
    assert storage.read_bytes(f"{s3_folder}/a?{query}") == b"mine"
    told(lambda: exclusive.create(f"{s3_folder}/c?{query}&anonymous=true", b"x"), UserError)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    told(lambda: exclusive.create(f"{s3_folder}/c?{query}", b"x"), UserError)


def test_a_store_without_conditions_is_looked_at_first(s3_folder):
    """Where a server has no conditional writes, what is there is compared just before it is written over."""
    plan = ((501, failure("NotImplemented")), (404, failure("NoSuchKey")), (200, b""))
    with serving(*plan) as (endpoint, requests):
        assert conditional.replace(f"s3://b/a?endpoint_override={endpoint}", b"mine", None)
    assert [request.partition(" ")[0] for request in requests] == ["PUT", "HEAD", "PUT"]


def test_units_are_staged_on_a_store_without_conditions(s3_folder):
    """A unit of ``prepare`` is staged where a server has no conditional writes, as its data set is published there."""
    plan = ((501, failure("NotImplemented")), (404, failure("NoSuchKey")), (200, b""))
    with serving(*plan) as (endpoint, requests):
        where = f"s3://b/000000.arrow?endpoint_override={endpoint}"
        staging._write_staged(where, pa.table({"id": ["a"]}), 1, [], is_new=True)
    assert [request.partition(" ")[0] for request in requests] == ["PUT", "HEAD", "PUT"]


def test_only_what_was_seen_is_replaced(s3_folder):
    """Of two writers that saw the same object one replaces it; none does where it is gone, or came meanwhile."""
    uri = storage.join(s3_folder, "manifest.json")
    assert conditional.version_of(uri) is None
    assert conditional.replace(uri, b"one", None)
    assert not conditional.replace(uri, b"other", None)
    seen = conditional.version_of(uri)
    assert conditional.replace(uri, b"two", seen)
    assert not conditional.replace(uri, b"three", seen)
    assert storage.read_bytes(uri) == b"two"
    seen = conditional.version_of(uri)
    storage.remove(uri)
    assert not conditional.replace(uri, b"four", seen)
    assert not storage.exists(uri)
