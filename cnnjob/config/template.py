"""A config written out for people: every key with its default and its range, and its documentation above it.

It is made from the models alone, so it cannot say anything else than they do. The document is YAML that loads: each
required key has a placeholder, and all others have their defaults.
"""

import datetime as dt
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cnnjob.config.base import Config
from cnnjob.config.fields import section

WIDTH = 100
"""Characters of a line of comment, before it is indented."""

PLACEHOLDERS = {
    "PrepareConfig.output": "datasets/NAME",
    "SourceConfig.kind": "digits",
    "TrainConfig.dataset": "datasets/NAME",
    "TrainConfig.name": "NAME",
    "BlockConfig.filters": 16,
    "InputConfig.kind": "folder",
    "InputConfig.uri": "images/{date}",
    "ScoreConfig.model": "models:/NAME@champion",
    "ScoreConfig.output": "scores/NAME",
}
"""Values of the required keys. Together they keep the rules over several fields."""

_STEP = "  "
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def template(model: type[Config]) -> str:
    """The document of a config: YAML with comments."""
    told = "Required keys hold placeholders; all others hold their defaults and may be left out."
    return "\n".join([*_comment(f"{inspect.getdoc(model)}\n\n{told}"), "", *_keys(model, None)]) + "\n"


def _keys(model: type[BaseModel], instance: BaseModel | None) -> Iterator[str]:
    """The lines of a section's keys.

    Args:
        model: The section's model.
        instance: What the section is by default; what it was made with stands before the defaults of its own fields.
    """
    for number, (name, field) in enumerate(model.model_fields.items()):
        is_given = instance is not None and name in instance.model_fields_set
        default = getattr(instance, name) if is_given else _default(model, name, field)
        inner, kind = _section(field.annotation)
        told = field.description or inspect.getdoc(inner or model) or ""
        yield from [""] * (number > 0)
        yield from _comment(told + " Required." * field.is_required())
        if inner is None:
            yield f"{name}: {_value(default)}" + _range(field)
        elif kind == "optional":
            yield f"{name}: null"
            yield from _each("# ", [f"{name}:", *_each(_STEP, _keys(inner, None))])
        elif kind == "list":
            yield from [f"{name}:", f"{_STEP}-", *_each(2 * _STEP, _keys(inner, None))]
        else:
            yield from [f"{name}:", *_each(_STEP, _keys(inner, default))]


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> Any:
    """The value of a key that is left out, with paths as they are written; a required key's placeholder."""
    if field.is_required():
        return PLACEHOLDERS.get(f"{model.__name__}.{name}")
    return field.get_default(call_default_factory=True)


def _section(annotation: Any) -> tuple[type[BaseModel] | None, Literal["plain", "optional", "list"]]:
    """The model that a key holds, if it is a section, and whether it may be left out or is a list of them."""
    found = section(annotation)
    if found is annotation:
        return found, "plain"
    return found, "list" if typing.get_origin(annotation) is tuple else "optional"


def _value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return str(yaml.safe_dump(plain, default_flow_style=True, width=10 * WIDTH)).removesuffix("...\n").strip()


def _range(field: FieldInfo) -> str:
    """What a key takes, as a comment behind it: one of several words, or a number within bounds."""
    words = list(_words(field.annotation))
    if words:
        return f"  # {' | '.join(words)}"
    bounds = {key: getattr(each, key) for each in field.metadata for key in _BOUNDS if hasattr(each, key)}
    if bounds.keys() == {"ge", "le"}:
        return f"  # {bounds['ge']:,} to {bounds['le']:,}"
    said = ", ".join(f"{_BOUNDS[key]} {bound:,}" for key, bound in bounds.items())
    return f"  # {said}" if said else ""


def _words(annotation: Any) -> Iterator[str]:
    if typing.get_origin(annotation) is Literal:
        yield from typing.get_args(annotation)
    elif annotation is dt.date:
        yield "YYYY-MM-DD"
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for inner in typing.get_args(annotation):
            yield from _words(inner)


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from (f"# {line}" for line in textwrap.wrap(" ".join(paragraph.split()), WIDTH, break_on_hyphens=False))


def _each(prefix: str, lines: Iterable[str]) -> Iterator[str]:
    return (f"{prefix}{line}".rstrip() for line in lines)
