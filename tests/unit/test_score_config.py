"""What a score conf may not say."""

import datetime as dt

import pytest

from cnnjob.config.load import load_config
from cnnjob.config.score import RULES, ScoreConfig
from cnnjob.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": {"kind": "folder", "uri": "a", "split": "test"}}, "input.split"),
        ({"input": {"kind": "dataset", "uri": "a"}}, "needs input.split"),
        ({"input": {"kind": "folder", "uri": "a", "columns": {"id": "x"}}}, "only a manifest has columns"),
        ({"input": {"kind": "manifest", "uri": "a", "columns": {"uri": "x", "image": "y"}}}, "either uri or image"),
        ({"input": {"kind": "manifest", "uri": "a", "columns": {"keys": ["confidence"]}}}, "is taken"),
        (
            {"input": {"kind": "manifest", "uri": "a", "columns": {"keys": ["Date"]}}},
            "'Date' in keys is taken: .* date",
        ),
        ({"input": {"kind": "manifest", "uri": "a", "columns": {"keys": ["P_x"]}}}, "'P_x' in keys is taken"),
        ({"input": {"kind": "manifest", "uri": "a", "columns": {"keys": ["a", "A"]}}}, "'A' in keys is taken"),
        (
            {"date": dt.datetime.fromisoformat("2026-01-01T12:00:00")},
            "date: 2026-01-01 12:00:00 is not allowed; it should be YYYY-MM-DD",
        ),
        ({"date": [dt.date(2026, 1, 1)]}, r"date: \[2026-01-01\] is not allowed; it should be YYYY-MM-DD"),
        ({"input": {"kind": "dataset", "uri": "a", "split": "test"}, "image": {"resize": "pad"}}, "image: .* leave it"),
        ({"output": "zip://a::b.zip"}, "cannot be published to"),
        ({"timezone": "Europe/Atlantis"}, "no time zone"),
    ],
)
def test_a_contradiction_is_a_mistake_of_the_config(changes, said):
    """What contradicts itself is told before anything is opened, with the key."""
    plain = {"input": {"kind": "folder", "uri": "a"}, "model": "models:/digits/1", "output": "scores"}
    with pytest.raises(ConfigError, match=said):
        load_config(ScoreConfig, {**plain, **changes}, where="test", rules=RULES)
