"""The demo's confs: which date is scored, and whose keys are overridden. Nothing is run."""

import datetime as dt
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from cnnjob.errors import ConfigError, UserError
from cnnjob.scoring.dates import day_of
from pipelines import demo

TWO_DAYS = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
"""On Kiritimati, 14 hours ahead, it is the day after already."""


@pytest.fixture
def configs(monkeypatch):
    """What each job of the demo is given; no job does anything."""
    given = {}

    def job(name, **result):
        def run(config, _):
            given[name] = config
            return SimpleNamespace(created=True, published=True, **result)

        monkeypatch.setattr(getattr(demo, name), "run", run)

    job("prepare", dataset="set")
    job("train", model_name="digits", model_version="1", tracking_uri="here", test={})
    job("score", output="scores", date="2026-01-31", rows=1)
    monkeypatch.setattr(demo.promote, "run", lambda *_: None)
    monkeypatch.setattr(demo, "shared_session", nullcontext)
    monkeypatch.setattr(demo, "connect", lambda _: SimpleNamespace(ui_command="mlflow ui"))
    return given


@pytest.mark.parametrize(
    ("date", "day"),
    [
        ("yesterday", "2026-01-31"),
        ("today", "2026-02-01"),
        (None, "2026-02-01"),
        ("2026-01-01", "2026-01-01"),
        (dt.date(2026, 1, 1), "2026-01-01"),
    ],
)
def test_a_date_is_that_of_a_score_config(configs, tmp_path, date, day):
    """A date, today and yesterday are those of the time zone; without a date today is scored."""
    demo.run(tmp_path, date, None, ["score.timezone=Pacific/Kiritimati"])
    score = configs["score"]
    assert day_of(score.date, TWO_DAYS, score.timezone) == dt.date.fromisoformat(day)


def test_the_date_that_is_asked_for_wins(configs, tmp_path):
    """An override of the date holds where no other is asked for."""
    demo.run(tmp_path, None, None, ["score.date=2026-01-01"])
    assert configs["score"].date == dt.date(2026, 1, 1)
    demo.run(tmp_path, "2026-01-02", None, ["score.date=2026-01-01"])
    assert configs["score"].date == dt.date(2026, 1, 2)


@pytest.mark.parametrize("date", ["tomorrow", "2026-02-30", "2026-W05-6"])
def test_what_is_no_date_is_refused(configs, tmp_path, date):
    """What is no date is a mistake of the key `date`, before anything is done."""
    with pytest.raises(ConfigError, match=re.escape(repr(date))):
        demo.run(tmp_path, date, None)
    assert configs == {}


def test_an_override_is_of_the_job_that_it_names(configs, tmp_path):
    """Each job has its own overrides; everything that is written lies below the folder."""
    demo.run(tmp_path, None, None, ["train.num_epochs=3", "prepare.split.val=0.2"])
    assert (configs["train"].num_epochs, configs["prepare"].split.val) == (3, 0.2)
    places = [configs["prepare"].output, configs["train"].storage, configs["train"].tracking.uri]
    assert all(place.startswith(str(tmp_path)) for place in [*places, configs["score"].output])


@pytest.mark.parametrize(
    "name", ["my #1 dir", "a: b", "[x]", "'", '"', "- a", "*a", "tab\tand\nline", "\u4eba\U0001f600"]
)
def test_a_folder_may_have_any_name(configs, tmp_path, name):
    """Everything lies below the folder that was given, whatever its name would mean in YAML."""
    folder = tmp_path / name
    demo.run(folder, None, None)
    prepare, train, score = (configs[job] for job in ("prepare", "train", "score"))
    assert prepare.output == train.dataset == score.input.uri == str(folder / "datasets" / "digits")
    assert train.tracking.uri == score.tracking.uri == str(folder / "tracking")
    assert (train.storage, score.output) == (str(folder / "runs"), str(folder / "scores" / "digits"))


def test_a_folder_with_the_word_for_a_date_is_refused(configs, tmp_path):
    """What the scoring would take for a date in its input's address is refused before anything is done."""
    with pytest.raises(UserError, match=r"\{date\} in it"):
        demo.run(tmp_path / "{date}", None, None)
    assert configs == {}


@pytest.mark.parametrize(
    "override",
    [
        "prepare.output=x",
        "train.dataset=x",
        "train.storage=x",
        "train.tracking.uri=x",
        "train.tracking={experiment: x}",
        "score.input.uri=x",
        "score.output=x",
        "score.output.a=x",
        "score.tracking.uri=x",
    ],
)
def test_where_things_lie_is_not_overridden(configs, tmp_path, override):
    """The keys by which a job finds what another has written are refused, and so is a section with one of them."""
    with pytest.raises(UserError, match=r"where things lie is decided by --dir"):
        demo.run(tmp_path, None, None, [override])
    assert configs == {}
