"""From a YAML file and ``--set`` overrides to a validated config, or to all of its mistakes at once.

Three sources of mistakes are gathered before anything is reported: the YAML itself, pydantic's findings on
single fields, and the rules over several fields (``config.base.rule``).
"""

import datetime as dt
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cnnjob.config.base import GIVEN, RULES_ATTRIBUTE, Config
from cnnjob.errors import ConfigError, Mistake, UserError

ConfigT = TypeVar("ConfigT", bound=Config)

MAX_CONFIG_BYTES = 1 << 20
"""A config is a page of text; a file above 1 MiB is something else, and is not parsed."""

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": (
        "letters, digits, dots, hyphens and underscores, without spaces: at most 100, the first a letter or a digit"
    ),
    r"^models:/[^@/]+(@[^@/]+|/[0-9]+)$": "models:/NAME@ALIAS or models:/NAME/VERSION",
}
"""The patterns of all configs in words, which people are told instead."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, and reads 1e-3 as the number it is (YAML 1.2), and -0.0 as 0."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Aliases of aliases grow without bound ("billion laughs"); a config has no use for them.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key should be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        # The sum of -0.0 and 0.0 is 0.0. As texts they differ, and with them the digests of two equal configs.
        return self.construct_yaml_float(node) + 0.0


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back: words that it would take for numbers are quoted."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )

_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)

_UNREADABLE = (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What PyYAML raises on text that is no YAML, or YAML that means nothing, such as `!!bool maybe`."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one config file.

    Raises:
        UserError: There is no such file.
        ConfigError: It cannot be read, is too large, not YAML, or not a mapping of keys to values.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(f"{where} does not exist; give the path of a conf") from error
    except OSError as error:
        raise ConfigError(where, [Mistake("file", f"cannot be read: {error.strerror}")]) from error
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(where, [Mistake("file", f"is larger than {MAX_CONFIG_BYTES} bytes; this is no config")])
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except _UNREADABLE as error:
        raise ConfigError(where, [Mistake("file", f"is not readable YAML: {_told(error)}")]) from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(where, [Mistake("file", "should be keys and values, such as `seed: 1`")])
    return values


def load_config(
    model: type[ConfigT],
    values: Mapping[str, Any],
    *,
    where: str,
    overrides: Sequence[str] = (),
    rules: Sequence[typing.Callable[..., Iterator[str]]] = (),
) -> ConfigT:
    """Validate ``values`` with ``overrides`` on top.

    Args:
        model: The config's model.
        values: What the file says.
        where: The file's name, for messages.
        overrides: ``a.b=value`` strings, the value in YAML; later ones win.
        rules: Functions marked with ``config.base.rule``.

    Raises:
        ConfigError: With every mistake: of overrides, of single fields, of rules.
    """
    try:
        merged, mistakes = _apply(values, overrides)
    except RecursionError as error:
        raise ConfigError(where, [Mistake("file", "is not readable YAML: it contains itself")]) from error
    config: ConfigT | None = None
    misspelt: set[str | None] = set()
    try:
        config = model.model_validate(merged)
    except ValidationError as error:
        found = _by_place(model, error.errors())
        misspelt = {_meant(model, at) for at, (first, *_) in found.items() if first["type"] == "extra_forbidden"}
        mistakes += [_mistake(model, at, each) for at, each in found.items() if not _is_said(each[0], misspelt)]
    wanted = {key for check in rules for key in getattr(check, RULES_ATTRIBUTE)}
    parsed = dict(_lenient(model, merged, wanted))
    for check in rules:
        keys: tuple[str, ...] = getattr(check, RULES_ATTRIBUTE)
        # As above: what a misspelt key was meant to say is not known, and that there is none is its own mistake.
        names = [key.removesuffix(GIVEN) for key in keys]
        if all(key in parsed for key in keys) and misspelt.isdisjoint(names):
            mistakes += [Mistake(names[0], problem) for problem in check(*(parsed[key] for key in keys))]
    if mistakes or config is None:
        raise ConfigError(where, list(dict.fromkeys(mistakes)))
    return config


def dump_config(config: Config) -> str:
    """The resolved config as YAML: every field, defaults included, in the order of the model."""
    return str(yaml.dump(config.model_dump(mode="python"), Dumper=_Dumper, sort_keys=False))


def literal(key: str, text: str) -> str:
    """An override whose value is a text, whatever else YAML would make of it."""
    quoted = str(yaml.dump(text, Dumper=_Dumper, default_style='"')).rstrip()
    return f"{key}={quoted}"


def _apply(values: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[Mistake]]:
    merged = _deep_copy(values)
    mistakes = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            mistakes.append(Mistake(f"--set {override}", "should be KEY=VALUE, such as --set seed=1"))
            continue
        try:
            value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        except _UNREADABLE as error:
            mistakes.append(Mistake(f"--set {key}", f"{_shown(text)} is not readable YAML: {_told(error)}"))
            continue
        *parents, last = key.split(".")
        at: dict[str, Any] = merged
        for parent in parents:
            inner = at.get(parent)
            if not isinstance(inner, dict):
                inner = at[parent] = {}
            at = inner
        at[last] = value
    return merged, mistakes


def _deep_copy(value: Any) -> Any:
    return {k: _deep_copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _by_place(model: type[BaseModel], details: Sequence[Any]) -> dict[tuple[Any, ...], list[Any]]:
    """What pydantic found, by place in the file; of a value that may be one of several types it tells each."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for each in details:
        # Entries that are wrong, each a mistake by itself, are not counted among those that there are.
        if each["type"] != "too_short" or len(each["input"]) < each["ctx"]["min_length"]:
            found.setdefault(tuple(_keys_of(model, each["loc"])), []).append(each)
    return found


def _keys_of(model: type[BaseModel], loc: Sequence[Any]) -> Iterator[Any]:
    """A place without the name of a type, which pydantic puts behind the key of a value that may be of several."""
    current: type[BaseModel] | None = model
    for number, part in enumerate(loc):
        if current is not None or isinstance(part, int):
            yield part
        current = _model_at(model, loc[: number + 1])


def _mistake(model: type[BaseModel], loc: Sequence[Any], details: Sequence[Any]) -> Mistake:
    key = ".".join(str(part) for part in loc) or "file"
    kind, value = details[0]["type"], details[0]["input"]
    if kind == "extra_forbidden":
        meant = _meant(model, loc)
        if meant:
            return Mistake(key, f"there is no such key; did you mean {meant.split('.')[-1]}?")
        known = ", ".join(_keys_beside(model, loc))
        return Mistake(key, f"there is no such key; the keys here are {known}")
    if kind == "missing":
        field = _field_at(model, loc)
        described = f": {_one_line(field.description)}" if field is not None and field.description else ""
        return Mistake(key, f"is missing; it is needed{described}")
    wanted = [_wanted(model, loc, each) for each in details]
    if len(wanted) > 1:
        wanted = [f"it should be {', '.join(each.removeprefix('it should be ') for each in wanted)}".replace("'", "")]
    is_empty = value is None
    return Mistake(key, f"{'is empty' if is_empty else f'{_shown(value)} is not allowed'}; {wanted[0]}")


def _wanted(model: type[BaseModel], loc: Sequence[Any], detail: Any) -> str:
    """What a value should be, in the words of a file and not of Python."""
    kind, value = str(detail["type"]), detail["input"]
    section = _model_at(model, loc)
    if section is not None and kind in ("model_type", "tuple_type"):
        fields = section.model_fields
        first = sorted(fields, key=lambda name: not fields[name].is_required())[:2]
        choices = "".join(f"; {name} is {_or(found)}" for name in first if (found := _choices(fields[name].annotation)))
        return f"it should be {'a list of ' if kind == 'tuple_type' else ''}keys such as {' and '.join(first)}{choices}"
    if kind == "string_pattern_mismatch":
        return f"it should be {PATTERNS[detail['ctx']['pattern']]}"
    if kind == "tuple_type":
        length = _length(_field_at(model, loc))
        each = value if isinstance(value, int | float) or (isinstance(value, str) and value.isalnum()) else "a"
        return f"it should be a list of {length}" if length else f"it should be a list, such as [{each}]"
    if kind == "too_short":
        least = detail["ctx"]["min_length"]
        return f"it needs at least {'one' if least == 1 else least}"
    if kind.startswith("date_"):
        return "it should be YYYY-MM-DD"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return re.sub(r"^(Input|String|Tuple) should", "it should", message.replace(" after validation", ""))


def _choices(annotation: Any) -> list[str]:
    """The words that a key may have as its value; none where it may have others."""
    if typing.get_origin(annotation) is typing.Literal:
        return [str(word) for word in typing.get_args(annotation)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return _choices(parts[0]) if len(parts) == 1 else []
    return []


def _or(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _length(field: Any) -> int | None:
    """How many values a list holds; None where it may hold any number."""
    for each in (field.annotation, *typing.get_args(field.annotation)):
        if typing.get_origin(each) is tuple and ... not in typing.get_args(each):
            return len(typing.get_args(each))
    return None


def _keys_beside(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    owner = _model_at(model, loc[:-1])
    return list(owner.model_fields) if owner else []


def _meant(model: type[BaseModel], loc: Sequence[Any]) -> str | None:
    """The dotted key that a key which does not exist was meant to be, by its spelling; None: none is like it."""
    close = difflib.get_close_matches(str(loc[-1]), _keys_beside(model, loc), n=1)
    return ".".join(map(str, [*loc[:-1], *close])) if close else None


def _is_said(detail: Any, misspelt: set[str | None]) -> bool:
    """Whether a key is missing that is there and misspelt, which is told: one mistake is told once."""
    return detail["type"] == "missing" and ".".join(map(str, detail["loc"])) in misspelt


def _shown(value: object) -> str:
    text = _written(value)
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004 - a line of a message


def _written(value: object) -> str:
    """A value as Python shows it, and a date as it is written, wherever it lies."""
    if isinstance(value, dt.date):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_written(key)}: {_written(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return repr(value)


def _model_at(model: type[BaseModel], loc: Sequence[Any]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = _submodel(field.annotation) if field else None
    return current


def _field_at(model: type[BaseModel], loc: Sequence[Any]) -> Any:
    owner = _model_at(model, loc[:-1])
    return owner.model_fields.get(loc[-1]) if owner else None


def _submodel(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as ``Model``, ``Model | None`` or ``tuple[Model, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple):
        found = [m for m in map(_submodel, typing.get_args(annotation)) if m is not None]
        return found[0] if found else None
    return None


def _lenient(model: type[BaseModel], raw: Any, wanted: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The wanted fields that are valid on their own, and which are given, by dotted key: what the rules may look at."""
    given = raw if isinstance(raw, Mapping) else {}
    for name, field in model.model_fields.items():
        key = prefix + name
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if key in wanted and name in given:
            annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            # A model brings its own strictness; a plain type is told to be as strict as the model around it.
            strict = None if _submodel(field.annotation) else ConfigDict(strict=True, allow_inf_nan=False)
            with suppress(ValidationError):
                yield key, TypeAdapter[Any](annotation, config=strict).validate_python(given[name])
        elif key in wanted and not field.is_required():
            yield key, default
        if key + GIVEN in wanted:
            yield key + GIVEN, given.get(name, default) is not None
        inner = _submodel(field.annotation)
        if inner is not None and any(each.startswith(f"{key}.") for each in wanted):
            below = given[name] if name in given else default.model_dump() if isinstance(default, BaseModel) else None
            # What is no section is a mistake of its own, and nothing is known of the keys below it.
            if isinstance(below, Mapping):
                yield from _lenient(inner, below, wanted, f"{key}.")


def _told(error: Exception) -> str:
    """What is wrong with a text, and in which line; PyYAML's own message also has a name that it gives to the text."""
    if isinstance(error, KeyError | TypeError | AttributeError):
        return "a value does not fit the tag (!!...) that stands before it"
    if not isinstance(error, yaml.MarkedYAMLError):
        return _one_line(re.sub(r'in "<(byte|unicode) string>",', "at", str(error)))
    at, since = _place(error.problem_mark), _place(error.context_mark)
    context = f" ({error.context}{f' from {since}' if since and since != at else ''})" if error.context else ""
    return f"{_one_line(error.problem)}{f' at {at}' if at else ''}{context}"


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
