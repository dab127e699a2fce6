"""What storage does with stores that are no local disk: a real S3 server, servers that fail."""

import time
import zipfile

import pyarrow as pa
import pytest

from cnnjob import object_store, s3_store, storage
from cnnjob.errors import IntegrityError, StorageError, UserError
from tests.servers import SILENCE, failure, listing, serving, told

ODD_NAMES = ["what?.png", "50%41.png", "a b+c&d#e.png", "ü 蝶\n.png", "x::y.png", "it's.png"]


def test_objects_come_back_as_they_were_written(s3_folder):
    """What is written to S3 is there, whole, with its size, and is replaced by the next write."""
    uri = storage.join(s3_folder, "deep", "file")
    for content in (b"", b"one", pa.py_buffer(b"three"), b"x" * 12_000_000):
        storage.write_bytes(uri, content)
        assert storage.read_bytes(uri) == content
        assert storage.size(uri) == len(content)
    assert storage.exists(uri)
    assert storage.exists(storage.parent(uri))
    assert not storage.is_local(uri)


def test_documents_come_back_equal(s3_folder):
    """JSON is read back equal, and told as damaged where it is not JSON."""
    uri = storage.join(s3_folder, "x.json")
    storage.write_json(uri, {"ü": [1, None]})
    assert storage.read_json(uri) == {"ü": [1, None]}
    storage.write_bytes(uri, b"{")
    with pytest.raises(IntegrityError, match=r"x\.json"):
        storage.read_json(uri)


def test_only_what_is_asked_for_is_read(s3_folder):
    """A bounded read of an object gives at most one byte more than allowed."""
    uri = storage.join(s3_folder, "file")
    storage.write_bytes(uri, b"x" * 100)
    assert [len(storage.read_bounded(uri, limit)) for limit in (0, 99, 100, 10**12)] == [1, 100, 100, 100]


def test_an_object_is_read_with_two_requests(s3_folder):
    """An object is read with one request for its size and one for its content, however long it is."""
    with serving((200, b"x" * 3_000_000)) as (endpoint, requests):
        assert len(storage.read_bytes(f"s3://b/a?endpoint_override={endpoint}")) == 3_000_000
    assert requests == ["HEAD /b/a", "GET /b/a"]


def test_names_survive_joining_and_listing(s3_folder):
    """Objects with any characters in their names are listed under these, and found again by joining them."""
    for name in ODD_NAMES:
        storage.write_bytes(storage.join(s3_folder, "a", name), name.encode())
    found = storage.list_files(s3_folder)
    assert found == sorted(f"a/{name}" for name in ODD_NAMES)
    assert [storage.read_bytes(storage.join(s3_folder, path)).decode() for path in found] == [p[2:] for p in found]


def test_percent_signs_are_decoded(s3_folder):
    """A URI may have its path percent-encoded, as pyarrow has it."""
    storage.write_bytes(f"{s3_folder}/a%20b", b"x")
    assert storage.list_files(s3_folder) == ["a b"]


def test_missing_objects_are_as_missing_files(s3_folder):
    """What is not there does not exist, has no size, lists no files, can be removed, and is a FileNotFoundError."""
    uri = storage.join(s3_folder, "none")
    assert (storage.exists(uri), storage.size(uri), storage.list_files(uri)) == (False, None, [])
    storage.remove(uri)
    for read in (storage.read_bytes, storage.read_json, lambda each: storage.read_bounded(each, 1)):
        with pytest.raises(FileNotFoundError):
            read(uri)


def test_a_copy_of_what_is_missing(s3_folder):
    """A copy whose source is gone is a FileNotFoundError, as on a disk; where there is a target, that stays."""
    source, target = storage.join(s3_folder, "source"), storage.join(s3_folder, "target")
    with pytest.raises(FileNotFoundError):
        storage.copy(source, target)
    storage.write_bytes(source, b"x")
    storage.copy(source, target)
    storage.remove(source)
    storage.copy(source, target)
    assert storage.read_bytes(target) == b"x"


def test_removal_takes_all_below_and_nothing_beside(s3_folder):
    """Removing takes an object, or all below a prefix, and not what only begins with the same letters."""
    for name in ("a/b/c", "a/d", "ab/e", "f"):
        storage.write_bytes(storage.join(s3_folder, name), b"x")
    storage.remove(storage.join(s3_folder, "f"))
    storage.remove(storage.join(s3_folder, "a"))
    assert storage.list_files(s3_folder) == ["ab/e"]


def test_a_small_object_is_written_with_one_request(s3_folder):
    """Writing a small object is one request: no upload in parts, no bucket created, no markers for folders."""
    with serving((200, b"")) as (endpoint, requests):
        storage.write_bytes(f"s3://b/deep/folder/file?endpoint_override={endpoint}", b"x" * 10_000)
    assert requests == ["PUT /b/deep/folder/file"]


def test_the_query_says_where(s3, s3_folder, monkeypatch):
    """Endpoint, region and scheme may stand in the URI, win over the environment, and stay when names are joined."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_REGION")
    host = s3.endpoint.removeprefix("http://")
    for query in (f"endpoint_override={s3.endpoint}", f"endpoint_override={host}&scheme=http&region=eu-1"):
        uri = storage.join(f"{s3_folder}?{query}", "a")
        storage.write_bytes(uri, query.encode())
        assert storage.read_bytes(uri) == query.encode()
    assert storage.resolve(uri)[0].region == "eu-1"


def test_the_environment_says_where(s3_folder, monkeypatch, s3):
    """AWS_ENDPOINT_URL_S3 goes before AWS_ENDPOINT_URL, and AWS_REGION before AWS_DEFAULT_REGION."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-2")
    storage.write_bytes(storage.join(s3_folder, "a"), b"x")
    assert storage.resolve(s3_folder)[0].region == "us-east-1"
    monkeypatch.delenv("AWS_REGION")
    assert storage.resolve(s3_folder)[0].region == "eu-2"


def test_filesystems_are_shared_until_the_environment_changes(s3_folder, monkeypatch):
    """The same address gives the same filesystem, and another one once an AWS_ variable has changed."""
    first = storage.resolve(s3_folder)[0]
    assert storage.resolve(storage.join(s3_folder, "a"))[0] is first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert storage.resolve(s3_folder)[0] is not first


# Listings


@pytest.fixture(params=["s3", "memory", "zip"])
def tree(request, tmp_path) -> tuple[str, dict[str, int]]:
    """A folder in each kind of store, and the sizes of the files below it."""
    sizes = {f"{a}/{b}/{c}": len(a + b) for a in "xyz" for b in ("1", "22") for c in "pq"} | {"top": 7, "x/mid": 8}
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for path, size in sizes.items():
                archive.writestr(f"in/{path}", bytes(size))
            archive.mkdir("in/empty")
        return f"zip://in::{tmp_path}/a.zip", sizes
    folder = request.getfixturevalue("s3_folder") if request.param == "s3" else f"memory://{tmp_path.name}"
    for path, size in sizes.items():
        storage.write_bytes(storage.join(folder, path), bytes(size))
    if request.param == "s3":
        filesystem, path = storage.resolve(folder)
        filesystem.create_dir(f"{path}/empty")
    return folder, sizes


@pytest.mark.parametrize("free_listings", [1000, 4, 0])
def test_every_file_is_listed_once(tree, monkeypatch, free_listings):
    """Every file comes once, with its size, and no folder or its marker, whenever the walk turns to one listing."""
    monkeypatch.setattr(object_store, "_FREE_LISTINGS", free_listings)
    folder, sizes = tree
    found = list(storage.entries(folder))
    assert len(found) == len(sizes)
    assert {entry.path: entry.size for entry in found} == sizes
    assert storage.list_files(folder) == sorted(sizes)
    assert [len(storage.read_bytes(storage.join(folder, entry.path))) for entry in found] == [e.size for e in found]


def test_entries_know_when_objects_changed(s3_folder):
    """On S3 an entry has the time of the last change."""
    storage.write_bytes(storage.join(s3_folder, "a"), b"x")
    (entry,) = storage.entries(s3_folder)
    assert abs(entry.mtime_ns / 1e9 - time.time()) < 300


def test_a_folder_that_is_missing_is_told(s3_folder, tmp_path):
    """Listing a folder that does not exist is the user's mistake, in any store."""
    for uri in (f"{s3_folder}/none", f"memory://{tmp_path.name}/none", f"zip://::{tmp_path}/none.zip"):
        with pytest.raises(UserError, match="does not exist"):
            list(storage.entries(uri))


@pytest.mark.parametrize("key", ["f//x.png", "f/./x.png", "f/../x.png"])
def test_objects_that_cannot_be_read_are_not_passed_over(s3_folder, key):
    """An object whose name pyarrow cannot express stops the listing, and is not left out of it in silence."""
    with serving((200, listing("f/a.png", key))) as (endpoint, _):
        uri = f"s3://b/f?endpoint_override={endpoint}"
        with pytest.raises(UserError, match="that is empty"):
            list(storage.entries(uri))
        with pytest.raises(UserError, match="that is empty"):
            storage.list_files(uri)
    with pytest.raises(UserError, match="that is empty"):
        storage.write_bytes(f"s3://b/{key}", b"x")


# The user's mistakes


def actions(uri: str) -> dict[str, object]:
    return {
        "read": lambda: storage.read_bytes(uri),
        "write": lambda: storage.write_bytes(uri, b"x"),
        "write much": lambda: storage.write_bytes(uri, b"x" * 12_000_000),
        "size": lambda: storage.size(uri),
        "list": lambda: storage.list_files(uri),
        "entries": lambda: list(storage.entries(uri)),
        "remove": lambda: storage.remove(uri),
    }


@pytest.mark.parametrize("name", ["write", "write much", "list", "entries"])
def test_a_bucket_that_does_not_exist(s3, s3_folder, name):
    """Writing to a bucket that does not exist, or listing it, is told with address and server, and creates none."""
    message = told(actions("s3://no-such-bucket/a/b")[name], UserError)
    assert message.startswith("s3://no-such-bucket/a/b: there is no such bucket")
    assert s3.endpoint in message
    assert not storage.exists("s3://no-such-bucket")


def test_reading_from_a_bucket_that_does_not_exist(s3_folder):
    """S3 answers a read with a bare 404, so the bucket is named among the possible reasons."""
    with pytest.raises(UserError, match="no such bucket, or nothing"), storage.told("s3://no-such-bucket/a"):
        storage.read_bytes("s3://no-such-bucket/a")


@pytest.mark.parametrize("name", ["read", "write", "size", "list", "entries", "remove"])
@pytest.mark.parametrize("wrong", ["key", "secret", "none"])
def test_credentials_that_do_not_fit(s3, s3_folder, monkeypatch, name, wrong):
    """A wrong key, a wrong secret or none at all is the user's mistake whatever is done, and no secret is printed."""
    if wrong == "key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONGKEY")
    elif wrong == "secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    message = told(actions(f"{s3_folder}/a")[name], UserError)
    assert f"{s3_folder}/a: {s3.endpoint} refused access" in message
    assert ("AWS_ACCESS_KEY_ID (not set here)" in message) == (wrong == "none")
    assert "wrong-secret" not in message
    assert s3.secret_key not in message


def test_anonymous_access_uses_no_credentials(s3_folder):
    """anonymous=true goes without the credentials of the environment."""
    storage.write_bytes(storage.join(s3_folder, "a"), b"x")
    told(lambda: storage.read_bytes(f"{s3_folder}/a?anonymous=true"), UserError)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://AKIAKEY:sec/ret@bucket/a", "must not have credentials"),
        ("s3://AKIAKEY@bucket/a", "must not have credentials"),
        ("s3://bucket/a?secret_key=sec/ret", "'secret_key' is no option"),
        ("s3://bucket/what?.png", "%3F"),
        ("s3://bucket/a?scheme=ftp", "scheme=ftp should be http or https"),
        ("s3://bucket/a?anonymous=yes", "anonymous=yes should be true or false"),
        ("s3://bucket/a?region=", "region"),
        ("s3:///a", "names no bucket"),
        ("s3://", "names no bucket"),
        ("s3://bucket//a", "empty"),
        ("file://host/a", "three slashes"),
        ("nosuch://a/b", "Protocol not known: nosuch"),
        ("nosuch://user:sec-ret@host/a", "nosuch://host/a"),
        ("gs://bucket/a", "gcsfs"),
        ("zip://a::gs://bucket/a.zip", "gcsfs"),
    ],
)
def test_addresses_that_say_nothing(uri, problem):
    """An address that cannot be opened is told with the reason and without the secrets in it."""
    message = told(lambda: storage.resolve(uri), UserError)
    assert problem in message
    assert "sec" not in message.replace("secret_key", "")
    assert "ret@" not in message


# The world's failures


@pytest.mark.parametrize(
    ("status", "code", "kind", "problem"),
    [
        (403, "AccessDenied", UserError, "refused access"),
        (403, "ExpiredToken", UserError, "refused access"),
        (400, "AuthorizationHeaderMalformed", UserError, "region"),
        (301, "PermanentRedirect", UserError, "region"),
        (507, "InsufficientStorage", StorageError, "Nothing is lost"),
    ],
)
def test_refusals_of_a_server(s3_folder, status, code, kind, problem):
    """What a server refuses is the user's to correct, what it cannot do is not; neither is tried again."""
    with serving((status, failure(code))) as (endpoint, requests):
        for action in (storage.read_bytes, storage.list_files):
            message = told(lambda action=action: action(f"s3://b/TOKEN?endpoint_override={endpoint}"), kind)
            assert problem in message
            assert endpoint in message
    assert len(requests) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["read", "list"])
def test_a_server_that_is_always_busy(s3_folder, name):
    """A server that answers 503 is asked a bounded number of times, and then the failure is told as the world's."""
    with serving((503, failure("SlowDown"))) as (endpoint, requests):
        message = told(actions(f"s3://b/a?endpoint_override={endpoint}")[name], StorageError)
    assert len(requests) == s3_store.ATTEMPTS
    assert f"{endpoint} failed or did not answer in {s3_store.ATTEMPTS} attempts" in message


def test_a_server_that_recovers(s3_folder):
    """A server that fails twice and then answers costs nothing but the time."""
    busy = (503, failure("SlowDown"))
    with serving(busy, busy, (200, b"hello")) as (endpoint, requests):
        assert storage.read_bytes(f"s3://b/a?endpoint_override={endpoint}") == b"hello"
    assert len(requests) == 4


@pytest.mark.slow
def test_a_server_that_is_gone(s3_folder):
    """A closed port is told within 20 s."""
    with serving((200, b"")) as (endpoint, _):
        pass
    began = time.monotonic()
    message = told(lambda: storage.write_bytes(f"s3://b/a?endpoint_override={endpoint}", b"x"), StorageError)
    assert time.monotonic() - began < 20
    assert "Could not connect" in message
    assert endpoint in message


@pytest.mark.slow
def test_a_server_that_never_answers(s3_folder, monkeypatch, request):
    """A server that accepts and is silent is given up after the request's timeout, once an attempt."""
    monkeypatch.setattr(s3_store, "REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(s3_store, "ATTEMPTS", 2)
    request.addfinalizer(s3_store._connect.cache_clear)
    with serving((SILENCE, b"")) as (endpoint, requests):
        began = time.monotonic()
        message = told(lambda: storage.read_bytes(f"s3://b/a?endpoint_override={endpoint}"), StorageError)
        assert time.monotonic() - began < 20
    assert len(requests) == 2
    assert "too slow" in message


# fsspec
