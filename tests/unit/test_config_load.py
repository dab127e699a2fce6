from pathlib import Path

import pytest

from cnnjob.config.kinds import NAMES, kind, kind_of, load
from cnnjob.config.load import dump_config, load_config
from cnnjob.config.mistakes import PATTERNS
from cnnjob.config.train import TrainConfig
from cnnjob.config.yaml_text import literal, read_yaml
from cnnjob.errors import ConfigError, Mistake, UserError
from tests.configs import mistakes, written

ROOT = Path(__file__).parents[2]
CONFS = sorted(ROOT.glob("conf/*/*.yaml"))
TRAIN = "dataset: data\nname: run\n"


def test_unknown_key_names_the_nearest_one(tmp_path):
    """A misspelt key is refused with the key that was probably meant."""
    found = mistakes("train", written(tmp_path, TRAIN + "num_epoch: 3\n"))
    assert list(found) == ["num_epoch"]
    assert "did you mean num_epochs?" in found["num_epoch"]


def test_unknown_key_in_a_section_names_the_nearest_one(tmp_path):
    """A misspelt key of a section is reported by its dotted key, with the one that was probably meant."""
    found = mistakes("train", written(tmp_path, TRAIN + "optimizer: {learning_rat: 0.1}\n"))
    assert "did you mean learning_rate?" in found["optimizer.learning_rat"]


def test_unknown_key_in_a_list_names_the_nearest_one(tmp_path):
    """A misspelt key of a block in a list of blocks is refused with the one that was probably meant."""
    text = TRAIN + "model: {spec: {blocks: [{filters: 4, kernle: 3}]}}\n"
    found = mistakes("train", written(tmp_path, text))
    assert "did you mean kernel?" in found["model.spec.blocks.0.kernle"]


def test_unknown_key_without_a_near_one_lists_the_known_keys(tmp_path):
    """A key that resembles none is refused with the keys there are."""
    found = mistakes("train", written(tmp_path, TRAIN + "optimizer: {zzz: 1}\n"))
    assert "learning_rate" in found["optimizer.zzz"]
    assert "weight_decay" in found["optimizer.zzz"]


def test_wrong_type_shows_the_value(tmp_path):
    """A value of the wrong type is refused with the value and what would be right."""
    found = mistakes("train", written(tmp_path, TRAIN + "num_epochs: many\n"))
    assert "'many'" in found["num_epochs"]
    assert "integer" in found["num_epochs"]


PREPARE = "output: out\nsource: {kind: folder, uri: images}\n"
SCORE = "input: {kind: folder, uri: images}\nmodel: 'models:/m/1'\noutput: out\n"


@pytest.mark.parametrize(
    ("kind", "key", "value", "told"),
    [
        ("prepare", "source", "", "is empty; it should be keys such as kind and uri"),
        ("prepare", "source", "digits", "'digits' is not allowed; it should be keys such as kind and uri"),
        ("prepare", "source.columns.keys", "a", "'a' is not allowed; it should be a list, such as [a]"),
        ("prepare", "image.background", "5", "5 is not allowed; it should be a list of 3"),
        ("prepare", "limits.formats", "[]", "[] is not allowed; it needs at least one"),
        ("prepare", "source", "digits", "; kind is digits, idx, cifar, folder or manifest"),
        ("train", "model", "resnet18", "'resnet18' is not allowed; it should be keys such as preset and spec"),
        ("train", "model", "resnet18", "; preset is default, simple, net or cnn64"),
        ("train", "name", "my run", "it should be letters, digits, dots, hyphens and underscores, without spaces"),
        ("train", "register_as", "a/b", "it should be letters, digits, dots, hyphens and underscores, without spaces"),
        (
            "score",
            "model",
            "digits",
            "'digits' is not allowed; it should be models:/NAME@ALIAS or models:/NAME/VERSION",
        ),
        ("train", "num_epochs", "", "is empty; it should be a valid integer"),
        ("train", "name", "2026", "2026 is not allowed; it should be a text, in quotes"),
        ("train", "name", "2026-01-01", "2026-01-01 is not allowed; it should be a text, in quotes"),
        ("train", "name", "no", "False is not allowed; it should be a text, in quotes"),
        ("train", "dataset", "[a]", "['a'] is not allowed; it should be a text"),
        ("train", "model.spec.blocks", "5", "it should be a list of keys such as filters and kernel"),
        ("train", "tracking.experiment", "''", "'' is not allowed; it should have at least 1 character"),
        ("score", "date", "'20260101'", "'20260101' is not allowed; it should be YYYY-MM-DD, today or yesterday"),
        ("score", "date", "1735689600", "1735689600 is not allowed; it should be YYYY-MM-DD, today or yesterday"),
        ("score", "date", "'0.0'", "'0.0' is not allowed; it should be YYYY-MM-DD, today or yesterday"),
        ("nightly", "score.date", "tomorrow", "'tomorrow' is not allowed; it should be YYYY-MM-DD, today or yesterday"),
    ],
)
def test_what_a_value_should_be_is_told_in_words_of_yaml(tmp_path, kind, key, value, told):
    """A wrong value is one mistake of its key, without the names that Python and pydantic have for it."""
    texts = {"prepare": PREPARE, "train": TRAIN, "score": SCORE, "nightly": "score:\n  " + SCORE.replace("\n", "\n  ")}
    found = mistakes(kind, written(tmp_path, texts[kind]), f"{key}={value}")
    assert list(found) == [key]
    assert told in found[key]


def test_a_list_of_wrong_entries_is_not_too_short(tmp_path):
    """Where the only entry of a list is wrong, that is the one mistake."""
    found = mistakes("prepare", written(tmp_path, PREPARE), "limits.formats=[jpg]")
    assert list(found) == ["limits.formats.0"]


@pytest.mark.parametrize(
    "text", ["a b", "#1", "a: b", "[", "5", "2026-01-01", "null", "", " x ", "'\"", "\u4eba\U0001f600"]
)
def test_a_literal_override_is_the_text_itself(tmp_path, text):
    """An override made of a text has it as its value, whatever YAML would make of it."""
    found = mistakes("train", written(tmp_path, TRAIN), literal("seed", text))
    assert found == {"seed": f"{text!r} is not allowed; it should be a valid integer"}


def test_numbers_in_quotes_are_not_numbers(tmp_path):
    """A string is never read as the number it looks like."""
    assert list(mistakes("train", written(tmp_path, TRAIN + "seed: '1'\n"))) == ["seed"]


def test_missing_key_says_what_it_is(tmp_path):
    """A key that is needed and missing is named, with its description."""
    found = mistakes("train", written(tmp_path, "name: run\n"))
    assert "is missing" in found["dataset"]
    assert "prepared data set" in found["dataset"]


def test_all_mistakes_are_reported_together(tmp_path):
    """Five mistakes, one of them over two fields, are one error with five mistakes."""
    text = "num_epoch: 3\nname: run\nseed: abc\nprecision: fp8\nglobal_batch_size: 2\nnum_workers: 4\n"
    found = mistakes("train", written(tmp_path, text))
    assert set(found) == {"num_epoch", "dataset", "seed", "precision", "global_batch_size"}
    assert "4 workers" in found["global_batch_size"]


def test_mistakes_of_overrides_are_reported_with_the_rest(tmp_path):
    """What is wrong in the file and what is wrong in --set are reported together."""
    found = mistakes("train", written(tmp_path, TRAIN + "seed: abc\n"), "num_epochs", "num_worker=2", "precision=[")
    assert set(found) == {"seed", "--set num_epochs", "num_worker", "--set precision"}


@pytest.mark.parametrize("key", [".seed", "model.", "model..preset", "."])
def test_an_override_whose_key_has_an_empty_part_is_no_override(tmp_path, key):
    """What stands before a dot and behind one are keys."""
    found = mistakes("train", written(tmp_path, TRAIN), f"{key}=1")
    assert found == {f"--set {key}=1": "should be KEY=VALUE, such as --set seed=1"}


@pytest.mark.parametrize("number", ["9" * 101, "0x" + "f" * 5000, "1" + ":59" * 3000], ids=["10", "16", "60"])
def test_a_number_of_any_length_is_told(tmp_path, number):
    """A number that Python could not write down is refused by its place, in a file and in an override."""
    with pytest.raises(ConfigError, match="a number has more than 100 digits at line 1, column 7"):
        read_yaml(written(tmp_path, f"seed: {number}\n"))
    found = mistakes("train", written(tmp_path, TRAIN), f"seed={number}")
    assert "more than 100 digits" in found["--set seed"]


def test_of_hundreds_of_mistakes_a_page_is_told():
    """A file that is no config has a mistake for each key: the error has all of them, and its message fifty."""
    error = ConfigError("a.yaml", [Mistake(f"key{number}", "no such key") for number in range(1234)])
    assert len(error.mistakes) == 1234
    assert str(error).splitlines()[0] == "a.yaml has 1234 mistakes:"
    assert str(error).splitlines()[-2:] == ["  key49: no such key", "  and 1,184 more"]


def test_key_written_twice_is_refused(tmp_path):
    """A key that stands twice in one section is refused: YAML itself would keep the last."""
    path = written(tmp_path, TRAIN + "optimizer:\n  weight_decay: 0.1\n  weight_decay: 0.2\n")
    assert "'weight_decay' is written twice" in mistakes("train", path)["file"]


UNREADABLE = {
    "broken": "dataset: [",
    "tabs": "model:\n\tpreset: default",
    "python_tag": "dataset: !!python/object/apply:os.system [ls]",
    "impossible_date": "dataset: 2024-13-45",
    "impossible_bool": "use_gpu: !!bool maybe",
    "impossible_timestamp": "name: !!timestamp soon",
    "key_is_a_list": "? [a, b]\n: 1",
    "key_is_a_mapping": "? {a: b}\n: 1",
    "contains_itself": "&all\nmodel: *all",
    "list_contains_itself": "dataset: &all [*all]",
    "control_character": "name: a\x00b",
    "list": "- a\n- b",
    "text": "hello",
    "number_key": "1: 2",
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_yaml_is_a_config_error(tmp_path, text):
    """Whatever stands in the file, the answer is a ConfigError that names the file."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"conf\.yaml"):
        load("train", path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: }", "found '}' at line 2, column 4"),
        ("a: 1\nb: {c", "'<stream end>' at line 2, column 6 (while parsing a flow mapping from line 2, column 4)"),
        ("a: 1\na: 2", "the key 'a' is written twice at line 2, column 1"),
        ("name: a\x00b", "special characters are not allowed at position 7"),
        ("use_gpu: !!bool maybe", "a value does not fit the tag (!!...) that stands before it"),
    ],
)
def test_unreadable_yaml_is_told_by_line_and_column(tmp_path, text, told):
    """What is wrong, and where; not the name that PyYAML gives to what it reads, neither of a file nor of --set."""
    assert told in mistakes("train", written(tmp_path, text))["file"]
    found = mistakes("train", written(tmp_path, TRAIN), f"seed={text}")["--set seed"]
    assert told in found
    assert "string>" not in found


def test_bytes_that_are_no_text_are_a_config_error(tmp_path):
    """A file that is not UTF-8 is refused as unreadable."""
    path = tmp_path / "conf.yaml"
    path.write_bytes(b"name: \xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not readable YAML"):
        read_yaml(path)


def test_a_missing_file_is_told(tmp_path):
    """A file that does not exist is told as that, not as a mistake in it; a folder cannot be read."""
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_huge_file_is_refused_unparsed(tmp_path):
    """A file above the limit is refused for its size."""
    with pytest.raises(ConfigError, match="larger than"):
        read_yaml(written(tmp_path, "# " + "x" * (1 << 20)))


def test_empty_file_has_no_keys(tmp_path):
    """An empty file is a mapping without keys, so what is missing is named."""
    assert set(mistakes("train", written(tmp_path, ""))) == {"dataset", "name"}


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "+1e-3"])
def test_exponents_are_numbers(tmp_path, text):
    """1e-3 is the number 0.001 in files and in overrides, as in YAML 1.2."""
    config = load("train", written(tmp_path, TRAIN + f"optimizer: {{learning_rate: {text}}}\n"))
    assert config.optimizer.learning_rate == 0.001
    config = load("train", written(tmp_path, TRAIN), [f"optimizer.learning_rate={text}"])
    assert config.optimizer.learning_rate == 0.001


def test_set_overrides_the_file_and_later_ones_win(tmp_path):
    """--set stands above the file, also in sections the file lacks, and the last of two wins."""
    path = written(tmp_path, TRAIN + "seed: 1\n")
    config = load("train", path, ["seed=2", "optimizer.ema_decay=0.9", "seed=3", "register_as=null"])
    assert (config.seed, config.optimizer.ema_decay, config.register_as) == (3, 0.9, None)


def test_set_leaves_the_rest_of_a_section(tmp_path):
    """Overriding one key of a section keeps the section's other keys."""
    path = written(tmp_path, TRAIN + "optimizer: {name: sgd, weight_decay: 0.5}\n")
    optimizer = load("train", path, ["optimizer.weight_decay=0.25"]).optimizer
    assert (optimizer.name, optimizer.weight_decay) == ("sgd", 0.25)


def test_set_of_an_unknown_key_is_refused(tmp_path):
    """--set of a key that does not exist is refused with the nearest one."""
    found = mistakes("train", written(tmp_path, TRAIN), "optimizer.learning_rat=1", "sed=1")
    assert "did you mean learning_rate?" in found["optimizer.learning_rat"]
    assert "did you mean seed?" in found["sed"]


def test_set_does_not_change_the_values_it_is_given():
    """Overriding leaves the mapping it was given as it was."""
    values = {"dataset": "data", "name": "run", "optimizer": {"weight_decay": 0.5}}
    load_config(TrainConfig, values, where="test", overrides=["optimizer.weight_decay=0.1"])
    assert values["optimizer"] == {"weight_decay": 0.5}


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    """Relative paths, also defaults and those with ~, become absolute once; URIs stay as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    path = written(tmp_path, "dataset: data/digits\nname: run\ntracking: {uri: 'http://127.0.0.1:5000'}\n")
    config = load("train", path, ["storage=~/runs"])
    assert config.dataset == str(tmp_path / "data" / "digits")
    assert config.storage == "/home/ada/runs"
    assert config.tracking.uri == "http://127.0.0.1:5000"
    assert load("train", written(tmp_path, TRAIN)).storage == str(tmp_path / "runs")


def test_home_of_an_unknown_user_is_no_traceback(tmp_path):
    """A path in the home of a user who does not exist is refused as that key's mistake."""
    found = mistakes("train", written(tmp_path, "dataset: ~nobody-of-this-name/data\nname: run\n"))
    assert list(found) == ["dataset"]


def test_empty_path_is_refused(tmp_path):
    """A path of blanks is refused: it would mean the current folder."""
    assert "empty" in mistakes("train", written(tmp_path, "dataset: ' '\nname: run\n"))["dataset"]


@pytest.mark.parametrize("name", ["1e5", "12E4", "1.e5", "1_e5", "1.5", "0x10", "null", "yes", "2024-01-01", "1_0"])
def test_names_that_look_like_values_come_back(tmp_path, name):
    """A name that YAML could read as a number, a date or nothing is the same text after dumping and loading."""
    config = TrainConfig(dataset="/data", name=name)
    assert load("train", written(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("character", ["\n", "\t", "\r", "\x07", "\x85", "\u2028"], ids=ascii)
@pytest.mark.parametrize("shape", ["a{}", "{}a", "a{}b"])
def test_strange_paths_come_back(tmp_path, character, shape):
    """A path with a line break or another control character in it is the same after dumping and loading."""
    config = TrainConfig(dataset="/data/" + shape.format(character), name="run")
    assert load("train", written(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("name", ["a/b", "..", "", "-x", "x" * 101, "a b"])
def test_names_are_file_names(tmp_path, name):
    """A run's name that is no plain file name is refused."""
    assert list(mistakes("train", written(tmp_path, f"dataset: data\nname: {name!r}\n"))) == ["name"]


def test_configs_are_frozen():
    """A validated config cannot be changed."""
    config = TrainConfig(dataset="data", name="run")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


@pytest.mark.parametrize("path", CONFS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_conf_loads_and_dumps_back(tmp_path, path):
    """Every shipped conf is of its folder's kind, loads, and its resolved dump loads back equal."""
    name = kind_of(path)
    assert name == path.parent.name
    config = load(name, path)
    assert load(name, written(tmp_path, dump_config(config))) == config


def test_there_are_shipped_confs():
    """The confs are found: the test above is not empty."""
    assert {"prepare", "train", "score"} <= {path.parent.name for path in CONFS}


def test_kind_of_a_file_elsewhere_follows_its_keys(tmp_path):
    """Outside of conf/ a file's kind is the one its keys fit best; keys that fit none are refused."""
    assert kind_of(written(tmp_path, TRAIN)) == "train"
    assert kind_of(written(tmp_path, "source: {kind: digits}\noutput: out\n")) == "prepare"
    with pytest.raises(ConfigError, match="fit no kind"):
        kind_of(written(tmp_path, "zzz: 1\n"))


CLUSTER = "port: 7000\n"
NIGHTLY = "score:\n  " + SCORE.replace("\n", "\n  ")
WHOLE = {"prepare": PREPARE, "train": TRAIN, "score": SCORE, "nightly": NIGHTLY, "cluster": CLUSTER}


@pytest.mark.parametrize("asked", NAMES)
@pytest.mark.parametrize("given", NAMES)
@pytest.mark.parametrize("submitted", [False, True])
def test_a_conf_of_another_kind_is_told_as_that(tmp_path, asked, given, submitted):
    """A whole conf of another kind is one mistake: the command that takes or submits it is named, and no key."""
    path = written(tmp_path, WHOLE[given])
    if asked == given:
        assert load(asked, path)
        return
    command = "up --config" if given == "cluster" else f"submit {given}" if submitted else given
    with pytest.raises(UserError) as told:
        load(asked, path, submitted=submitted)
    assert str(told.value) == f"{path} is a {given} conf; run: cnnjob {command} {path}"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("train", TRAIN + "output: out\nsource: {kind: digits}\n"),
        ("train", "name: run\noutput: out\n"),
        ("score", "input: {kind: folder, uri: images}\nmodels: m\n"),
    ],
    ids=["both kinds", "no whole kind", "its own kind"],
)
def test_what_may_be_of_its_kind_has_its_mistakes_told(tmp_path, asked, text):
    """Where the kind that was asked for fits too, or none is whole, all mistakes are listed."""
    assert mistakes(asked, written(tmp_path, text))


def patterns(document):
    """All patterns in a JSON Schema."""
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    own = {document["pattern"]} if isinstance(document, dict) and isinstance(document.get("pattern"), str) else set()
    return own.union(*map(patterns, inner))


def test_every_pattern_has_its_words():
    """What a config checks by a pattern is told in words; there are no words without a pattern."""
    assert set().union(*(patterns(kind(name).model.model_json_schema()) for name in NAMES)) == set(PATTERNS)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_described_in_the_json_schema(name):
    """The JSON Schema of every kind describes each field, by itself or by the section it opens."""
    document = kind(name).model.model_json_schema()
    sections = document.get("$defs", {})
    for owner in (document, *sections.values()):
        for key, field in owner["properties"].items():
            choices = [field, *field.get("anyOf", []), *field.get("allOf", [])]
            opened = [sections[c["$ref"].rpartition("/")[2]] for c in choices if "$ref" in c]
            assert any(each.get("description") for each in (field, *opened)), f"{owner['title']}.{key}"
