"""Files that a table names on other machines: each costs its own row at most, and those of one host bounded time."""

import os
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob import s3_store
from cnnjob.data.decode import Refusal
from cnnjob.data.reach import any_within_reach
from cnnjob.data.sources import remote
from cnnjob.data.sources.files import FileReader
from cnnjob.data.sources.open import open_source
from cnnjob.errors import RefusedRowsError, StorageError
from cnnjob.schema import DETAIL, ID, REASON, URI, refused_table
from cnnjob.scoring.table import current
from tests.helpers import prepare
from tests.nights import Work, folder_of_pictures, score_here
from tests.piles import contents, listing_of, source_config, write_folder
from tests.servers import SILENCE, serving


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """A process that knows of no host yet, and waits for none for long."""
    monkeypatch.setattr(remote, "_hosts", {})
    monkeypatch.setattr(remote, "ANSWER_S", 1.0)
    monkeypatch.setattr(remote, "PATIENCE_S", 1.5)


@pytest.fixture
def closed():
    """The host and port of a server that is gone."""
    with serving((200, b"")) as (endpoint, _):
        pass
    return endpoint.removeprefix("http://")


@pytest.fixture
def away(monkeypatch, closed):
    """S3 at a server that is gone."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{closed}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3_store, "ATTEMPTS", 1)


def table_of(folder, uris):
    pq.write_table(pa.table({"uri": uris, "label": [k % 2 for k in range(len(uris))]}), folder / "t.parquet")
    return folder / "t.parquet"


def test_any_address_costs_its_row_at_most(tmp_path, closed, away):
    """A bucket, a server that is gone, what nothing opens and what a library stumbles over refuse their own rows."""
    odd = ["s3://bucket", "s3://bucket/a", f"ftp://{closed}/a", f"http://{closed}/a", "http://", "http://h:99999/x"]
    odd += [
        "gopher://a/b",
        "dir://a",
        "dbfs://a/b",
        "tar://a::/dev/null",
        "s3://me:secret@bucket/a",
        "zip://a::/none.zip",
    ]
    (tmp_path / "a.bin").write_bytes(b"here")
    listing = listing_of(source_config("manifest", table_of(tmp_path, ["a.bin", *odd])))
    found = contents(listing)
    assert found.pop("a.bin") == b"here"
    assert {uri: refusal.reason for uri, refusal in found.items()} == {
        uri: "gone" if uri.endswith(("none.zip", "99999/x")) else "unreadable" for uri in odd
    }
    assert not any("secret" in refusal.detail or "\n" in refusal.detail for refusal in found.values())


def test_a_silent_host_is_waited_for_a_few_times(tmp_path):
    """After a few rows without an answer those of the host are refused at once; other hosts are asked as before."""
    with serving((SILENCE, b"")) as (silent, asked), serving((200, b"here")) as (other, _):
        uris = [f"{silent}/{k}" for k in range(50)] + [f"{other}/{k}" for k in range(3)]
        began = time.monotonic()
        found = contents(listing_of(source_config("manifest", table_of(tmp_path, uris))))
        assert time.monotonic() - began < 20
    assert 0 < len(asked) <= 2
    assert [found[uri] for uri in uris[50:]] == [b"here"] * 3
    assert found[uris[0]].detail == f"{uris[0]}: no answer in 1 s"
    assert "was not asked again" in found[uris[49]].detail
    assert {refusal.reason for uri, refusal in found.items() if uri in uris[:50]} == {"unreadable"}


def test_a_process_ends_well_while_a_host_is_silent():
    """What is no longer waited for neither holds the process up at its end nor takes it down."""
    code = "import sys; from cnnjob.data.sources import remote; remote.ANSWER_S = 0.3; remote.fetch(sys.argv[1], 10)"
    with serving((SILENCE, b"")) as (silent, _):
        began = time.monotonic()
        ended = subprocess.run([sys.executable, "-c", code, f"{silent}/a"], capture_output=True, check=False)
        assert time.monotonic() - began < 30
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_host_that_rested_is_asked_again(monkeypatch):
    """What did not answer may do so later: after its rest it is asked, and an answer makes up for all before."""
    monkeypatch.setattr(remote, "REST_S", 0.1)
    with serving((SILENCE, b""), (SILENCE, b""), (200, b"here")) as (endpoint, asked):
        first = [remote.fetch(f"{endpoint}/a", 10) for _ in range(3)]
        time.sleep(0.1)
        last = remote.fetch(f"{endpoint}/a", 10)
    assert all(isinstance(each, Refusal) for each in first)
    assert last == (b"here", 0)
    assert len(asked) > 2


def test_a_server_that_has_not_what_is_asked_for_is_asked_on(monkeypatch):
    """That a file is not there, or not for us, is an answer: any number of them is no silence."""
    monkeypatch.setattr(remote, "PATIENCE_S", 0.0)
    for status, reason in ((404, "gone"), (403, "unreadable")):
        with serving((status, b"")) as (endpoint, asked):
            found = [remote.fetch(f"{endpoint}/{k}?key=secret", 10) for k in range(5)]
        assert [each.reason for each in found] == [reason] * 5
        assert len(asked) >= 5
        assert "secret" not in found[0].detail


def test_the_store_of_a_folder_stops_the_job(away):
    """What was listed is there: where its store fails then, no row is refused for it."""
    rows = pa.table({ID: ["a.png"], "_path": pa.nulls(1, pa.binary()), "_size": [3], "_mtime_ns": [1]})
    with pytest.raises(StorageError, match="did not answer"):
        list(FileReader("s3://bucket/photos", 10).read(rows))


@pytest.mark.parametrize("uri", ["a.png", "s3://other/a.png"])
def test_the_store_of_a_table_stops_the_job(away, uri):
    """A table was read from its store: where that fails then, no row is refused for it, and the job goes on later."""
    rows = pa.table({ID: ["a"], "_path": [uri.encode()], "_size": [-1], "_mtime_ns": [0]})
    with pytest.raises(StorageError, match="did not answer"):
        list(FileReader("s3://bucket/photos", 10, anywhere=True).read(rows))


def test_a_disk_that_does_not_give_a_file_costs_a_row(tmp_path):
    """A file that opens and cannot be read is its row's refusal."""
    found = contents(listing_of(source_config("manifest", table_of(tmp_path, ["/proc/self/mem", "b"]))))
    assert found["/proc/self/mem"] == Refusal("unreadable", "/proc/self/mem: the disk does not give its bytes")


def test_a_file_that_only_opens_is_not_within_reach(tmp_path):
    """One whose bytes the disk does not give would be refused again: it is no reason to do all anew."""
    row = {ID: "a", URI: "/proc/self/mem", REASON: "unreadable", DETAIL: "/proc/self/mem: the disk does not give"}
    pq.write_table(refused_table([row]), tmp_path / "refused")
    assert not any_within_reach({"unreadable": 1}, str(tmp_path / "refused"), 10)


@pytest.mark.parametrize("length", [1, 50], ids=["cut", "whole"])
def test_an_answer_that_is_cut_is_not_within_reach(tmp_path, monkeypatch, length):
    """A server that gives the first bytes alone has not the file; with all of them it has, query or not."""
    monkeypatch.setattr(remote, "ANSWER_S", 5.0)
    with serving((200, b"x" * length)) as (endpoint, _):
        uri = f"{endpoint}/a?key=1"
        row = {ID: "a", URI: uri, REASON: "unreadable", DETAIL: f"{endpoint}/a: the store failed"}
        pq.write_table(refused_table([row]), tmp_path / "refused")
        if length == 1:
            monkeypatch.setattr(remote, "_read", _cut)
        assert any_within_reach({"unreadable": 1}, str(tmp_path / "refused"), 100) is (length > 1)


def _cut(uri: str, max_bytes: int) -> tuple[bytes, int]:
    if max_bytes > 1:
        raise StorageError(f"{uri}: the store failed")
    return b"x", 0


@pytest.fixture
def work(bundle_folder, tmp_path, closed):
    """A table of pictures, some of which are on a server that is gone."""
    pictures = sorted(map(str, folder_of_pictures(tmp_path / "in", 30).rglob("*.png")))

    def make(there: int, share: float) -> Work:
        uris = pictures[:there] + [f"http://{closed}/{k}" for k in range(there, 30)]
        path = table_of(tmp_path, uris)
        options = {"limits": {"max_refused_share": share}}
        return Work(str(bundle_folder), "manifest", str(path), str(tmp_path / "scores"), options=options)

    return make


def test_a_night_is_scored_without_what_does_not_answer(work):
    """A server that is gone costs its rows; with the others the date is published."""
    one = work(28, 0.5)
    assert score_here(one).refused["unreadable"] == 2


def test_a_night_of_which_nothing_answers_is_not_published(work):
    """Where no row can be read, the bound on refused rows keeps the date from being published."""
    one = work(0, 0.5)
    with pytest.raises(RefusedRowsError, match="30 of 30 rows were refused"):
        score_here(one)
    assert current(one.table) is None


def test_preparing_refuses_what_does_not_answer(tmp_path, closed):
    """The same where a data set is prepared: it costs rows within the bound, and nothing is written beyond it."""
    write_folder(tmp_path / "in", {"a": 6, "b": 6})
    there = sorted(map(str, (tmp_path / "in").rglob("*.png")))
    for count, share in ((2, 0.5), (12, 0.1)):
        uris = there[: 12 - count] + [f"http://{closed}/{k}" for k in range(count)]
        config = source_config("manifest", table_of(tmp_path, uris))
        limits = config.limits.model_copy(update={"max_refused_share": share})
        image = config.image.model_copy(update={"height": 8, "width": 8})
        changed = {"limits": limits, "image": image, "output": str(tmp_path / "set")}
        config = config.model_copy(update=changed)
        source = open_source(config)
        if count == 2:
            assert prepare(config, source).refused == {"unreadable": 2}
        else:
            with pytest.raises(RefusedRowsError, match="12 unreadable"):
                prepare(config, source)
