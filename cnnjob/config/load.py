"""From a YAML file and ``--set`` overrides to a validated config, or to all of its mistakes at once.

Three sources of mistakes are gathered before anything is reported: the overrides, pydantic's findings on single
fields, and the rules over several fields (``config.base.rule``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cnnjob.config.base import GIVEN, RULES_ATTRIBUTE, Config
from cnnjob.config.fields import section
from cnnjob.config.mistakes import mistakes_of, shown
from cnnjob.config.yaml_text import parse, write_yaml
from cnnjob.errors import ConfigError, Mistake

ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(
    model: type[ConfigT],
    values: Mapping[str, Any],
    *,
    where: str,
    overrides: Sequence[str] = (),
    rules: Sequence[Callable[..., Iterator[str]]] = (),
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
    merged, mistakes = _apply(values, overrides)
    config: ConfigT | None = None
    misspelt: set[str] = set()
    try:
        config = model.model_validate(merged)
    except ValidationError as error:
        found, misspelt = mistakes_of(model, error)
        mistakes += found
    mistakes += _broken(rules, model, merged, misspelt)
    if mistakes or config is None:
        raise ConfigError(where, list(dict.fromkeys(mistakes)))
    return config


def dump_config(config: Config) -> str:
    """The resolved config as YAML: every field, defaults included, in the order of the model."""
    return write_yaml(config.model_dump(mode="python"))


def _apply(values: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[Mistake]]:
    merged = _deep_copy(values)
    mistakes = []
    for override in overrides:
        key, equals, text = override.partition("=")
        *parents, last = key.split(".")
        if not equals or not all((*parents, last)):
            mistakes.append(Mistake(f"--set {override}", "should be KEY=VALUE, such as --set seed=1"))
            continue
        try:
            value = parse(text)
        except ValueError as error:
            mistakes.append(Mistake(f"--set {key}", f"{shown(text)} {error}"))
            continue
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


def _broken(
    rules: Sequence[Callable[..., Iterator[str]]], model: type[BaseModel], raw: Any, misspelt: set[str]
) -> Iterator[Mistake]:
    """What the rules find, of those whose keys are all valid on their own."""
    wanted = {key for check in rules for key in getattr(check, RULES_ATTRIBUTE)}
    valid = dict(_lenient(model, raw, wanted))
    for check in rules:
        keys: tuple[str, ...] = getattr(check, RULES_ATTRIBUTE)
        # What a misspelt key was meant to say is not known, and that there is none is its own mistake.
        names = [key.removesuffix(GIVEN) for key in keys]
        if all(key in valid for key in keys) and misspelt.isdisjoint(names):
            yield from (Mistake(names[0], problem) for problem in check(*(valid[key] for key in keys)))


def _lenient(model: type[BaseModel], raw: Any, wanted: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The wanted fields that are valid on their own, and which are given, by dotted key: what the rules may look at."""
    given = raw if isinstance(raw, Mapping) else {}
    for name, field in model.model_fields.items():
        key = prefix + name
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        inner = section(field.annotation)
        if key in wanted and name in given:
            annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            # A model brings its own strictness; a plain type is told to be as strict as the model around it.
            strict = None if inner else ConfigDict(strict=True, allow_inf_nan=False)
            with suppress(ValidationError):
                yield key, TypeAdapter[Any](annotation, config=strict).validate_python(given[name])
        elif key in wanted and not field.is_required():
            yield key, default
        if key + GIVEN in wanted:
            yield key + GIVEN, given.get(name, default) is not None
        if inner is not None and any(each.startswith(f"{key}.") for each in wanted):
            below = given[name] if name in given else default.model_dump() if isinstance(default, BaseModel) else None
            # What is no section is a mistake of its own, and nothing is known of the keys below it.
            if isinstance(below, Mapping):
                yield from _lenient(inner, below, wanted, f"{key}.")
