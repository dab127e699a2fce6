"""Configs in files, and the mistakes that loading them tells."""

from pathlib import Path

import pytest

from cnnjob.config.kinds import load
from cnnjob.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "conf.yaml"
    path.write_text(text)
    return path


def mistakes(name, path: Path, *overrides: str) -> dict[str, str]:
    """What is wrong with a config, by key; fails if a key is reported twice."""
    with pytest.raises(ConfigError) as caught:
        load(name, path, overrides)
    found = {mistake.key: mistake.problem for mistake in caught.value.mistakes}
    assert len(found) == len(caught.value.mistakes)
    return found
