"""Rules over the fields of a config: what contradicts itself, would do nothing, or has a password in it."""

from pathlib import Path

import pytest

from cnnjob.config.base import tracking_can_be_opened, tracking_has_no_password
from cnnjob.config.kinds import load
from cnnjob.config.train import TrainConfig
from cnnjob.errors import ConfigError
from pipelines.confs import shipped
from tests.configs import mistakes, written

ROOT = Path(__file__).parents[2]
CONFS = sorted(ROOT.glob("conf/*/*.yaml"))
TRAIN = "dataset: data\nname: run\n"

ADDRESSES = {
    "htp://mlflow.example.org": "htp:// is not known to MLflow; it should be a folder, or one of http://, https://",
    "HTTP://mlflow.example.org": "HTTP:// is not known",
    "s3://bucket/tracking": "s3:// is not known",
    "http+unix://mlflow": "is not known",
    "postgres://db/mlflow": "postgresql://",
    "file:///data/mlruns": "mlflow migrate-filestore",
    "sqlite://": "three slashes",
    "sqlite://data/mlflow.db": "three slashes",
    "sqlite:///:memory:": "three slashes",
    "http://": "like http://mlflow.example.org:5000",
    "http://:5000": "like http://mlflow.example.org:5000",
    "https://mlflow:99999": "like http://mlflow.example.org:5000",
    "http://[::1": "like http://mlflow.example.org:5000",
    "/data/a?b": "rename it",
    "/data/a%20b": "rename it",
}


def test_rule_is_left_out_where_its_field_is_wrong(tmp_path):
    """A rule over two fields says nothing about a field that is wrong by itself."""
    text = TRAIN + "global_batch_size: '1'\nnum_workers: 2\n"
    assert "should be" in mistakes("train", written(tmp_path, text))["global_batch_size"]


@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        ("train", "datasett: data\nname: run\n", ["datasett"]),
        ("train", TRAIN + "model: {presett: default}\n", ["model.presett"]),
        ("train", TRAIN + "global_batch_size: 1\nnum_worker: 1\n", ["num_worker"]),
        ("train", TRAIN + "model: {presett: default}\nglobal_batch_size: 1\n", ["model.presett", "global_batch_size"]),
    ],
)
def test_misspelt_key_is_one_mistake(tmp_path, kind, text, wrong):
    """A misspelt key is not told as missing too, and rules over the one that was meant say nothing; others do."""
    assert list(mistakes(kind, written(tmp_path, text))) == wrong


def test_head_has_ports_that_nobody_else_takes(tmp_path):
    """A port of the head that Ray's workers take, or one port for both services, is refused."""
    found = mistakes("cluster", written(tmp_path, "port: 10_002\ndashboard_port: 19_999\n"))
    assert found.keys() == {"port", "dashboard_port"}
    assert "10002 to 19999" in found["port"]
    assert "too" in mistakes("cluster", written(tmp_path, "port: 8265\n"))["dashboard_port"]


def test_rule_looks_at_defaults(tmp_path):
    """A rule over two fields also runs where one of them is left to its default."""
    default = TrainConfig(dataset="data", name="run").num_workers
    found = mistakes("train", written(tmp_path, TRAIN + f"global_batch_size: {default - 1}\n"))
    assert f"{default} workers" in found["global_batch_size"]


@pytest.mark.parametrize("model", ["{}", "{preset: default, spec: {blocks: [{filters: 4}]}}"])
def test_exactly_one_net(tmp_path, model):
    """A train config with both a preset and a spec, or with neither, is refused."""
    found = mistakes("train", written(tmp_path, TRAIN + f"model: {model}\n"))
    assert "either model.preset or model.spec" in found["model.preset"]


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("{preset: default, spec: {blocks: []}}", {"model.preset", "model.spec.blocks"}),
        ("{preset: resnet, spec: {blocks: [{filters: 4}]}}", {"model.preset"}),
        ("{preset: resnet, spec: {blocks: [{filters: 0}]}}", {"model.preset", "model.spec.blocks.0.filters"}),
        ("{spec: {blocks: []}}", {"model.spec.blocks"}),
        ("{preset: resnet}", {"model.preset"}),
        ("{preset: default, spec: 5}", {"model.preset", "model.spec"}),
    ],
)
def test_mistakes_of_a_net_hide_no_other(tmp_path, model, keys):
    """That both a preset and a spec are given is told also where one of them is wrong, and with what is wrong in it."""
    with pytest.raises(ConfigError) as caught:
        load("train", written(tmp_path, TRAIN + f"model: {model}\n"))
    assert {mistake.key for mistake in caught.value.mistakes} == keys
    assert ("both are given" in str(caught.value)) == ("preset" in model and "spec" in model)


def test_a_net_beyond_the_bound_is_refused_without_its_data(tmp_path):
    """A spec with more parameters than a net may have, on images of any size, is a mistake of the config."""
    wide = "{blocks: [{filters: 4}], hidden: [100_000, 100_000]}"
    found = mistakes("train", written(tmp_path, TRAIN), f"model={{spec: {wide}}}")
    assert "10,000,800,042 parameters even on the smallest images" in found["model.spec"]
    assert "a net may have 500,000,000" in found["model.spec"]
    assert load("train", written(tmp_path, TRAIN), ["model={spec: {blocks: [{filters: 4}], hidden: [22_000, 22_000]}}"])


@pytest.mark.parametrize("widths", ["[0]", "[-5]", "[64, 0]"])
def test_a_hidden_layer_has_a_width(tmp_path, widths):
    """A hidden layer of nothing is refused by its place in the list."""
    found = mistakes(
        "train", written(tmp_path, TRAIN), f"model={{spec: {{blocks: [{{filters: 4}}], hidden: {widths}}}}}"
    )
    assert "greater than or equal to 1" in found[f"model.spec.hidden.{widths.count(',')}"]


def test_shares_leave_training_rows(tmp_path):
    """Validation and test shares of 1 together are refused."""
    text = "output: out\nsource: {kind: digits}\nsplit: {val: 0.5, test: 0.5}\n"
    assert "no rows for training" in mistakes("prepare", written(tmp_path, text))["split.val"]


def test_scoring_in_bfloat16_needs_a_gpu(tmp_path):
    """bfloat16 without a GPU is refused, also beside a misspelt key of the engine; with one it is sound."""
    text = "input: {kind: folder, uri: data}\nmodel: 'models:/m/1'\noutput: out\n"
    path = written(tmp_path, text)
    found = mistakes("score", path, "engine.precision=bf16", "engine.batch_size=3")
    assert set(found) == {"engine.precision", "engine.batch_size"}
    assert "set engine.use_gpu: true" in found["engine.precision"]
    assert load("score", path, ["engine.precision=bf16", "engine.use_gpu=true"]).engine.use_gpu


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limits.max_bytes", "5"),
        ("limits.max_pixels", "7"),
        ("limits.formats", "[png]"),
        ("limits.max_refused_share", "0.5"),
        ("image", "{resize: pad}"),
        ("tracking.experiment", "mine"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(tmp_path, key, value):
    """Bounds and forms of raw images are refused for a prepared data set, and an experiment for a job without a run."""
    text = "input: {kind: dataset, split: test, uri: data}\nmodel: 'models:/m/1'\noutput: out\n"
    path = written(tmp_path, text)
    assert "leave it out" in mistakes("score", path, f"{key}={value}")[key]
    nightly = written(tmp_path, "score:\n  " + text.replace("\n", "\n  "))
    assert "leave it out" in mistakes("nightly", nightly, f"score.{key}={value}")[f"score.{key}"]


def test_keys_that_do_something_are_taken(tmp_path):
    """Raw images have their bounds."""
    path = written(tmp_path, "input: {kind: folder, uri: data}\nmodel: 'models:/m/1'\noutput: out\n")
    raw = ["limits.max_refused_share=0.5", "limits.max_bytes=5", "limits.formats=[png]", "image.resize=pad"]
    assert load("score", path, raw).limits.max_bytes == 5


def test_the_environment_says_nothing_of_mlflow(tmp_path, monkeypatch):
    """Where MLflow is, is in the config alone, so that it means the same place in every shell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert load("train", written(tmp_path, TRAIN)).tracking.uri == str(tmp_path / "tracking")


def test_rules_hold_inside_a_nightly_config(tmp_path):
    """The rules of a score config also guard the one inside a nightly config, under its dotted key."""
    text = "score: {input: {kind: dataset, uri: data}, model: 'models:/m/1', output: out}\n"
    assert "needs input.split" in mistakes("nightly", written(tmp_path, text))["score.input.kind"]


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:s3cret@mlflow.example.org",
        "http://me:s3/cret@mlflow:5000",
        "postgresql://me:s3/cret@db/mlflow",
        "mysql+pymysql://db/mlflow?charset=utf8&passwd=s3cret",
        "htp://me:s3cret@mlflow",
    ],
)
@pytest.mark.parametrize(("name", "keys"), [("train", "dataset: set\nname: one\n"), ("score", "output: scores\n")])
def test_a_password_is_refused_and_not_shown(tmp_path, name, keys, uri):
    """A tracking address with a password is refused, in training and in scoring, by a message without it."""
    path = written(tmp_path, f"{keys}num_epochs: 1\ntracking: {{uri: {uri!r}}}\n")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as told:
        load(name, path)
    assert "cret" not in str(told.value)


@pytest.mark.parametrize(
    "uri", ["https://me@mlflow:5000/a", "sqlite:////data/a:b.db", "http://localhost:5000", "a:b@c", "a?password=b"]
)
def test_addresses_without_a_password_are_taken(uri):
    """A port, a user or a path with a colon is no password."""
    assert list(tracking_has_no_password(uri)) == []


@pytest.mark.parametrize("uri", ADDRESSES)
def test_an_address_that_mlflow_does_not_open_is_refused(tmp_path, uri):
    """A tracking address that MLflow does not open is found by its dotted key, with what would be right."""
    text = f"dataset: set\nname: one\ntracking: {{uri: {uri!r}}}\n"
    assert ADDRESSES[uri] in mistakes("train", written(tmp_path, text))["tracking.uri"]
    text = f"input: {{kind: folder, uri: data}}\nmodel: 'models:/m/1'\noutput: out\ntracking: {{uri: {uri!r}}}\n"
    assert ADDRESSES[uri] in mistakes("score", written(tmp_path, text))["tracking.uri"]
    found = mistakes("nightly", written(tmp_path, "{}"), f"score.tracking.uri={uri!r}")
    assert ADDRESSES[uri] in found["score.tracking.uri"]


@pytest.mark.parametrize(
    "uri",
    [
        "/data/tracking",
        "/data/100%",
        "sqlite:////data/mlflow.db",
        "sqlite+pysqlite:////data/mlflow.db?timeout=30",
        "https://me@mlflow.example.org/a?b=c",
        "http://[::1]:5000",
        "postgresql+psycopg2:///mlflow",
        "mysql+pymysql://db/mlflow",
        "mssql+pyodbc://db/mlflow?driver=ODBC",
        "databricks://profile",
    ],
)
def test_addresses_that_mlflow_opens_are_taken(uri):
    """Folders, servers and databases, with a driver or without, are sound."""
    assert list(tracking_can_be_opened(uri)) == []


@pytest.mark.parametrize(
    ("kind", "conf", "key"),
    [
        ("prepare", "prepare/fashion_mnist.yaml", "source.uri"),
        ("prepare", "prepare/digits.yaml", "output"),
        ("train", "train/digits.yaml", "dataset"),
        ("train", "train/digits.yaml", "storage"),
        ("score", "score/digits.yaml", "input.uri"),
        ("score", "score/digits.yaml", "output"),
    ],
)
@pytest.mark.parametrize(
    "uri", ["ftp://bob:s3cret@host/x", "zip://a::sftp://bob:s3cret@host/a.zip", "s3://KEY:s3cret@bucket/x"]
)
def test_a_password_in_any_place_is_refused_and_not_shown(kind, conf, key, uri):
    """A config is stored beside every output: no address in it has a password, and no message shows it."""
    with pytest.raises(ConfigError, match=f"{key}: has a password in it") as caught:
        load(kind, shipped(conf), [f"{key}={uri}"])
    assert "s3cret" not in str(caught.value)
