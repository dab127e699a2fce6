"""The end of a training: what the test split says, the bundle of the best epoch, both registered in MLflow."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnjob.config.load import dump_config
from cnnjob.data.rows import read_rows
from cnnjob.errors import TrainingError
from cnnjob.models import bundle as bundles
from cnnjob.models.bundle import Bundle
from cnnjob.models.export import check_parity, export_onnx, weights
from cnnjob.models.spec import evaluation_batch
from cnnjob.tracking import registry, runs
from cnnjob.tracking.registry import Registered
from cnnjob.tracking.server import Server
from cnnjob.training import driver, figures
from cnnjob.training.evaluation import Evaluation, by_class
from cnnjob.training.worker import TrainJob
from cnnjob.versions import git_commit, library_versions

TEST_METRICS = ("loss", "accuracy", "top_k", "ece", "macro_f1")
EXAMPLE_ROWS = 8
PARITY_ROWS = 512


@dataclass(frozen=True)
class Finished:
    """What a finished training is registered as.

    Attributes:
        model: Its version.
        test: The figures of the test split.
        parity: Largest difference of a probability between the exported graph and the net.
    """

    model: Registered
    test: dict[str, Any]
    parity: float


def register(
    job: TrainJob, server: Server, epochs: Sequence[dict[str, Any]], best_epoch: int, evaluation: Evaluation
) -> Finished:
    """Export the best weights, check the graph against the net, and register both with all that was counted.

    Raises:
        ExportError: The graph and the net differ; nothing is registered.
        TrainingError: The checkpoint that has the best weights cannot be read; nothing is registered.
    """
    test = figures_of_test(evaluation, job.manifest.class_names)
    bundle, parity, example = _bundle(job, {"best_epoch": best_epoch, "test": test})
    files = {
        **_pictures(job, epochs, best_epoch, evaluation),
        "test.json": json.dumps(test, indent=1, ensure_ascii=False).encode(),
        "config.yaml": dump_config(job.config).encode(),
    }
    runs.log_files(server, job.run_id, files)
    tags, description = _said_of(test, best_epoch, job.config.name, job.manifest.fingerprint)
    model = registry.register(
        server, job.run_id, job.config.model_name, bundle, example, tags=tags, description=description
    )
    return Finished(model, test, parity)


def _said_of(test: Mapping[str, Any], best_epoch: int, run: str, fingerprint: str) -> tuple[dict[str, str], str]:
    """The tags and the description of a version: what somebody who compares two of them looks for."""
    accuracy = f"{test['accuracy']:.4f}"
    tags = {
        registry.ACCURACY_TAG: accuracy,
        registry.ROWS_TAG: str(test["rows"]),
        registry.FINGERPRINT_TAG: fingerprint,
    }
    return tags, f"epoch {best_epoch} of run {run}: test accuracy {accuracy} on {test['rows']:,} rows"


def figures_of_test(evaluation: Evaluation, class_names: Sequence[str]) -> dict[str, Any]:
    """The figures of the test split."""
    classes = by_class(evaluation.tally.confusion, class_names)
    return {
        "loss": evaluation.tally.loss,
        "accuracy": evaluation.tally.accuracy,
        "rows": evaluation.tally.rows,
        "k": evaluation.k,
        "top_k": evaluation.top_k,
        "ece": evaluation.calibration.error,
        "macro_f1": sum(each["f1"] for each in classes) / len(classes),
        "classes": classes,
    }


def _pictures(job: TrainJob, epochs: Sequence[dict[str, Any]], best_epoch: int, tested: Evaluation) -> dict[str, bytes]:
    manifest = job.manifest
    rows = [
        read_rows(job.config.dataset, manifest.splits["test"], mistake.row, mistake.row + 1, job.net.shape).images[0]
        for mistake in tested.worst
    ]
    return {
        "figures/curves.png": figures.curves(epochs, best_epoch),
        "figures/confusion_test.png": figures.confusion(tested.tally.confusion, manifest.class_names),
        "figures/reliability_test.png": figures.reliability(tested.calibration),
        "figures/mistakes_test.png": figures.mistakes(tested.worst, rows, manifest.class_names),
    }


def _bundle(job: TrainJob, metrics: dict[str, Any]) -> tuple[Bundle, float, Any]:
    """Export the best weights, and check the graph against the net on real rows of the data set."""
    manifest = job.manifest
    module, progress = driver.best_model(job)
    if progress.best_epoch != metrics["best_epoch"]:
        raise TrainingError(
            f"the newest checkpoint of {job.config.name} cannot be read now, and the one before it has epoch "
            f"{progress.best_epoch} as the best and not {metrics['best_epoch']}. Nothing was registered; run the same "
            f"command again."
        )
    graph = export_onnx(module, job.net.shape, manifest.class_names)
    train = manifest.splits["train"]
    rows = read_rows(job.config.dataset, train, 0, min(PARITY_ROWS, train.rows), job.net.shape)
    parity = check_parity(graph, module, rows.images, evaluation_batch(job.net))
    statistics = manifest.statistics.model_dump(mode="json")
    description = bundles.describe(
        {
            "architecture": dataclasses.asdict(job.net),
            "class_names": manifest.class_names,
            "image": manifest.image.model_dump(mode="json"),
            "mean": manifest.statistics.mean,
            "std": manifest.statistics.std,
            "data_fingerprint": manifest.fingerprint,
            "drift_reference": {key: statistics[key] for key in ("pixel_histogram", "class_shares")},
            "config": job.config.model_dump(mode="json"),
            "git_commit": git_commit(),
            "metrics": metrics,
            "versions": library_versions("cnnjob", "torch", "onnx", "onnxruntime", "ray", "mlflow", "numpy"),
        }
    )
    files = {bundles.ONNX: graph, bundles.SAFETENSORS: weights(module), bundles.DESCRIPTION: description}
    return Bundle(files), parity, rows.images[:EXAMPLE_ROWS]
