"""The line from digits to probabilities, on a real Ray, as laws."""

import datetime as dt
import json
import re
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

from cnnjob import storage
from cnnjob.config import kinds
from cnnjob.data.manifest import read_manifest
from cnnjob.data.rows import read_rows
from cnnjob.errors import IntegrityError, JobError, ModelError, ResourceError, UserError
from cnnjob.models.bundle import ONNX
from cnnjob.models.cnn import build
from cnnjob.models.presets import net_for
from cnnjob.scoring.reading import read_scores
from cnnjob.tracking import registry
from cnnjob.tracking.server import connect
from cnnjob.training import checkpoint as checkpoints
from pipelines import demo, prepare, promote, score, train
from pipelines.confs import shipped
from pipelines.console import Console
from tests.line import DATE, Line

pytestmark = pytest.mark.ray


def score_config(line: Line, *sets: str) -> object:
    """The shipped score conf, pointed at the line's folder."""
    places = [
        f"input.uri={line.result.dataset}",
        f"output={line.result.scores}",
        f"tracking.uri={line.folder / 'tracking'}",
    ]
    return kinds.load("score", shipped("score/digits.yaml"), [*places, *sets])


def test_the_demo_reaches_its_accuracy(line: Line) -> None:
    """The champion is right on at least 0.97 of the test split."""
    assert line.result.test["accuracy"] >= 0.97


def test_every_id_of_the_test_split_is_scored_once(line: Line) -> None:
    """The ids in the table are those of the test split, each once."""
    manifest = read_manifest(line.result.dataset)
    split = manifest.splits["test"]
    ids = read_rows(line.result.dataset, split, 0, split.rows, manifest.image.shape).ids
    assert sorted(read_scores(line.result.scores, DATE).column("id").to_pylist()) == sorted(ids)


def test_probabilities_sum_to_one(line: Line) -> None:
    """The probabilities of every row are between 0 and 1, and sum to 1 within 1e-5."""
    table = read_scores(line.result.scores, DATE)
    rows = np.array(table.column("probabilities").to_pylist())
    assert rows.min() >= 0
    assert np.abs(rows.sum(axis=1) - 1).max() <= 1e-5


def test_prediction_is_the_class_of_the_largest_probability(line: Line) -> None:
    """Each row names the class with its largest probability, which is its confidence."""
    table = read_scores(line.result.scores, DATE)
    classes = json.loads(table.schema.metadata[b"cnnjob.class_names"])
    rows = np.array(table.column("probabilities").to_pylist(), dtype=np.float32)
    assert [classes[index] for index in rows.argmax(axis=1)] == table.column("prediction").to_pylist()
    assert np.array_equal(rows.max(axis=1), np.array(table.column("confidence").to_pylist(), dtype=np.float32))


def test_only_committed_parts_lie_below_the_root(line: Line) -> None:
    """Below the table's root there is nothing but date=D/NAME.parquet."""
    files = [path.relative_to(line.result.scores) for path in Path(line.result.scores).rglob("*") if path.is_file()]
    assert files
    assert all(path.parts[0] == f"date={DATE}" and path.suffix == ".parquet" for path in files)


def test_a_second_run_does_nothing_and_says_so(line: Line, console: Console) -> None:
    """The demo again redoes no step, and gives the same model version and table."""
    again = demo.run(line.folder, DATE, console)
    assert again.created == {"prepare": False, "train": False, "score": False}
    assert again.model_version == line.result.model_version


def test_another_date_is_scored_beside_the_first(line: Line, console: Console) -> None:
    """Scoring another date leaves the first one's files as they are."""
    before = sorted(Path(line.result.scores, f"date={DATE}").iterdir())
    result = score.run(score_config(line, "date=2026-02-01"), console)
    assert result.published
    assert sorted(Path(line.result.scores, f"date={DATE}").iterdir()) == before


def test_small_units_give_the_same_scores(line: Line, console: Console, tmp_path: Path) -> None:
    """Many small units give, row by row, the bits that one unit gives."""
    sets = [f"output={tmp_path / 'scores'}", f"date={DATE}", "units.target_rows=13", "engine.batch_size_per_process=7"]
    result = score.run(score_config(line, *sets), console)
    assert result.units["planned"] == 14
    columns = ["id", "prediction", "confidence", "probabilities"]
    small = read_scores(str(tmp_path / "scores"), DATE).select(columns).sort_by("id")
    assert small.equals(read_scores(line.result.scores, DATE).select(columns).sort_by("id"))


def test_mode_error_leaves_what_is_published(line: Line, console: Console) -> None:
    """With mode error a date that was scored otherwise is refused, and stays."""
    with pytest.raises(JobError, match="mode is error"):
        score.run(score_config(line, f"date={DATE}", "mode=error", "units.target_rows=50"), console)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (
            ["engine.num_processes=99", "units.target_rows=1"],
            "engine.num_processes 99 x 1 CPU each .* the Ray of this process has",
        ),
        (["engine.use_gpu=true", "engine.num_processes=3", "units.target_rows=1"], "use_gpu asks for 3 GPUs"),
    ],
)
def test_more_processes_than_there_is_room_for_are_refused(line: Line, console: Console, tmp_path: Path, sets, told):
    """Processes beyond the cluster's CPUs or GPUs are refused with the arithmetic, and nothing is written."""
    with pytest.raises(ResourceError, match=told):
        score.run(score_config(line, f"output={tmp_path / 'scores'}", f"date={DATE}", *sets), console)
    assert not list(tmp_path.iterdir())


def test_pyfunc_serves_the_champion(line: Line) -> None:
    """mlflow.pyfunc gives the scored table's probabilities from the raw uint8 images."""
    manifest = read_manifest(line.result.dataset)
    rows = read_rows(line.result.dataset, manifest.splits["test"], 0, 20, manifest.image.shape)
    mlflow.set_tracking_uri(line.result.tracking_uri)
    served = mlflow.pyfunc.load_model("models:/digits@champion").predict(rows.images)
    table = read_scores(line.result.scores, DATE).to_pylist()
    scored = {row["id"]: row["probabilities"] for row in table}
    expected = np.array([scored[row_id] for row_id in rows.ids])
    assert np.abs(served["probabilities"] - expected).max() <= 1e-6
    assert list(served["prediction"]) == [manifest.class_names[index] for index in expected.argmax(axis=1)]


def test_onnx_equals_torch_on_the_whole_test_split(line: Line) -> None:
    """The registered graph and the registered weights agree within 1e-5 on every real row of the test split."""
    manifest = read_manifest(line.result.dataset)
    split = manifest.splits["test"]
    images = read_rows(line.result.dataset, split, 0, split.rows, manifest.image.shape).images
    sound, _ = checkpoints.latest(str(line.folder / "runs" / "digits"))
    config = kinds.load("train", shipped("train/digits.yaml"))
    net = net_for(config.model, manifest.image.shape, len(manifest.class_names))
    module = build(net, manifest.statistics.mean, manifest.statistics.std, seed=0).eval()
    module.load_state_dict(dict(sound.best))
    with torch.inference_mode():
        trained = torch.softmax(module(torch.from_numpy(images)), dim=1).numpy()
    bundle = registry.resolve(connect(str(line.folder / "tracking")), "models:/digits@champion").bundle
    session = onnxruntime.InferenceSession(bundle.files[ONNX])
    assert np.abs(session.run(["probabilities"], {"image": images})[0] - trained).max() <= 1e-5


def test_one_run_has_each_metric_once_an_epoch(line: Line) -> None:
    """The MLflow run is FINISHED, with one point an epoch for each metric, its figures, and the model."""
    client = connect(str(line.folder / "tracking")).client
    run = client.get_run(client.search_runs(["1"])[0].info.run_id)
    epochs = kinds.load("train", shipped("train/digits.yaml")).num_epochs
    for metric in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_s", "first_batch_s"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [*range(1, epochs + 1)]
    assert run.info.status == "FINISHED"
    pictures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    names = ("curves", "confusion_test", "reliability_test", "mistakes_test")
    assert pictures == {f"figures/{name}.png" for name in names}
    figures = {"loss", "accuracy", "top5", "ece", "macro_f1"}
    assert {name for name in run.data.metrics if name.startswith("test_")} == {f"test_{name}" for name in figures}
    assert run.data.params["num_epochs"] == str(epochs)
    assert run.data.params["optimizer.name"] == "adamw"


def test_a_model_carries_the_figures_of_its_test(line: Line) -> None:
    """model.json and the result of the command have the same figures of the test split, by class too."""
    bundle = registry.resolve(connect(str(line.folder / "tracking")), "models:/digits@champion").bundle
    test = bundle.description.metrics["test"]
    assert test == line.result.test
    assert [each["name"] for each in test["classes"]] == list(bundle.description.class_names)
    assert sum(each["support"] for each in test["classes"]) == test["rows"]


def test_a_version_says_what_it_is(line: Line) -> None:
    """A registered version has its test's accuracy and rows and its data as tags, and a line for people."""
    version = connect(str(line.folder / "tracking")).client.get_model_version_by_alias("digits", "champion")
    test = line.result.test
    accuracy = f"{test['accuracy']:.4f}"
    assert version.tags["cnnjob.test_accuracy"] == accuracy
    assert version.tags["cnnjob.test_rows"] == str(test["rows"])
    assert version.tags["cnnjob.data_fingerprint"] == read_manifest(line.result.dataset).fingerprint
    said = rf"epoch \d+ of run digits: test accuracy {accuracy} on {test['rows']} rows"
    assert re.fullmatch(said, version.description)


def test_a_bundle_changed_after_registration_is_refused(line: Line) -> None:
    """One byte changed in the artifact store, and the model is refused before it is parsed."""
    server = connect(str(line.folder / "tracking"))
    graph = next((line.folder / "tracking" / "artifacts").rglob("model.onnx"))
    sound = graph.read_bytes()
    graph.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        with pytest.raises(IntegrityError, match="changed after registration"):
            registry.resolve(server, "models:/digits@champion")
    finally:
        graph.write_bytes(sound)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("models:/nobody@champion", r"digits \(@champion\)"),
        ("models:/nobody's/1", r"digits \(@champion\)"),
        ("models:/digits@nobody", r"digits \(@champion\)"),
        ("models:/digits/99", r"digits at .* has no version 99; its newest is 1"),
    ],
)
def test_an_unknown_model_is_named_with_what_there_is(line: Line, uri: str, told: str) -> None:
    """A model, alias or version that does not exist is a user's mistake; the message lists what exists."""
    with pytest.raises(ModelError, match=told):
        registry.resolve(connect(str(line.folder / "tracking")), uri)


def test_registering_again_makes_no_second_version(line: Line) -> None:
    """A job that died between registering and saying so finds its version again."""
    server = connect(str(line.folder / "tracking"))
    resolved = registry.resolve(server, "models:/digits@champion")
    run_id = server.client.get_model_version("digits", resolved.version).run_id
    example = np.zeros((1, 3, 32, 32), np.uint8)
    again = registry.register(server, run_id, "digits", resolved.bundle, example)
    assert again.version == resolved.version


def test_promote_points_an_alias_at_a_version(line: Line) -> None:
    """After promote, the alias resolves to the version."""
    uri = str(line.folder / "tracking")
    promoted = promote.run(uri, "digits", "1", "candidate")
    assert registry.resolve(connect(uri), "models:/digits@candidate").version == promoted.model_version == "1"


def test_another_config_under_the_same_name_is_refused(line: Line, console: Console) -> None:
    """A run's name stands for one config: another seed is refused, with the difference."""
    places = [f"dataset={line.result.dataset}", f"storage={line.folder / 'runs'}"]
    config = kinds.load("train", shipped("train/digits.yaml"), [*places, "seed=7"])
    with pytest.raises(UserError, match="seed: was 0, is 7"):
        train.run(config, console)


def test_more_workers_than_cpus_is_refused_with_the_arithmetic(line: Line, console: Console, tmp_path: Path) -> None:
    """64 workers on a small machine: exit code 2, the sum in the message, nothing written."""
    places = [f"dataset={line.result.dataset}", f"storage={tmp_path / 'runs'}", f"tracking.uri={tmp_path / 'tracking'}"]
    config = kinds.load("train", shipped("train/digits.yaml"), [*places, "num_workers=64"])
    with pytest.raises(ResourceError, match="num_workers 64 x 1 CPU each = 64 CPUs"):
        train.run(config, console)
    assert list(tmp_path.iterdir()) == []


def test_preparing_again_with_another_config_replaces_the_whole(
    shared_ray: str, console: Console, tmp_path: Path
) -> None:
    """A changed config gives a new data set under the same output, and no file of the old one stays."""
    output = tmp_path / "digits"
    conf = shipped("prepare/digits.yaml")
    first = prepare.run(kinds.load("prepare", conf, [f"output={output}"]), console)
    small = [f"output={output}", "image.height=8", "image.width=8", "image.resize=exact", "shards.target_bytes=50000"]
    second = prepare.run(kinds.load("prepare", conf, small), console)
    assert first.created
    assert second.created
    assert first.fingerprint != second.fingerprint
    manifest = read_manifest(str(output))
    shards = {shard.path for split in manifest.splits.values() for shard in split.shards}
    beside = {"manifest.json", "refused.parquet", "contact_sheet.png"}
    assert set(storage.list_files(str(output))) == shards | beside
    assert sum(pq.read_metadata(output / path).num_rows for path in shards) == 1797
    assert not [path for path in tmp_path.iterdir() if path != output]


def test_a_folder_that_is_no_data_set_is_not_replaced(console: Console, tmp_path: Path) -> None:
    """Prepare refuses an output that holds something else, and leaves it."""
    keep = tmp_path / "photos" / "holiday.jpg"
    keep.parent.mkdir()
    keep.write_bytes(b"precious")
    config = kinds.load("prepare", shipped("prepare/digits.yaml"), [f"output={keep.parent}"])
    with pytest.raises(UserError, match="not a prepared data set"):
        prepare.run(config, console)
    assert keep.read_bytes() == b"precious"


def test_dates_are_required(line: Line, console: Console) -> None:
    """A score without a date is a user's mistake."""
    with pytest.raises(UserError, match="--date YYYY-MM-DD"):
        score.run(score_config(line), console)


def test_scored_at_is_one_value_for_a_version(line: Line) -> None:
    """All rows of a version carry the time its plan was made, in UTC."""
    values = set(read_scores(line.result.scores, DATE).column("scored_at").to_pylist())
    assert len(values) == 1
    assert values.pop().utcoffset() == dt.timedelta(0)
