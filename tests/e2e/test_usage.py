"""A command that is called with options that it does not have, or with standard streams that are closed or full."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Command
from tests.piles import encoded, pixels


@pytest.mark.parametrize("arguments", [("score",), ("train", "conf.yaml", "--bogus"), ("trace", "--classes", "abc")])
def test_a_wrong_call_is_one_object_for_a_script(cnnjob: Command, arguments: tuple[str, ...]) -> None:
    """With --json a wrong call is one object on standard output too, beside the usage on standard error."""
    ended = cnnjob(*arguments, "--json")
    assert (ended.code, ended.json["exit_code"], ended.json["error"]) == (2, 2, "UsageError")
    assert ended.json["message"] in " ".join(ended.err.split())
    plain = cnnjob(*arguments)
    assert (plain.code, plain.out, plain.err) == (2, "", ended.err)


CONF = str(ROOT / "conf/train/digits.yaml")
PRINTING = [("check", CONF), ("check", CONF, "--json"), ("trace",), ("schema", "train"), ("--help",), ("--version",)]
REFUSED = [("check", "nowhere.yaml"), ("check", "nowhere.yaml", "--json"), ("check", "--json"), ("check", "--bogus")]


def run(*arguments: str, after: str = "", **streams: int) -> subprocess.CompletedProcess[str]:
    """A command whose standard streams are those given, after what a shell does with them."""
    command = shlex.join([sys.executable, "-m", "pipelines", *arguments])
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(["/bin/sh", "-c", f"{command} {after}"], cwd=ROOT, text=True, check=False, **streams)


@pytest.mark.parametrize(("arguments", "code"), [*((each, 0) for each in PRINTING), *((each, 2) for each in REFUSED)])
def test_a_reader_that_has_gone_is_no_failure(arguments: tuple[str, ...], code: int) -> None:
    """A command whose output nobody reads any more ends quietly, as it would have: its work is done."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = run(*arguments, stdout=writing)
    os.close(writing)
    assert ended.returncode == code
    assert bool(ended.stderr) == bool(code)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_full_standard_output_is_told_in_a_line(arguments: tuple[str, ...]) -> None:
    """What is printed and finds no room is a failure, told in one line, and nothing is said again at the exit."""
    ended = run(*arguments, after=">/dev/full")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: standard output cannot be written to: No space left on device.")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("after", [">/dev/full", "2>/dev/full", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [("check", "nowhere.yaml"), ("check", "--bogus")])
def test_what_a_mistake_ends_with_does_not_depend_on_the_streams(arguments: tuple[str, ...], after: str) -> None:
    """A wrong input is 2 with any standard stream full or closed."""
    ended = run(*arguments, after=after)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_closed_standard_output_wants_no_lines(tmp_path: Path) -> None:
    """Closed, it takes nothing from people's commands; a result that a script asked for is refused before the work."""
    ended = run("check", CONF, after=">&-")
    assert (ended.returncode, ended.stderr) == (0, "")
    picture = str(tmp_path / "picture.png")
    Path(picture).write_bytes(encoded(pixels(1, 40, 30, 3)[0]))
    ended = run("trace", "--image", picture, "--png", str(tmp_path / "maps.png"), "--json", after=">&-")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: --json prints the result on standard output, and that is closed")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "maps.png").exists()
