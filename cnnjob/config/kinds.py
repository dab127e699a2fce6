"""The kinds of config by name: which model validates a file, and with which rules."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from cnnjob.config.base import RULES_ATTRIBUTE, Config, rule
from cnnjob.config.load import load_config
from cnnjob.config.yaml_text import read_yaml
from cnnjob.errors import ConfigError, Mistake, UserError

Rule = Callable[..., Iterator[str]]
KindName = Literal["prepare", "train", "score", "nightly", "cluster"]
NAMES: tuple[KindName, ...] = get_args(KindName)


@dataclass(frozen=True)
class Kind:
    """A kind of config: its model and its rules."""

    model: type[Config]
    rules: Sequence[Rule] = ()


def kind(name: KindName) -> Kind:
    """The kind of a name. Only its own module is imported: building all models takes longer than a check may."""
    match name:
        case "prepare":
            from cnnjob.config import prepare

            return Kind(prepare.PrepareConfig, prepare.RULES)
        case "train":
            from cnnjob.config import train

            return Kind(train.TrainConfig, train.RULES)
        case "score":
            from cnnjob.config import score

            return Kind(score.ScoreConfig, score.RULES)
        case "nightly":
            from cnnjob.config import nightly, score

            return Kind(nightly.NightlyConfig, _below("score", score.RULES))
        case "cluster":
            from cnnjob.config import cluster

            return Kind(cluster.ClusterConfig, cluster.RULES)


def load(name: KindName, path: Path, overrides: Sequence[str] = (), *, submitted: bool = False) -> Any:
    """The validated config of a kind from ``path`` with ``--set`` overrides on top.

    Args:
        name: The kind.
        path: The file.
        overrides: As they were given.
        submitted: The job goes to a cluster: told with a mistake, so that the right command sends it there too.

    Raises:
        UserError: There is no such file, or it is a config of another kind.
        ConfigError: With all mistakes at once.
    """
    known, values = kind(name), read_yaml(path)
    try:
        return load_config(known.model, values, where=str(path), overrides=overrides, rules=known.rules)
    except ConfigError as error:
        other = _best_fit(values)
        if other is None or other == name or not _is_whole(other, values) or _is_whole(name, values):
            raise
        command = "up --config" if other == "cluster" else f"submit {other}" if submitted else other
        raise UserError(f"{path} is a {other} conf; run: cnnjob {command} {shlex.quote(str(path))}") from error


def kind_of(path: Path) -> KindName:
    """The kind of a file: its folder's name (``conf/train/x.yaml``), else the one its keys fit best.

    Raises:
        UserError: There is no such file.
        ConfigError: It cannot be read, or its keys fit no kind.
    """
    for name in NAMES:
        if path.absolute().parent.name == name:
            return name
    best = _best_fit(read_yaml(path))
    if best is None:
        raise ConfigError(
            str(path), [Mistake("file", f"its keys fit no kind of config; give --kind {'|'.join(NAMES)}")]
        )
    return best


def _best_fit(keys: Iterable[str]) -> KindName | None:
    """The kind that has most of the keys; None where no kind has any."""
    fits = {name: len(set(keys) & set(kind(name).model.model_fields)) for name in NAMES}
    best = max(NAMES, key=lambda name: fits[name])
    return best if fits[best] else None


def _is_whole(name: KindName, keys: Iterable[str]) -> bool:
    """Whether there is a key of a kind among the keys, and none of those that it needs is missing."""
    fields = kind(name).model.model_fields
    needed = {key for key, field in fields.items() if field.is_required()}
    return needed <= set(keys) and not set(keys).isdisjoint(fields)


def _below(prefix: str, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The same rules for a config that stands inside another one."""

    def moved(check: Rule) -> Rule:
        keys = [f"{prefix}.{key}" for key in getattr(check, RULES_ATTRIBUTE)]
        return rule(*keys)(partial(check))

    return tuple(moved(check) for check in rules)
