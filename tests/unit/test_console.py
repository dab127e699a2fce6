"""What people and scripts are told, where it cannot be written."""

import io
import json
import os
from pathlib import Path

import pytest

from pipelines.console import Console, guarded_stdout, write


@pytest.fixture
def full():
    """A stream that has no room."""
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        yield stream


@pytest.fixture
def unread():
    """A stream that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        yield stream


def test_what_finds_no_room_is_told_once(full):
    """The first failure is returned; what follows goes nowhere, and so does what is left when the stream is closed."""
    assert write(full, "a").strerror == "No space left on device"
    assert write(full, "b") is None


def test_who_has_gone_misses_nothing(unread):
    """A reader that has gone is no failure."""
    assert write(unread, "a") is None
    assert write(unread, "b") is None


@pytest.mark.parametrize("put", ["say", "result", "table"])
def test_a_console_knows_what_was_lost(full, unread, put):
    """Of what is meant for standard output; a table too ends nothing, whoever reads it."""
    values = ("text",) if put != "table" else (["a"], [["b"]])
    for stream, lost in ((full, True), (unread, False)):
        console = Console(as_json=put == "result", out=stream, err=stream)
        getattr(console, put)(*values)
        console.say("more")
        assert (console.lost is not None) == lost


def test_a_table_loses_nothing():
    """Too wide for its lines, the cells of some columns go on in the next line, and others stay whole."""
    out = io.StringIO()
    console = Console(as_json=False, out=out, err=io.StringIO())
    rows = [["raysubmit_" + "j" * 16, "w" * 150]]
    console.table(["job", "what"], rows, unbroken=["job"])
    told = out.getvalue()
    assert "…" not in told
    assert rows[0][0] in told
    assert told.count("w") == 150 + len("what") - 3


@pytest.mark.parametrize("as_json", [True, False])
def test_a_name_that_is_no_text_is_printed_with_escapes(as_json, capfd):
    """A file's name of any bytes is no reason to fail; of a result a script reads the name itself."""
    name = os.fsdecode(b"a\xff")
    with guarded_stdout() as out:
        console = Console(as_json=as_json, out=out, err=io.StringIO())
        console.say(name)
        console.result({"name": name})
    told = capfd.readouterr().out
    assert (json.loads(told)["name"] == name) if as_json else (told == "a\\udcff\n")


def test_a_note_that_finds_no_room_is_no_failure(full):
    """Standard error is for who looks on."""
    console = Console(as_json=False, out=full, err=full)
    console.note("a")
    assert console.lost is None
