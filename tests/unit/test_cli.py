"""The command line as a whole."""

import pytest
from typer.main import get_command

from cnnjob.errors import UserError
from pipelines import cli
from pipelines.command import place_of, state_of, tracking_of


def test_every_option_says_what_it_takes():
    """In the help an option that takes a value has a word of its own for it, and not the name of a type."""
    for name, command in get_command(cli.app).commands.items():
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag and option.name != "help":
                assert option.metavar, f"{name} {option.name}"


@pytest.mark.parametrize("text", ["", " ", "~nobody-of-this-name/a", "a\0b"])
def test_an_option_that_is_no_place_is_named(text):
    """A place that is none is the user's mistake, with the option and what would be right."""
    for of, option in ((tracking_of, "--tracking"), (state_of, "--state")):
        with pytest.raises(UserError, match=rf"^{option}.*: .*\. Give a folder"):
            of(text)
    with pytest.raises(UserError, match=r"^--png.*\. Give a file\.$"):
        place_of("--png", text, "a file")


def test_the_state_of_a_head_is_of_this_machine():
    """A URI is no folder that only its owner can read."""
    with pytest.raises(UserError, match="--state s3://bucket is a URI"):
        state_of("s3://bucket")
