"""A command that is called with options that it does not have, or without what it needs."""

import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, Command


@pytest.mark.parametrize("arguments", [("score",), ("train", "conf.yaml", "--bogus"), ("trace", "--classes", "abc")])
def test_a_wrong_call_is_one_object_for_a_script(cnnjob: Command, arguments: tuple[str, ...]) -> None:
    """With --json a wrong call is one object on standard output too, beside the usage on standard error."""
    ended = cnnjob(*arguments, "--json")
    assert (ended.code, ended.json["exit_code"], ended.json["error"]) == (2, 2, "UsageError")
    assert ended.json["message"] in " ".join(ended.err.split())
    plain = cnnjob(*arguments)
    assert (plain.code, plain.out, plain.err) == (2, "", ended.err)


def test_a_reader_that_has_gone_is_no_failure() -> None:
    """A command whose output nobody reads any more ends quietly: its work is done."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pipelines", "check", str(ROOT / "conf/train/digits.yaml"), "--json"]
    ended = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")
