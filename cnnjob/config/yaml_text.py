"""The YAML of configs: what is read is safe and bounded, and what is written is read back as it was."""

import re
from pathlib import Path
from typing import Any

import yaml

from cnnjob.errors import ConfigError, Mistake, UserError

MAX_CONFIG_BYTES = 1 << 20
"""A config is a page of text; a file above 1 MiB is something else, and is not parsed."""
_MAX_INTEGER_CHARACTERS = 100
"""Python makes no text of a number of some thousand digits, and so no message."""


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

    def construct_float(self, node: yaml.ScalarNode) -> float:
        # The sum of -0.0 and 0.0 is 0.0. As texts they differ, and with them the digests of two equal configs.
        return self.construct_yaml_float(node) + 0.0

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MAX_INTEGER_CHARACTERS:
            problem = f"a number has more than {_MAX_INTEGER_CHARACTERS} digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return int(self.construct_yaml_int(node))


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back: words that it would take for numbers are quoted."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )

_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


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
        values = parse(text)
    except ValueError as error:
        raise ConfigError(where, [Mistake("file", str(error))]) from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(where, [Mistake("file", "should be keys and values, such as `seed: 1`")])
    return values


def parse(text: str | bytes) -> Any:
    """The value that a text of YAML means.

    Raises:
        ValueError: It is no YAML, or YAML that means nothing, such as ``!!bool maybe``; with what, where.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"is not readable YAML: {_told(error)}") from error


def write_yaml(value: Any) -> str:
    """A value as YAML, keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False))


def literal(key: str, text: str) -> str:
    """An override whose value is a text, whatever else YAML would make of it."""
    quoted = str(yaml.dump(text, Dumper=_Dumper, default_style='"')).rstrip()
    return f"{key}={quoted}"


def _told(error: Exception) -> str:
    """What is wrong with a text, and in which line; PyYAML's own message also has a name that it gives to the text."""
    if isinstance(error, KeyError | TypeError | AttributeError):
        return "a value does not fit the tag (!!...) that stands before it"
    if isinstance(error, RecursionError):
        return "its values lie too deep in each other"
    if not isinstance(error, yaml.MarkedYAMLError):
        return _one_line(re.sub(r'in "<(byte|unicode) string>",', "at", str(error)))
    at, since = _place(error.problem_mark), _place(error.context_mark)
    context = f" ({error.context}{f' from {since}' if since and since != at else ''})" if error.context else ""
    return f"{_one_line(error.problem)}{f' at {at}' if at else ''}{context}"


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
