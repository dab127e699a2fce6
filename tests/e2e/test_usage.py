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


def test_a_wrong_word_is_told_without_the_name_of_a_python_error(cnnjob: Command) -> None:
    """What stands in the place of a kind is shown with those that there are."""
    ended = cnnjob("schema", "trains")
    assert ended.code == 2
    assert "Invalid value for 'KIND': 'trains' is not one of 'prepare', 'train'" in " ".join(ended.err.split())


def test_a_folder_that_is_gone_is_a_mistake(tmp_path: Path) -> None:
    """Started in a folder that was removed, a command says so, whatever it was to do."""
    gone = tmp_path / "gone"
    for arguments in ("check conf.yaml", "demo", "schema train"):
        gone.mkdir()
        command = (
            f"rmdir . 2>/dev/null || rmdir {shlex.quote(str(gone))}; exec {sys.executable} -m pipelines {arguments}"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            ["/bin/sh", "-c", command], cwd=gone, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2
        assert ended.stderr.startswith("Error: the folder that this command was started in cannot be used")
        assert ended.stderr.count("\n") == 1


def test_a_folder_whose_name_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    """Linux takes any bytes for a name, and all that is kept is UTF-8: nothing can be kept by a relative path."""
    folder = tmp_path / os.fsdecode(b"a\xff")
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines", "check", CONF],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "cannot be used: its name is no UTF-8" in ended.stderr


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
