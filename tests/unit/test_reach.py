"""Which refused files are looked at again, and when one of them counts as readable."""

import os

import pyarrow.parquet as pq
import pytest

from cnnjob.data.reach import any_within_reach
from cnnjob.schema import DETAIL, ID, REASON, URI, refused_table


@pytest.fixture
def table_of(tmp_path):
    """A table of one refused row."""

    def write(reason, uri, detail):
        pq.write_table(refused_table([{ID: "a", URI: str(uri), REASON: reason, DETAIL: detail}]), tmp_path / "refused")
        return str(tmp_path / "refused")

    return write


@pytest.mark.parametrize(
    ("reason", "detail", "readable"),
    [("gone", "it is not there", True), ("unreadable", "{}: no access", True), ("unreadable", "png: broken", False)],
)
def test_a_file_that_could_not_be_opened_counts(table_of, tmp_path, reason, detail, readable):
    """One that is there now is within reach; one whose bytes were refused has been."""
    (tmp_path / "a.png").touch()
    table = table_of(reason, tmp_path / "a.png", detail.format(tmp_path / "a.png"))
    assert any_within_reach({reason: 1}, table, 10) is readable


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe", "device"])
def test_what_is_no_file_is_not_waited_for(table_of, tmp_path, kind):
    """A pipe whose other end nobody opens, or a device without an end, holds up nothing and is no picture."""
    path = tmp_path / kind
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero")}
    if kind in make:
        make[kind]()
    table = table_of("unreadable", path, f"{path} is not a regular file")
    assert not any_within_reach({"unreadable": 1}, table, 10)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_where_nothing_tells_which_files_they_were_all_is_done_again(tmp_path, content):
    """A table of refused rows that is gone or damaged, where there were such files; without them it is not read."""
    if content is not None:
        (tmp_path / "refused").write_bytes(content)
    assert any_within_reach({"gone": 1}, str(tmp_path / "refused"), 10)
    assert not any_within_reach({"truncated": 1}, str(tmp_path / "refused"), 10)
