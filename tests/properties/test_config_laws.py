"""A resolved config, dumped and loaded, is itself; a file of mistakes is never a traceback."""

import datetime as dt
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnnjob.config.kinds import NAMES, load
from cnnjob.config.load import dump_config
from cnnjob.config.prepare import PrepareConfig, SourceConfig, SplitConfig
from cnnjob.config.score import InputConfig, ScoreConfig
from cnnjob.config.train import BlockConfig, ModelConfig, NetConfig, OptimizerConfig, TrainConfig
from cnnjob.errors import ConfigError, UserError

names = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True)
paths = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="~"), min_size=1, max_size=30
).filter(str.strip)
rates = st.floats(1e-12, 10, allow_subnormal=False)
blocks = st.builds(BlockConfig, filters=st.integers(1, 64), kernel=st.integers(1, 5), pool=st.integers(1, 3))
nets = st.builds(
    NetConfig,
    blocks=st.lists(blocks, min_size=1, max_size=3).map(tuple),
    hidden=st.lists(st.integers(1, 99), max_size=3).map(tuple),
)
trains = st.builds(
    TrainConfig,
    dataset=paths,
    name=names,
    model=st.one_of(st.just(ModelConfig(preset="default")), st.builds(ModelConfig, spec=nets)),
    optimizer=st.builds(
        OptimizerConfig,
        learning_rate=rates,
        ema_decay=st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
        schedule=st.sampled_from(["constant", "cosine", "one_cycle"]),
    ),
    global_batch_size=st.integers(16, 10**6),
    num_workers=st.integers(1, 16),
    seed=st.integers(0, 2**63 - 1),
    register_as=st.none() | names,
)
prepares = st.builds(
    PrepareConfig,
    output=paths,
    source=st.just(SourceConfig(kind="digits")),
    split=st.builds(SplitConfig, val=st.floats(0, 0.5), test=st.floats(0, 0.49), seed=st.integers(0, 2**63 - 1)),
)
scores = st.builds(
    ScoreConfig,
    input=st.builds(InputConfig, kind=st.just("dataset"), uri=paths, split=st.sampled_from(["train", "all"])),
    model=names.map("models:/{}@champion".format),
    output=paths,
    date=st.none() | st.dates(min_value=dt.date(1000, 1, 1)),
    mode=st.sampled_from(["error", "skip", "replace"]),
)


def loaded(name, text: str):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "conf.yaml")
        path.write_text(text, encoding="utf-8")
        return load(name, path)


@given(trains)
@example(TrainConfig(dataset="yes", name="0x10", optimizer=OptimizerConfig(learning_rate=1e-5)))
def test_train_configs_dump_and_load(config):
    """A train config's dump loads back equal: also names that look like numbers, and rates of any size."""
    assert loaded("train", dump_config(config)) == config


@given(prepares)
def test_prepare_configs_dump_and_load(config):
    """A prepare config's dump loads back equal."""
    assert loaded("prepare", dump_config(config)) == config


@given(scores)
def test_score_configs_dump_and_load(config):
    """A score config's dump loads back equal."""
    assert loaded("score", dump_config(config)) == config


words = st.sampled_from(["model", "seed", "dataset", "input", "split", "source", "name", "1", "date", "spec", "blocks"])
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text("ab:-{}[]&*!? \n", max_size=8)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100)
@given(st.sampled_from(NAMES), st.dictionaries(words, documents, max_size=5))
def test_any_document_loads_or_is_a_config_error(name, document):
    """A document of any values is a config, all of its mistakes, or one of another kind; nothing else comes out."""
    with suppress(UserError):
        assert loaded(name, yaml.safe_dump(document)) is not None


@settings(max_examples=100)
@given(st.text("abx1 :-{}[]&*!?'\"\n\t#|>%@`,.~", max_size=40))
def test_any_text_is_a_config_error(text):
    """Any text in the place of a config is a ConfigError: none of these is a whole train config."""
    with pytest.raises(ConfigError):
        loaded("train", text)
