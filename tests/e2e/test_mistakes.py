"""A user's mistake: exit code 2, one clear paragraph, nothing written, no traceback. None of these starts Ray."""

import json
from pathlib import Path

import pytest

from cnnjob.schema import DATASET_FORMAT_VERSION
from tests.e2e.conftest import ROOT, Command
from tests.ended import Ended

TRAIN = str(ROOT / "conf/train/digits.yaml")
SCORE = str(ROOT / "conf/score/digits.yaml")
PREPARE = str(ROOT / "conf/prepare/digits.yaml")


def assert_refused(ended: Ended, folder: Path, *words: str) -> None:
    """Exit code 2, the words on standard error, no traceback, and nothing but the conf in the folder."""
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err
    assert [path.name for path in folder.iterdir() if path.name != "conf.yaml"] == []


def conf(folder: Path, text: str) -> str:
    """A conf in the folder."""
    (folder / "conf.yaml").write_text(text)
    return str(folder / "conf.yaml")


def test_an_unknown_key_is_named_with_the_one_that_was_meant(cnnjob: Command, tmp_path: Path) -> None:
    """A misspelt key is refused, and the right one suggested."""
    assert_refused(cnnjob("train", TRAIN, "--set", "num_epoch=3"), tmp_path, "num_epoch", "did you mean num_epochs?")


def test_a_wrong_type_is_named_with_its_value(cnnjob: Command, tmp_path: Path) -> None:
    """A word where a number belongs is refused, with the key, the value and what would be right."""
    ended = cnnjob("train", TRAIN, "--set", "num_epochs=many")
    assert_refused(ended, tmp_path, "num_epochs", "'many'", "integer")


def test_five_mistakes_are_told_at_once(cnnjob: Command, tmp_path: Path) -> None:
    """Wrong type, range, unknown key, missing key and two fields that do not fit: all in one answer."""
    path = conf(
        tmp_path,
        "name: x\nnum_epochs: 0\noptimizer: {learning_rate: fast, momentun: 1}\nnum_workers: 9\nglobal_batch_size: 4\n",
    )
    ended = cnnjob("train", path)
    keys = (
        "dataset: is missing",
        "num_epochs",
        "optimizer.learning_rate",
        "optimizer.momentun",
        "global_batch_size: 4",
    )
    assert_refused(ended, tmp_path, "5 mistakes", *keys)


def test_a_missing_data_set_says_how_to_make_it(cnnjob: Command, tmp_path: Path) -> None:
    """A data set that is not there: its path, and the command that makes it."""
    ended = cnnjob("train", TRAIN, "--set", f"dataset={tmp_path / 'nowhere'}")
    assert_refused(ended, tmp_path, str(tmp_path / "nowhere"), "cnnjob prepare")


def test_another_format_version_is_refused(cnnjob: Command, tmp_path: Path) -> None:
    """A manifest of a later version is refused by its number."""
    folder = tmp_path / "conf.yaml"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"format_version": 99}))
    ended = cnnjob("train", TRAIN, "--set", f"dataset={folder}")
    assert_refused(ended, tmp_path, "format version 99", f"reads version {DATASET_FORMAT_VERSION}")


def test_a_mistyped_tracking_folder_is_not_created(cnnjob: Command, tmp_path: Path) -> None:
    """Asking for a model where there is no MLflow store says so, and makes none."""
    ended = cnnjob("promote", "digits", "--tracking", str(tmp_path / "elsewhere"))
    assert_refused(ended, tmp_path, "no MLflow store", str(tmp_path / "elsewhere"))


def test_the_environment_says_nothing_of_mlflow(cnnjob: Command, tmp_path: Path) -> None:
    """Commands without a conf look for MLflow where a conf does by default, whatever MLFLOW_TRACKING_URI says."""
    elsewhere = str(tmp_path / "elsewhere")
    for command in (("promote", "digits"), ("trace", "--model", "models:/digits@champion")):
        ended = cnnjob(*command, MLFLOW_TRACKING_URI=elsewhere)
        assert_refused(ended, tmp_path, f"no MLflow store at {tmp_path / 'tracking'}")


@pytest.mark.parametrize("command", [("promote", "digits"), ("trace", "--model", "models:/digits@champion")])
def test_a_tracking_that_is_no_place_is_refused(cnnjob: Command, tmp_path: Path, command: tuple[str, ...]) -> None:
    """An empty --tracking, and one in the home of nobody, is a mistake of the option."""
    ended = cnnjob(*command, "--tracking", "")
    assert_refused(ended, tmp_path, "--tracking: a path or URI cannot be empty")
    ended = cnnjob(*command, "--tracking", "~nobody-of-this-name/a")
    assert_refused(ended, tmp_path, "--tracking ~nobody-of-this-name/a: its home folder is not known")


@pytest.mark.parametrize("date", ["tomorrow", "2026-02-30", "2026-13-01", "1735689600", ""])
def test_a_wrong_date_of_the_demo_is_refused(cnnjob: Command, tmp_path: Path, date: str) -> None:
    """The demo refuses what is no date as score does, before it does anything."""
    assert_refused(cnnjob("demo", "--date", date), tmp_path, f"--date {date!r} is no date", "today, or yesterday")


def test_a_demo_override_names_its_job(cnnjob: Command, tmp_path: Path) -> None:
    """An override of the demo that does not say whose key it is, is refused with the form it should have."""
    assert_refused(cnnjob("demo", "--set", "num_epochs=3"), tmp_path, "num_epochs=3", "train.num_epochs=3")


def test_unreadable_yaml_is_refused_with_its_place(cnnjob: Command, tmp_path: Path) -> None:
    """YAML that does not parse: the file, the line and the column."""
    assert_refused(cnnjob("score", conf(tmp_path, "input: [1,\nb: }")), tmp_path, "conf.yaml", "line 2")


def test_a_conf_that_is_not_there_is_refused(cnnjob: Command, tmp_path: Path) -> None:
    """A missing conf file is named."""
    assert_refused(cnnjob("prepare", "missing.yaml"), tmp_path, "Error: missing.yaml does not exist")


def test_a_conf_of_another_kind_is_refused(cnnjob: Command, tmp_path: Path) -> None:
    """A conf that another command takes: that command, and none of the keys."""
    ended = cnnjob("train", PREPARE)
    assert_refused(ended, tmp_path, f"Error: {PREPARE} is a prepare conf; run: cnnjob prepare {PREPARE}\n")
    assert ended.err.count("\n") == 1
    ended = cnnjob("submit", "train", PREPARE)
    assert_refused(ended, tmp_path, f"Error: {PREPARE} is a prepare conf; run: cnnjob submit prepare {PREPARE}\n")


def test_setting_a_key_that_is_not_there_is_refused(cnnjob: Command, tmp_path: Path) -> None:
    """--set of an unknown nested key is refused like a key in the file."""
    ended = cnnjob("prepare", PREPARE, "--set", "image.hight=8")
    assert_refused(ended, tmp_path, "image.hight", "did you mean height?")


def test_a_malformed_set_is_refused(cnnjob: Command, tmp_path: Path) -> None:
    """--set without a value says what it should look like."""
    assert_refused(cnnjob("prepare", PREPARE, "--set", "seed"), tmp_path, "KEY=VALUE")


@pytest.mark.parametrize("command", [("score",), ("nightly",), ("submit", "score")])
def test_a_wrong_date_is_refused(cnnjob: Command, tmp_path: Path, command: tuple[str, ...]) -> None:
    """What is no date is a mistake of --date, whatever YAML would make of it; nobody has given a --set."""
    for date in ("2026-02-30", "2026-13-01", "1735689600", ""):
        ended = cnnjob(*command, SCORE, "--date", date)
        assert_refused(ended, tmp_path, f"--date {date!r} is no date; it should be YYYY-MM-DD", "today, or yesterday")
        assert "--set" not in ended.err


def test_json_errors_are_one_object(cnnjob: Command) -> None:
    """With --json a mistake too is one object on standard output, with its exit code."""
    ended = cnnjob("train", TRAIN, "--set", "num_epochs=0", "--json")
    assert ended.code == 2
    assert ended.json["error"] == "ConfigError"
    assert ended.json["exit_code"] == 2


def test_debug_shows_the_traceback(cnnjob: Command) -> None:
    """--debug adds the traceback, and changes nothing else."""
    ended = cnnjob("train", TRAIN, "--set", "num_epochs=0", "--debug", "--json")
    assert "Traceback" in ended.err
    assert ended.code == ended.json["exit_code"] == 2


def test_check_reports_all_files(cnnjob: Command, tmp_path: Path) -> None:
    """Check goes through all files and reports each one's mistakes."""
    ended = cnnjob("check", PREPARE, conf(tmp_path, "num_epochs: 0\nnum_workers: 1\n"), "missing.yaml")
    assert_refused_ignoring_output(ended, "conf.yaml has 3 mistakes", "missing.yaml does not exist")


def test_check_names_what_is_valid(cnnjob: Command) -> None:
    """Check says of each file that it is valid, and as what; with --json too."""
    assert cnnjob("check", PREPARE, TRAIN).out == f"{PREPARE}: valid prepare config\n{TRAIN}: valid train config\n"
    assert cnnjob("check", TRAIN, "--json").json == {"valid": [{"conf": TRAIN, "kind": "train"}]}


def test_schema_prints_a_conf_that_check_accepts(cnnjob: Command, tmp_path: Path) -> None:
    """With --yaml a schema is a conf with all keys; without it JSON."""
    assert cnnjob("schema", "train").json["title"] == "TrainConfig"
    path = conf(tmp_path, cnnjob("schema", "train", "--yaml").out)
    assert cnnjob("check", path).out == f"{path}: valid train config\n"


def assert_refused_ignoring_output(ended: Ended, *words: str) -> None:
    """Exit code 2 with the words, whatever sound files were reported before."""
    assert ended.code == 2
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize("arguments", [("--help",), ("check", TRAIN)])
def test_help_and_check_load_nothing_heavy(cnnjob: Command, arguments: tuple[str, ...]) -> None:
    """What answers at once imports neither torch nor Ray nor MLflow nor pyarrow."""
    ended = cnnjob(*arguments, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rsplit("|", 1)[1].strip() for line in ended.err.splitlines() if line.startswith("import time:")}
    assert "pipelines.cli" in imported
    assert not {"torch", "ray", "mlflow", "pyarrow", "numpy"} & imported


def test_every_command_has_help(cnnjob: Command) -> None:
    """--help lists the commands of the design, and each has a help of its own."""
    commands = ["prepare", "train", "score", "nightly", "promote", "trace", "check", "schema", "submit", "jobs", "logs"]
    commands += ["stop", "up", "down", "demo"]
    text = cnnjob("--help").out
    assert all(f" {command} " in text for command in commands)
    assert all(cnnjob(command, "--help").code == 0 for command in commands)


def test_no_summary_of_a_command_is_cut(cnnjob: Command) -> None:
    """In 80 columns --help has a whole line for each command, of 55 characters at most beside its name."""
    listed = cnnjob("--help", COLUMNS="80").out.partition("Commands:\n")[2].splitlines()
    assert len(listed) == 15
    for line in listed:
        _, summary = line.split(maxsplit=1)
        assert summary.endswith(".")
        assert not summary.endswith("...")
        assert len(summary) <= 55


@pytest.mark.parametrize("kind", ["submit", "schema"])
def test_a_kind_is_a_word_in_capitals_with_its_choices(cnnjob: Command, kind: str) -> None:
    """The usage names arguments in capitals, and the help lists what they may be."""
    text = " ".join(cnnjob(kind, "--help", COLUMNS="80").out.split())
    assert "KIND" in text.partition("Arguments:")[0]
    assert "prepare|train|score|nightly" in text
