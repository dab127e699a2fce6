"""A config written out for people: it loads, it has every key, and it holds the defaults."""

import re
from itertools import pairwise

import pytest
import yaml

from cnnjob.config.base import Config
from cnnjob.config.kinds import NAMES, kind, load
from cnnjob.config.template import template
from cnnjob.config.train import BlockConfig
from cnnjob.config.yaml_text import read_yaml

SPEC = re.compile(r"^  # spec:\n(?:  # .*\n|  #\n)+", re.MULTILINE)


def required(model, values):
    """The required keys of a document, and no others."""
    inner = {key: field.annotation for key, field in model.model_fields.items() if field.is_required()}
    return {
        key: required(kind, values[key]) if isinstance(kind, type) and issubclass(kind, Config) else values[key]
        for key, kind in inner.items()
    }


@pytest.fixture(params=NAMES)
def written(request, tmp_path):
    """A kind of config, and its document in a file."""
    path = tmp_path / "conf.yaml"
    path.write_text(template(kind(request.param).model))
    return request.param, path


def test_the_document_loads_to_the_defaults(written):
    """The document is a valid config as it is: the same as one of its required keys alone."""
    name, path = written
    config = load(name, path)
    path.write_text(yaml.safe_dump(required(kind(name).model, read_yaml(path))))
    assert load(name, path) == config


def test_the_document_has_every_key_with_a_comment(written):
    """Every key of every section stands in the document, below a comment that says what it means."""
    name, path = written
    values = read_yaml(path)

    def compare(found, model):
        assert list(found) == list(model.model_fields)
        for key, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
                compare(found[key], field.annotation)

    compare(values, kind(name).model)
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    for above, line in pairwise(lines):
        if re.match(r" *\w+:", line):
            assert above.lstrip().startswith("#"), line


def test_what_is_left_out_loads_when_its_marks_are_taken_away(tmp_path):
    """The net of one's own, which is commented out, is a valid one."""
    text = template(kind("train").model)
    [spec] = SPEC.findall(text)
    uncommented = re.sub(r"^  # ?", "  ", spec, flags=re.MULTILINE)
    path = tmp_path / "conf.yaml"
    path.write_text(text.replace("  spec: null\n" + spec, uncommented).replace("preset: default", "preset: null"))
    config = load("train", path)
    assert config.model.spec.blocks == (BlockConfig(filters=16),)


def test_ranges_and_words_stand_behind_the_defaults():
    """A number is told with its bounds, a word with the others that it may be."""
    text = template(kind("train").model)
    assert "num_epochs: 10  # 1 to 100,000\n" in text
    assert "  learning_rate: 0.003  # above 0, at most 10\n" in text
    assert "  schedule: one_cycle  # constant | cosine | one_cycle\n" in text
    assert "date: null  # YYYY-MM-DD | today | yesterday\n" in template(kind("score").model)


def test_paths_are_written_as_they_are_in_the_code():
    """Default paths stay relative: the document means the folder that it is used in."""
    assert yaml.safe_load(template(kind("train").model))["tracking"]["uri"] == "tracking"
    assert yaml.safe_load(template(kind("cluster").model))["state"] == "~/.cnnjob"
