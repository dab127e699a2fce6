"""What pydantic finds wrong with a config, in the words of a file and not of Python."""

import datetime as dt
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cnnjob.config.fields import choices, field_at, keys_beside, keys_of, length, section_at
from cnnjob.errors import Mistake

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": (
        "letters, digits, dots, hyphens and underscores, without spaces: at most 100, the first a letter or a digit"
    ),
    r"^models:/[^@/]+(@[^@/]+|/[0-9]+)$": "models:/NAME@ALIAS or models:/NAME/VERSION",
}
"""The patterns of all configs in words, which people are told instead."""
_MAX_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


def mistakes_of(model: type[BaseModel], error: ValidationError) -> tuple[list[Mistake], set[str]]:
    """The mistakes that pydantic found, and the dotted keys that misspelt ones were meant to be.

    A key that is missing because it is misspelt is one mistake, and told once.
    """
    found = _by_place(model, error.errors())
    meant = {_meant(model, at) for at, (first, *_) in found.items() if first["type"] == "extra_forbidden"}
    misspelt = {key for key in meant if key is not None}
    return list(_mistakes(model, found, misspelt)), misspelt


def _mistakes(
    model: type[BaseModel], found: Mapping[tuple[Any, ...], Sequence[Any]], misspelt: set[str]
) -> Iterator[Mistake]:
    for at, details in found.items():
        if details[0]["type"] != "missing" or ".".join(map(str, at)) not in misspelt:
            yield _mistake(model, at, details)


def _by_place(model: type[BaseModel], details: Sequence[Any]) -> dict[tuple[Any, ...], list[Any]]:
    """What pydantic found, by place in the file; of a value that may be one of several types it tells each."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for each in details:
        # Entries that are wrong, each a mistake by itself, are not counted among those that there are.
        if each["type"] != "too_short" or len(each["input"]) < each["ctx"]["min_length"]:
            found.setdefault(tuple(keys_of(model, each["loc"])), []).append(each)
    return found


def _mistake(model: type[BaseModel], loc: Sequence[Any], details: Sequence[Any]) -> Mistake:
    key = ".".join(str(part) for part in loc) or "file"
    kind, value = details[0]["type"], details[0]["input"]
    if kind == "extra_forbidden":
        meant = _meant(model, loc)
        if meant:
            return Mistake(key, f"there is no such key; did you mean {meant.split('.')[-1]}?")
        return Mistake(key, f"there is no such key; the keys here are {', '.join(keys_beside(model, loc))}")
    if kind == "missing":
        field = field_at(model, loc)
        described = f": {' '.join(field.description.split())}" if field is not None and field.description else ""
        return Mistake(key, f"is missing; it is needed{described}")
    wanted = [_wanted(model, loc, each) for each in details]
    if len(wanted) > 1:
        wanted = [f"it should be {', '.join(each.removeprefix('it should be ') for each in wanted)}".replace("'", "")]
    return Mistake(key, f"{'is empty' if value is None else f'{shown(value)} is not allowed'}; {wanted[0]}")


def _wanted(model: type[BaseModel], loc: Sequence[Any], detail: Any) -> str:
    """What a value should be, in the words of a file and not of Python."""
    kind, value = str(detail["type"]), detail["input"]
    section = section_at(model, loc)
    if section is not None and kind in ("model_type", "tuple_type"):
        return f"it should be {'a list of ' if kind == 'tuple_type' else ''}{_keys_such_as(section)}"
    if kind == "too_short":
        least = detail["ctx"]["min_length"]
        return f"it needs at least {'one' if least == 1 else least}"
    if kind == "string_type":
        # A word such as 2026, no or 1e5 is no text to YAML.
        should = "be a text, in quotes" if isinstance(value, bool | int | float | dt.date) else "be a text"
    elif kind == "string_pattern_mismatch":
        should = f"be {PATTERNS[detail['ctx']['pattern']]}"
    elif kind == "tuple_type":
        should = f"be {_list_such_as(field_at(model, loc), value)}"
    elif kind.startswith("date_"):
        should = "be YYYY-MM-DD"
    else:
        message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return re.sub(r"^(Input|String|Tuple) should", "it should", message.replace(" after validation", ""))
    return f"it should {should}"


def _list_such_as(field: FieldInfo | None, value: object) -> str:
    number = length(field.annotation) if field else None
    each = value if isinstance(value, int | float) or (isinstance(value, str) and value.isalnum()) else "a"
    return f"a list of {number}" if number else f"a list, such as [{each}]"


def _keys_such_as(section: type[BaseModel]) -> str:
    """Two keys of a section, those that are needed first, with the words that they may have."""
    fields = section.model_fields
    first = sorted(fields, key=lambda name: not fields[name].is_required())[:2]
    words = "".join(f"; {name} is {_or(found)}" for name in first if (found := choices(fields[name].annotation)))
    return f"keys such as {' and '.join(first)}{words}"


def _meant(model: type[BaseModel], loc: Sequence[Any]) -> str | None:
    """The dotted key that a key which does not exist was meant to be, by its spelling; None: none is like it."""
    close = difflib.get_close_matches(str(loc[-1]), keys_beside(model, loc), n=1)
    return ".".join(map(str, [*loc[:-1], *close])) if close else None


def _or(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def shown(value: object) -> str:
    """A value in a message: as Python shows it, and not all of a long one."""
    text = _written(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _written(value: object) -> str:
    """A value as Python shows it, and a date as it is written, wherever it lies."""
    if isinstance(value, dt.date):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_written(key)}: {_written(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return repr(value)
