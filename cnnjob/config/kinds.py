"""The kinds of config by name: which model validates a file, and with which rules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from cnnjob.config.base import RULES_ATTRIBUTE, Config, rule
from cnnjob.config.load import load_config, read_yaml
from cnnjob.errors import ConfigError, Mistake

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


def load(name: KindName, path: Path, overrides: Sequence[str] = ()) -> Any:
    """The validated config of a kind from ``path`` with ``--set`` overrides on top.

    Raises:
        ConfigError: With all mistakes at once.
    """
    known = kind(name)
    return load_config(known.model, read_yaml(path), where=str(path), overrides=overrides, rules=known.rules)


def kind_of(path: Path) -> KindName:
    """The kind of a file: its folder's name (``conf/train/x.yaml``), else the one its keys fit best.

    Raises:
        ConfigError: The file cannot be read, or its keys fit no kind.
    """
    for name in NAMES:
        if path.absolute().parent.name == name:
            return name
    keys = set(read_yaml(path))
    fits = {name: len(keys & set(kind(name).model.model_fields)) for name in NAMES}
    best = max(NAMES, key=lambda name: fits[name])
    if fits[best] == 0:
        raise ConfigError(
            str(path), [Mistake("file", f"its keys fit no kind of config; give --kind {'|'.join(NAMES)}")]
        )
    return best


def _below(prefix: str, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The same rules for a config that stands inside another one."""

    def moved(check: Rule) -> Rule:
        keys = [f"{prefix}.{key}" for key in getattr(check, RULES_ATTRIBUTE)]
        return rule(*keys)(partial(check))

    return tuple(moved(check) for check in rules)
