"""Numbers in configs: what is no number, is beyond all use, or has another sign is told, whatever key it stands at."""

import copy
import typing
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from cnnjob.config.kinds import kind, load
from cnnjob.config.template import template
from cnnjob.errors import ConfigError

KINDS = ("prepare", "train", "score", "nightly", "cluster")
REFUSED = (".inf", "-.inf", ".nan", "1" + "0" * 30, "-1", "1" + "0" * 400, "1" + "0" * 5000, "1e400")
TAKEN = ("0", "-0.0", "1", "0.5", "1e-300", "1e6")
SPEC = {"blocks": [{"filters": 4, "kernel": 3, "stride": 1, "padding": 1, "pool": 2}]}


def numeric(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The dotted keys of a config that take numbers, and whether each is one in a list of them."""
    for name, field in model.model_fields.items():
        key = prefix + name
        kinds, in_list = parts_of(field.annotation), typing.get_origin(field.annotation) is tuple
        for each in kinds:
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield from numeric(each, f"{key}.0." if in_list else f"{key}.")
        if kinds & {int, float}:
            yield key, any(typing.get_origin(each) is tuple for each in [field.annotation, *args(field.annotation)])


def args(annotation) -> tuple[typing.Any, ...]:
    return typing.get_args(annotation)


def parts_of(annotation) -> set[typing.Any]:
    """All types in an annotation."""
    return {annotation}.union(*(parts_of(each) for each in args(annotation) if isinstance(each, type) or args(each)))


KEYS = [(name, *each) for name in KINDS for each in numeric(kind(name).model)]


def test_there_are_numbers_in_every_kind():
    """The keys are found, also in sections, in lists and below a nightly config's score."""
    found = {(name, key) for name, key, _ in KEYS}
    assert {name for name, _ in found} == set(KINDS)
    assert {("train", "optimizer.gradient_clip"), ("train", "model.spec.hidden")} <= found
    assert {("train", "model.spec.blocks.0.filters"), ("nightly", "score.units.target_rows")} <= found
    assert {("prepare", "image.background"), ("train", "model.spec.flatten_features")} <= found


def loaded(folder: Path, name: str, key: str, value: str, *, in_list: bool):
    """A config of all defaults, with a value at a key."""
    values = yaml.safe_load(template(kind(name).model))
    if key.startswith("model.spec"):
        values["model"] = {"spec": copy.deepcopy(SPEC)}
    path = folder / "conf.yaml"
    at, parts = values, key.split(".")
    for part in parts[:-1]:
        at = at[int(part)] if part.isdigit() else at[part]
    at[parts[-1]] = ["VALUE"] if in_list else "VALUE"
    # As it stands in a file: what YAML makes of it is a part of the question.
    path.write_text(yaml.safe_dump(values).replace("VALUE", value))
    return load(name, path)


@pytest.mark.parametrize(("name", "key", "in_list"), KEYS)
def test_what_is_no_number_of_any_use_is_told(tmp_path, name, key, in_list):
    """Infinite, undefined, absurdly large and negative: a mistake of the config, whatever the key."""
    for value in REFUSED:
        with pytest.raises(ConfigError) as told:
            loaded(tmp_path, name, key, value, in_list=in_list)
        assert len(str(told.value)) < 1000


@pytest.mark.parametrize(("name", "key", "in_list"), KEYS)
def test_any_other_number_loads_or_is_a_mistake(tmp_path, name, key, in_list):
    """It is taken or told; nothing else comes out."""
    for value in TAKEN:
        with suppress(ConfigError):
            assert loaded(tmp_path, name, key, value, in_list=in_list) is not None


@pytest.mark.parametrize("text", ["-0.0", "-0", "-0e0", "-0.00"])
def test_negative_zero_is_zero(tmp_path, text):
    """Two equal configs are the same text too: so nothing is done again for a sign that means nothing."""
    found = loaded(tmp_path, "train", "optimizer.weight_decay", text, in_list=False)
    assert str(found.optimizer.weight_decay) == "0.0"
