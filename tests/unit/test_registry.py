"""Versions of a model, what they say of themselves, and what an alias points at. MLflow in a folder, no server."""

import io

import numpy as np
import pytest

from cnnjob.errors import ModelError
from cnnjob.tracking import registry, runs
from cnnjob.tracking.registry import ACCURACY_TAG, DIGEST_TAG, RUN_TAG
from cnnjob.tracking.server import connect
from pipelines import promote, register
from pipelines.console import Console


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with a store; each test takes a model of its own."""
    folder = tmp_path_factory.mktemp("tracking")
    connect(str(folder), create=True)
    return str(folder)


def make(store: str, name: str, *accuracies: str | None) -> None:
    """A model with a version for each accuracy, with it as a tag."""
    client = connect(store).client
    client.create_registered_model(name)
    for accuracy in accuracies:
        client.create_model_version(name, store, tags=None if accuracy is None else {ACCURACY_TAG: accuracy})


def promoted(store: str, name: str, version: str | None = None) -> tuple[promote.PromoteResult, str]:
    """The result of promoting a version, and what is told of it."""
    out = io.StringIO()
    result = promote.run(store, name, version, "champion")
    promote.show(result, Console(as_json=False, out=out, err=io.StringIO()))
    return result, out.getvalue().rstrip("\n")


def test_what_was_and_what_is_are_told(store):
    """The version that an alias points at with its accuracy, and the one it pointed at before."""
    make(store, "told", "0.9771", "0.9829")
    result, text = promoted(store, "told", "1")
    assert (result.model_version, result.previous_version) == ("1", None)
    assert text == "models:/told@champion is version 1 (accuracy 0.9771)"
    result, text = promoted(store, "told")
    assert (result.model_version, result.previous_version) == ("2", "1")
    assert (result.accuracy, result.previous_accuracy) == (0.9829, 0.9771)
    assert text == "models:/told@champion is version 2 (accuracy 0.9829); it was version 1 (0.9771)"
    result, text = promoted(store, "told")
    assert (result.model_version, result.previous_version) == ("2", "2")
    assert text == "models:/told@champion is version 2 (accuracy 0.9829), as before"


@pytest.mark.parametrize("accuracy", [None, "good"])
def test_a_version_that_does_not_say_is_promoted(store, accuracy):
    """A version of another tool, or with another text in the tag, is told without a figure."""
    make(store, f"silent-{accuracy}", accuracy, "0.5")
    promoted(store, f"silent-{accuracy}", "1")
    result, text = promoted(store, f"silent-{accuracy}", "2")
    assert (result.accuracy, result.previous_accuracy) == (0.5, None)
    assert text.endswith("is version 2 (accuracy 0.5000); it was version 1")


@pytest.mark.parametrize(("versions", "told"), [(1, "its newest is 1"), (7, "its newest are 3, 4, 5, 6, 7")])
def test_a_version_that_is_not_there_is_told_with_the_newest(store, versions, told):
    """One version is one, and of many the newest are named."""
    make(store, f"has-{versions}", *[None] * versions)
    with pytest.raises(ModelError, match=f"has no version 99; {told}"):
        registry.promote(connect(store), f"has-{versions}", "99", "champion")


@pytest.mark.parametrize("number", ["2147483648", "9" * 20, "9" * 5000], ids=len)
def test_a_version_beyond_all_is_one_that_is_not_there(store, number):
    """A number that no database holds is told as any other version that does not exist."""
    make(store, f"far-{len(number)}", None)
    with pytest.raises(ModelError, match=f"has no version {number}; its newest is 1"):
        registry.resolve(connect(store), f"models:/far-{len(number)}/{number}")


@pytest.mark.parametrize("number", ["", "-1", "latest", " 1", "\u0661"])
def test_what_is_no_number_is_no_version(store, number):
    """An empty text too, which a script may have for a version, is not taken for the newest."""
    name = f"words-{'-'.join(str(ord(each)) for each in number)}"
    make(store, name, None)
    with pytest.raises(ModelError, match=f"has no version {number or chr(39) * 2}; its newest is 1"):
        registry.promote(connect(store), name, number, "champion")


@pytest.mark.parametrize("number", [None, "1"])
def test_a_name_with_a_quote_is_that_of_no_model(store, number):
    """MLflow cannot search for it; it is a mistake, and no failure of MLflow."""
    with pytest.raises(ModelError, match="there is no model models:/it's"):
        registry.promote(connect(store), "it's", number, "champion")


def test_a_version_says_what_it_is(store, bundle):
    """The test's accuracy and rows and the data are tags beside the digest and the run, and a line is for people."""
    server = connect(store)
    run_id = runs.start_run(server, "experiment", "digits", {}, {})
    tags, said = register._said_of({"accuracy": 172 / 175, "rows": 1750}, 10, "digits", "f" * 64)
    example = np.zeros((1, 3, 32, 32), np.uint8)
    made = registry.register(server, run_id, "digits", bundle, example, tags=tags, description=said)
    assert made == registry.Registered("digits", "1", 0.9829)
    version = server.client.get_model_version("digits", "1")
    assert version.tags == {
        "cnnjob.test_accuracy": "0.9829",
        "cnnjob.test_rows": "1750",
        "cnnjob.data_fingerprint": "f" * 64,
        DIGEST_TAG: bundle.digest,
        RUN_TAG: run_id,
    }
    assert version.description == "epoch 10 of run digits: test accuracy 0.9829 on 1,750 rows"
    assert registry.register(server, run_id, "digits", bundle, example, tags=tags, description=said) == made
