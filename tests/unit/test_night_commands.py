"""``score`` over a range of dates and ``nightly``, as they are typed: what is called with what, and how it ends."""

import dataclasses
import io
import re
import signal
from collections import Counter
from contextlib import suppress
from unittest import mock

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cnnjob.config.load import dump_config
from cnnjob.config.nightly import NightlyConfig
from cnnjob.interrupt import EndedBySignalError
from cnnjob.scoring import job
from cnnjob.scoring.drift import by_chance
from cnnjob.scoring.reading import read_scores
from cnnjob.scoring.table import current
from pipelines import command, nightly, score
from pipelines.cli import app
from pipelines.console import Console
from pipelines.score import RangeResult, ScoreResult
from tests.ended import Ended
from tests.nights import DATE, Work, content_of, folder_of_pictures, in_a_loop, resolved_of

FIRST, LAST = "2024-02-27", "2024-03-01"
RANGE = ("--from", FIRST, "--to", LAST)
DONE = ScoreResult("root", FIRST, 1, {}, True, "v", "digits", "1", 1.0, 1.0, 1.0, {}, {}, {"7": 1}, "")


@pytest.fixture
def cnnjob(capfd, monkeypatch):
    """The command line in this process, which keeps its handlers of signals."""
    monkeypatch.setattr(command.interrupt, "install", lambda: None)

    def run(*arguments: str) -> Ended:
        result = CliRunner().invoke(app, arguments)
        return Ended(result.exit_code, capfd.readouterr().out, result.stderr)

    return run


@pytest.fixture
def work(digits, bundle_folder, tmp_path):
    """The digits' test split, scored by a model that was trained on the digits."""
    return Work(str(bundle_folder), "dataset", digits.path, str(tmp_path / "scores"))


@pytest.fixture
def conf(work, tmp_path):
    """The conf of a score job that names no date."""
    path = tmp_path / "score.yaml"
    path.write_text(dump_config(work.config.model_copy(update={"date": None})))
    return str(path)


@pytest.fixture
def called(monkeypatch):
    """The two jobs of ``score``, which do nothing: one date, and those that are missing of a range."""
    jobs = mock.Mock(**{"run.return_value": DONE, "run_range.return_value": RangeResult([DONE])})
    monkeypatch.setattr(score, "run", jobs.run)
    monkeypatch.setattr(score, "run_range", jobs.run_range)
    return jobs


def test_a_range_is_scored_with_the_dates_that_were_typed(cnnjob, conf, called, work):
    """--from and --to reach the job of a range as they are, with the conf's config and the overrides on top."""
    assert cnnjob("score", conf, *RANGE, "--set", "mode=skip").code == 0
    ((config, first, last, _),) = [call.args for call in called.run_range.call_args_list]
    assert config == work.config.model_copy(update={"date": None, "mode": "skip"})
    assert (first, last) == (FIRST, LAST)
    assert not called.run.called


def test_a_date_is_scored_by_itself(cnnjob, conf, called, work):
    """Without a range one date is scored: that of --date, which comes before what is set."""
    assert cnnjob("score", conf, "--date", str(DATE), "--set", "date=2020-01-01").code == 0
    ((config, _),) = [call.args for call in called.run.call_args_list]
    assert config == work.config
    assert not called.run_range.called


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--from", FIRST), id="no end"),
        pytest.param(("--to", LAST), id="no start"),
        pytest.param((*RANGE, "--date", FIRST), id="range and date"),
        pytest.param(("--from", FIRST, "--date", FIRST), id="start and date"),
        pytest.param(("--to", LAST, "--date", LAST), id="end and date"),
    ],
)
def test_half_a_range_and_a_date_beside_one_are_refused(cnnjob, conf, called, options):
    """--from without --to, --to without --from, and --date beside either are the user's mistake: nothing is scored."""
    ended = cnnjob("score", conf, *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error: --from and --to go together")
    assert not called.mock_calls


def test_a_date_that_is_set_beside_a_range_is_refused(cnnjob, conf, called):
    """A date given by --set is not passed over in silence where a range names the dates."""
    ended = cnnjob("score", conf, *RANGE, "--set", f"date={FIRST}")
    assert (ended.code, ended.out) == (2, "")
    assert "leave one of the two out" in ended.err
    assert not called.mock_calls


@pytest.mark.parametrize(
    ("first", "last", "told"),
    [
        ("2024-02-30", LAST, "--from '2024-02-30' is no date"),
        (FIRST, "yesterday", "--to 'yesterday' is no date"),
        (LAST, FIRST, f"--to {FIRST} is before --from {LAST}"),
    ],
)
def test_dates_of_a_range_that_are_none_are_refused(cnnjob, conf, tmp_path, first, last, told):
    """A range with an end that is no date, or that goes backwards, is the user's mistake, told by its option."""
    ended = cnnjob("score", conf, "--from", first, "--to", last)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"score.yaml", "bundle"}


def test_a_conf_with_a_mistake_is_refused_before_a_range_is_looked_at(cnnjob, conf, called):
    """A mistake of the conf is told where a range is asked for as well."""
    ended = cnnjob("score", conf, *RANGE, "--set", "mode=never")
    assert ended.code == 2
    assert "mode" in ended.err
    assert not called.mock_calls


def test_a_range_is_one_object_for_a_script(cnnjob, conf, called):
    """With --json standard output is one object, with a result for each date that was missing."""
    assert cnnjob("score", conf, *RANGE, "--json").json == {
        "dates": [dataclasses.asdict(DONE)],
        "failed": {},
    }


def test_a_range_with_a_date_that_failed_ends_with_1(cnnjob, conf, called):
    """Dates that could not be scored are in the one object beside those that were, and the exit code tells."""
    called.run_range.return_value = RangeResult([DONE], {LAST: "there is no folder"})
    ended = cnnjob("score", conf, *RANGE, "--json")
    assert (ended.code, ended.json["failed"]) == (1, {LAST: "there is no folder"})
    assert len(ended.json["dates"]) == 1
    assert f"Not scored: {LAST}" in cnnjob("score", conf, *RANGE).out


@pytest.fixture
def night(cnnjob, work, tmp_path, monkeypatch):
    """Runs ``nightly`` on a work's date, without Ray and MLflow."""

    def run(*flags: str, of: Work = work, **bounds: float) -> Ended:
        path = tmp_path / "nightly.yaml"
        undated = of.config.model_copy(update={"date": None})
        path.write_text(dump_config(NightlyConfig(score=undated, drift=bounds)))
        for module in (score, nightly):
            monkeypatch.setattr(module, "connect", lambda _: None)
            monkeypatch.setattr(module, "resolve", lambda *_: resolved_of(of))
        with in_a_loop(of):
            return cnnjob("nightly", str(path), "--date", str(DATE), *flags)

    return run


@pytest.fixture
def noise(work, tmp_path):
    """A date of 90 pictures of noise and 10 files that are none, scored by the model of the digits."""
    return dataclasses.replace(work, kind="folder", uri=str(folder_of_pictures(tmp_path / "pictures", 100)))


def test_a_night_like_the_training_data_is_within_bounds(night):
    """A date whose pictures are as those of the training is scored, and ends with exit code 0."""
    ended = night("--json")
    assert (ended.code, ended.json["within_bounds"]) == (0, True)
    assert ended.json["score"]["published"]
    assert all(0 < index < 0.25 for index in ended.json["drift"].values())


def test_the_bounds_that_were_applied_are_in_the_result(night, digits):
    """They are the config's, with what chance adds: for the rows scored, the training rows, the classes and 16 bins."""
    ended = night("--json", max_psi_predictions=0.2, max_psi_pixels=0.3)
    rows, training = ended.json["score"]["rows"], digits.manifest.splits["train"].rows
    classes = len(digits.manifest.class_names)
    assert ended.json["bounds"] == {
        "predictions": 0.2 + by_chance(rows, training, classes),
        "pixels": 0.3 + by_chance(rows, training, 16),
    }


def test_a_night_that_drifted_is_published_and_ends_with_1(night, noise):
    """A date of other pictures ends with exit code 1, and its scores can be read all the same."""
    ended = night("--json", of=noise)
    assert (ended.code, ended.json["within_bounds"]) == (1, False)
    assert ended.json["drift"]["pixels"] > ended.json["bounds"]["pixels"]
    assert ended.json["score"]["published"]
    assert len(content_of(noise.root)) == ended.json["score"]["rows"] == 90


def test_a_night_without_a_row_is_not_within_bounds(night, work, tmp_path):
    """A date of which every picture was refused ends with exit code 1, and is not said to be like the training data."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    other = dataclasses.replace(work, kind="folder", uri=str(pictures))
    ended = night("--json", of=other)
    assert (ended.code, ended.json["within_bounds"], ended.json["score"]["rows"]) == (1, False, 0)
    assert "no row was scored" in night(of=other).out
    assert read_scores(other.root, DATE).column_names[:2] == ["id", "prediction"]


@pytest.mark.parametrize("bound", ["predictions", "pixels"])
def test_one_index_beyond_its_bound_is_enough(night, noise, bound):
    """A date just below a bound is within it, and just above is not: of either index, also where nothing is left."""
    far = {"max_psi_predictions": 100.0, "max_psi_pixels": 100.0}
    first = night("--json", of=noise, **far).json
    at = first["drift"][bound] - first["bounds"][bound] + 100.0
    for value, code in ((at + 1e-9, 0), (at - 1e-9, 1)):
        ended = night("--json", of=noise, **{**far, f"max_psi_{bound}": value})
        assert (ended.code, ended.json["within_bounds"]) == (code, code == 0)
        assert ended.json["drift"] == first["drift"]
        assert not ended.json["score"]["published"]


def test_people_are_told_that_a_night_is_within_bounds(night):
    """Without --json the verdict is the last line, behind what was published, with the bounds that were applied."""
    ended = night()
    assert ended.code == 0
    published, predicted, told = ended.out.splitlines()
    assert published.startswith("Published ")
    assert predicted.startswith("Predicted: ")
    assert re.fullmatch(
        r"Drift \(PSI\): predictions 0\.\d+ of at most 0\.\d+, pixels 0\.\d+ of at most 0\.\d+: within bounds", told
    )


@pytest.mark.parametrize("names", [("pixels",), ("predictions", "pixels")])
def test_people_are_told_what_is_beyond_and_what_to_do(night, noise, names):
    """A date beyond a bound is told by which, that it is published, what a second run does, and the keys."""
    bounds = {f"max_psi_{name}": 1e-3 if name in names else 100.0 for name in ("predictions", "pixels")}
    ended = night(of=noise, **bounds)
    assert ended.code == 1
    verdict, again, keys = ended.out.splitlines()[-3:]
    assert verdict.endswith(f": {' and '.join(names)} BEYOND bounds")
    assert "published all the same" in again
    assert "Running it again does not help unless the input changes" in again
    assert "drift.max_psi_predictions and drift.max_psi_pixels" in keys


def test_people_are_told_where_the_refused_rows_are(night, noise):
    """The path that is told is that of the table of the refused rows; where none was refused, none is told."""
    (told,) = [line for line in night(of=noise).out.splitlines() if line.startswith("Refused rows: ")]
    path = told.removeprefix("Refused rows: ")
    assert night("--json", of=noise).json["score"]["quarantine"] == path
    assert pq.read_table(path).num_rows == 10


def test_nothing_refused_has_no_quarantine(night):
    """Where no row was refused the result has no path, and people see none."""
    assert "Refused rows" not in night().out
    assert night("--json").json["score"]["quarantine"] == ""


def test_rows_are_counted_by_the_class_that_they_got(night, work):
    """The result has the rows of each class, by its name, as they are in the table."""
    counts = night("--json").json["score"]["counts"]
    found = Counter(content_of(work.root).column("prediction").to_pylist())
    assert {name: rows for name, rows in counts.items() if rows} == found


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"cat": 3, "dog": 1_200, "cow": 0}, "Predicted: dog (1,200), cat (3)"),
        (
            {f"c{number}": 20 - number for number in range(12)},
            f"Predicted: {', '.join(f'c{number} ({20 - number})' for number in range(10))}, ... and 2 more",
        ),
    ],
)
def test_people_see_the_largest_classes(counts, told):
    """The ten classes with most rows are told, largest first, and how many more have any."""
    out = io.StringIO()
    result = dataclasses.replace(DONE, counts=counts, rows=sum(counts.values()))
    score.show(result, Console(as_json=False, out=out, err=io.StringIO()))
    assert out.getvalue().splitlines()[1:] == [told]


def lost() -> None:
    """A SIGTERM whose exception comes to nothing."""
    with suppress(SystemExit):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("signals_installed")
def test_a_signal_that_was_lost_publishes_nothing(work):
    """A date that is scored whole is not published where the job was told to end."""
    lost()
    with pytest.raises(EndedBySignalError):
        work.score(DATE)
    assert current(work.table) is None


@pytest.mark.usefixtures("signals_installed")
def test_a_signal_that_was_lost_ends_the_scoring_at_the_next_unit(work, monkeypatch):
    """No further unit is waited for."""
    reached = []

    def units(*_: object, **__: object):
        for number in range(3):
            reached.append(number)
            if number == 1:
                lost()
            yield mock.Mock(rows=1, refused=())

    monkeypatch.setattr(job, "run", units)
    with pytest.raises(EndedBySignalError):
        list(score._score(work.config, (), mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock()))
    assert reached == [0, 1]
