import pickle

import pytest

from cnnjob import errors
from cnnjob.errors import CnnjobError, ConfigError, FormatVersionError, JobError, Mistake, UserError


def family(base: type) -> set[type]:
    return {base}.union(*(family(child) for child in base.__subclasses__()))


def test_exit_codes_tell_user_from_world():
    """A user's mistake ends with 2, a failed work with 1."""
    assert {error.exit_code for error in family(UserError)} == {2}
    assert {error.exit_code for error in family(JobError)} == {1}


@pytest.mark.parametrize("error", sorted(family(CnnjobError), key=lambda error: error.__name__))
def test_errors_are_drawn_in_the_tree(error):
    """Every error of the family stands in the module's drawing."""
    assert error.__name__ in errors.__doc__


def test_config_error_survives_a_process_boundary():
    """A ConfigError keeps its place and its mistakes when it is pickled, as between a worker and its driver."""
    error = ConfigError("conf.yaml", [Mistake("seed", "is odd"), Mistake("name", "is long")])
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.where, copy.mistakes, str(copy)) == (error.where, error.mistakes, str(error))


def test_config_error_counts_its_mistakes():
    """The message has the file, the number of mistakes and each of them."""
    error = ConfigError("conf.yaml", [Mistake("seed", "is odd"), Mistake("name", "is long")])
    assert str(error) == "conf.yaml has 2 mistakes:\n  seed: is odd\n  name: is long"


def test_format_version_error_says_both_versions():
    """The error about a format version has the version found and the version known."""
    message = str(FormatVersionError.of("data set", "manifest.json", 9, 1))
    assert "manifest.json" in message
    assert "version 9" in message
    assert "version 1" in message
