"""``cnnjob train``: a prepared data set in, a registered model out.

Read the manifest and build the net. A finished run of this name, config and data is not run again. Otherwise
open Ray, train with DDP on all workers (from the newest checkpoint if there is one), and follow the journal into
the table and into MLflow. Then take the weights of the best validation epoch, export them, check the exported
graph against the net on real rows, and register the bundle.
"""

import dataclasses
import shlex
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cnnjob import interrupt, storage
from cnnjob.cluster.session import Needs, is_own, session, worker_environment
from cnnjob.config.load import dump_config
from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest, read_manifest
from cnnjob.errors import CnnjobError, ModelError, StorageError, TrackingError, TrainingError
from cnnjob.tracking import runs
from cnnjob.tracking.inputs import ReadSplit, log_inputs
from cnnjob.tracking.registry import is_registered
from cnnjob.tracking.sender import MetricSender
from cnnjob.tracking.server import Server, connect, resolved_uri
from cnnjob.training import driver, journal
from cnnjob.training.evaluation import from_plain
from cnnjob.training.feed import FeedChoice, feed_of
from cnnjob.training.metrics import wilson
from cnnjob.training.observations import observations
from cnnjob.training.order import num_steps
from cnnjob.training.state import RunState, alone, begun, open_run, run_id_of, save_first, save_run, version_of
from cnnjob.training.stop import check_ours, is_taken, take_up
from cnnjob.training.worker import TrainJob
from cnnjob.versions import git_commit
from pipelines import training_trace
from pipelines.clock import process_began
from pipelines.console import Console
from pipelines.register import TEST_METRICS, figures_of_test, register
from pipelines.train_checks import check_memory, fitting_net

EPOCH_KEYS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_s", "first_batch_s")
SHOWN_DIGITS = 12
"""Of a fingerprint, where people read it."""
FEW_TEST_ROWS = 1000
"""With so many an accuracy of 0.9 is known to 0.02, either way, at 95 %; with fewer that is worth telling."""


@dataclass(frozen=True)
class TrainResult:
    """What ``cnnjob train --json`` prints.

    Attributes:
        run_id: The MLflow run.
        model_name: Registered name.
        model_version: Its version.
        epochs: A row for each epoch, see ``EPOCH_KEYS``, with an ``observation`` and ``pause_s``: seconds between the
            last step before it and its first, without the validation.
        best_epoch: The epoch whose weights are registered.
        test: Of the test split: ``loss``, ``accuracy``, ``rows``, ``top_k`` and its ``k``, ``ece`` (expected
            calibration error), ``macro_f1``, and ``classes``: ``name``, ``precision``, ``recall``, ``f1``, ``support``.
        seconds_to_first_step: From the start of the command's process to the first epoch's first step.
        start: Where they went: for each of ``imports``, ``ray``, ``mlflow``, ``workers``, ``rows``, ``first_step``,
            the seconds from that start until it was reached.
        parity: Largest difference of a probability between the graph and the net.
        tracking_uri: Where MLflow has it.
        feed: How workers got their rows, ``in memory`` or ``streamed``: ``kind`` and ``reason``.
        created: False where there was nothing left to do.
    """

    run_id: str
    model_name: str
    model_version: str
    epochs: list[dict[str, Any]]
    best_epoch: int
    test: dict[str, Any]
    seconds_to_first_step: float
    parity: float
    tracking_uri: str
    feed: dict[str, str] = dataclasses.field(default_factory=dict)
    start: dict[str, float] = dataclasses.field(default_factory=dict)
    created: bool = True


def run(config: TrainConfig, console: Console) -> TrainResult:
    """Train, evaluate and register what ``config`` asks for."""
    began = process_began()
    marks = {"imports": time.time() - began}
    manifest = read_manifest(config.dataset)
    net = fitting_net(config, manifest)
    run_folder = storage.join(config.storage, config.name)
    if (result := _finished(open_run(run_folder, config, manifest), config)) is not None:
        return result
    feed = feed_of(config, manifest)
    check_memory(config, manifest, net)
    with session(_needs(config, manifest), console):
        marks["ray"] = time.time() - began
        # An address that MLflow does not open is a mistake, and is told before anything is written.
        server = connect(config.tracking.uri, create=True)
        with alone(run_folder):
            # Another command may have been at it until now.
            if (result := _finished(open_run(run_folder, config, manifest), config)) is not None:
                return result
            # The first thing that is written: where that is not allowed, MLflow has no run of it.
            storage.write_bytes(storage.join(run_folder, "config.yaml"), dump_config(config).encode())
            state = _entered(server, config, manifest, feed, console)
            marks["mlflow"] = time.time() - began
            threads = driver.threads_of(config.cpus_per_worker)
            job = TrainJob(config, manifest, net, run_folder, state.run_id, threads, began, marks, uuid.uuid4().hex)
            take_up(run_folder, job.attempt)
            with _told_to_mlflow(server, job):
                console.note(f"Feed: {feed.kind}; {feed.reason}")
                entries = _train(job, server, console)
                result = _finish(job, server, entries, feed)
            runs.end_run(server, state.run_id, "FINISHED")
            save_run(run_folder, dataclasses.replace(state, result=dataclasses.asdict(result)))
    return result


def _finished(state: RunState | None, config: TrainConfig) -> TrainResult | None:
    """What a finished run gave, where that is what is asked for: this model, in this MLflow, which still has it.

    Its run in MLflow is ended as finished once more: a command that came after, to register it under another name, and
    was ended has left it as ended too.
    """
    asked = (config.model_name, resolved_uri(config.tracking.uri))
    if state is None or state.result is None or (state.result["model_name"], state.result["tracking_uri"]) != asked:
        return None
    result = TrainResult(**{**state.result, "created": False})
    try:
        server = connect(config.tracking.uri)
        if not _is_there(server, result):
            return None
        runs.end_as_finished(server, result.run_id)
    except ModelError:
        # There is no such store any more.
        return None
    except TrackingError:
        # Where MLflow does not answer, nobody has removed anything.
        pass
    return result


def _is_there(server: Server, result: TrainResult) -> bool:
    """Whether MLflow has the run and the model of a result."""
    return runs.is_there(server, result.run_id) and is_registered(server, result.model_name, result.model_version)


def show(result: TrainResult, console: Console) -> None:
    """The result for people: how the training went, what the test split says, and what comes next."""
    if not result.created:
        console.say("Nothing to do: the run of this name is finished, with this config and these data")
    training_trace.show(result.epochs, result.test, console)
    test = result.test
    console.say(
        f"Registered {result.model_name} version {result.model_version} (epoch {result.best_epoch}): "
        f"test accuracy {_with_interval(test)}, loss {test['loss']:.4f}, {test['rows']:,} rows"
    )
    version = f" --version {result.model_version}" * (not result.created)
    tracking = shlex.quote(_as_configured(result.tracking_uri))
    console.say(f"Next: cnnjob promote {result.model_name}{version} --tracking {tracking}")
    if command := _ui_command(result.tracking_uri):
        console.say(f"MLflow UI: {command}")


def _with_interval(test: dict[str, Any]) -> str:
    """The accuracy; where there are few rows, with what they say of others."""
    accuracy, rows = test["accuracy"], test["rows"]
    if rows >= FEW_TEST_ROWS:
        return f"{accuracy:.4f}"
    low, high = wilson(accuracy, rows)
    return f"{accuracy:.4f} ({low:.3f} to {high:.3f} at 95 %)"


def _as_configured(tracking_uri: str) -> str:
    """The folder that a conf would name, where MLflow's address is that of a folder's file."""
    folder = tracking_uri.removeprefix("sqlite:///").removesuffix("/mlflow.db")
    return folder if resolved_uri(folder) == tracking_uri else tracking_uri


def _ui_command(tracking_uri: str) -> str | None:
    """The command that opens the MLflow UI on a file of this machine; a server has a UI of its own."""
    if not tracking_uri.startswith("sqlite"):
        return None
    try:
        return connect(tracking_uri).ui_command
    except CnnjobError:
        # The work is done; a store that does not open just now is no reason to fail.
        return None


@contextmanager
def _told_to_mlflow(server: Server, job: TrainJob) -> Iterator[None]:
    """Where the work ends early, the run in MLflow ends too: FAILED or KILLED, with the reason.

    Raises:
        OvertakenError: It failed for whatever reason while another command had the run.
    """
    try:
        yield
    except Exception as error:
        _end_early(server, job, "FAILED", str(error))
        with suppress(StorageError):
            # Files that one of the two has removed may be what the other failed for.
            check_ours(job.run_folder, job.attempt)
        raise
    except BaseException as error:
        by = interrupt.received()
        _end_early(server, job, "KILLED", by.name if by else type(error).__name__)
        raise


def _end_early(server: Server, job: TrainJob, status: str, reason: str) -> None:
    """End the run in MLflow, unless it is another command's by now."""
    with suppress(TrackingError, StorageError):
        if is_taken(job.run_folder, job.attempt) and run_id_of(job.run_folder) == job.run_id:
            return
        runs.end_run(server, job.run_id, status, reason=reason)


def _needs(config: TrainConfig, manifest: Manifest) -> Needs:
    return Needs(
        processes=config.num_workers,
        cpus_per_process=config.cpus_per_worker,
        data_cpus=config.data_cpus if manifest.image.storage == "encoded" else 0,
        gpus=config.num_workers if config.use_gpu else 0,
    )


def _entered(server: Server, config: TrainConfig, manifest: Manifest, feed: FeedChoice, console: Console) -> RunState:
    """The run that this command works on: the one that lies under its name and goes on, else one that begins.

    On S3 two commands may begin at once. One of them begins the run, and the other's in MLflow is deleted.
    """
    run_folder = storage.join(config.storage, config.name)
    while True:
        version = version_of(run_folder)
        state = open_run(run_folder, config, manifest)
        if state is not None and runs.resume_run(server, state.run_id):
            console.note(f"Run {config.name} goes on in {run_folder}")
            break
        state = begun(_run_in_mlflow(server, config, manifest, feed), config, manifest)
        if save_first(run_folder, state, version):
            break
        runs.discard(server, state.run_id)
    try:
        log_inputs(server, state.run_id, _read_splits(config, manifest))
    except TrackingError as error:
        console.note(f"{error} Training goes on; its run has no data set in MLflow's column of that name.")
    return state


def _run_in_mlflow(server: Server, config: TrainConfig, manifest: Manifest, feed: FeedChoice) -> str:
    """A new run in MLflow; its id."""
    params = {**config.model_dump(mode="json"), "data_fingerprint": manifest.fingerprint}
    tags = {
        "cnnjob.data_fingerprint": manifest.fingerprint,
        "mlflow.source.git.commit": git_commit() or "",
        "cnnjob.feed": f"{feed.kind}; {feed.reason}",
    }
    return runs.start_run(server, config.tracking.experiment, config.name, params, tags)


def _read_splits(config: TrainConfig, manifest: Manifest) -> list[ReadSplit]:
    """What the run reads, as MLflow is told."""
    contexts = {"train": "training", "val": "validation", "test": "test"}
    return [
        ReadSplit(
            name=storage.name(config.dataset) or config.dataset,
            digest=f"{manifest.fingerprint[:SHOWN_DIGITS]}-{split}",
            uri=config.dataset,
            context=context,
            rows=manifest.splits[split].rows,
            classes=len(manifest.class_names),
            shape=manifest.image.shape,
        )
        for split, context in contexts.items()
    ]


def _train(job: TrainJob, server: Server, console: Console) -> list[dict[str, Any]]:
    """Train, telling what the journal has as it comes. Returns the entries of the epochs, and that of the test."""
    entries: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    steps = num_steps(job.manifest.splits["train"].rows, job.config.global_batch_size)
    console.note(
        f"Training {job.config.name}: {job.manifest.splits['train'].rows:,} rows, {job.config.num_epochs} epochs of "
        f"{steps} steps, {job.config.num_workers} workers of {job.threads} thread(s)"
    )
    with MetricSender(server, job.run_id, console.note) as metrics:

        def on_entry(entry: dict[str, Any]) -> None:
            if entry["kind"] not in (journal.EPOCH, journal.TEST):
                events.append(entry)
                _tell(entry, console)
                return
            entries.append(entry)
            if entry["kind"] == journal.TEST:
                found = figures_of_test(from_plain(entry["evaluation"]), job.manifest.class_names)
                names = {"top_k": f"top{found['k']}"}
                values = {f"test_{names.get(key, key)}": found[key] for key in TEST_METRICS}
                values["best_epoch"] = entry["best_epoch"]
                step = sum(each["kind"] == journal.EPOCH for each in entries)
            else:
                values = {key: entry[key] for key in EPOCH_KEYS[1:]}
                step = entry["epoch"]
                console.row("epochs", training_trace.live(entry))
            metrics.put(values, step=step, timestamp_ms=entry["timestamp_ms"])

        driver.fit(job, worker_environment(), on_entry, own_ray=is_own())
    check_ours(job.run_folder, job.attempt)
    _check_ended(job, events)
    epochs = sum(entry["kind"] == journal.EPOCH for entry in entries)
    if epochs < job.config.num_epochs:
        console.note(f"Stopped after epoch {epochs}: none was better for {job.config.early_stopping_epochs} epochs")
    return entries


def _tell(event: dict[str, Any], console: Console) -> None:
    """Say what happened to the run."""
    match event["kind"]:
        case "resumed":
            for what in event["damaged"]:
                console.note(f"Passed over: {what}. The checkpoint before it is used")
            console.note(f"Going on after epoch {event['epoch']}" + (f", step {event['step']}" * (event["step"] > 0)))
        case "failed":
            said = "; ".join(f"rank {rank}: {what}" for rank, what in event["ranks"].items())
            console.note(f"Workers failed: {said}")
        case "stopped":
            console.note(f"Stopped in epoch {event['epoch']} after step {event['step']}; a checkpoint has it")


def _check_ended(job: TrainJob, events: list[dict[str, Any]]) -> None:
    """Tell a training that left the numbers, or whose data set was replaced: nothing of it is registered."""
    for event in events:
        if event["kind"] == "replaced":
            raise TrainingError(
                f"{job.config.dataset} was prepared anew while {job.config.name} was trained on it, in epoch "
                f"{event['epoch']} or just before. Nothing was registered, and no checkpoint has what was read since. "
                f"Prepare it as it was and run the same command again to go on, or train under another name."
            )
        if event["kind"] == "not_finite":
            ranks = " and ".join(str(rank) for rank in event["ranks"])
            what = f"the loss on rank{'s' * (len(event['ranks']) > 1)} {ranks}" if ranks else "the gradient"
            raise TrainingError(
                f"training of {job.config.name} stopped: {what} is not finite in epoch {event['epoch']}, step "
                f"{event['step']}. Nothing was registered. Lower optimizer.learning_rate (now "
                f"{job.config.optimizer.learning_rate:g}) or set optimizer.gradient_clip, and train under another name."
            )


def _finish(job: TrainJob, server: Server, entries: list[dict[str, Any]], feed: FeedChoice) -> TrainResult:
    kept = (*EPOCH_KEYS, "pause_s")
    epochs = [{key: entry[key] for key in kept} for entry in entries if entry["kind"] == journal.EPOCH]
    for epoch, observation in zip(epochs, observations(epochs), strict=True):
        epoch["observation"] = observation
    tested = next(entry for entry in entries if entry["kind"] == journal.TEST)
    finished = register(job, server, epochs, tested["best_epoch"], from_plain(tested["evaluation"]))
    return TrainResult(
        run_id=job.run_id,
        model_name=finished.model.name,
        model_version=finished.model.version,
        epochs=epochs,
        best_epoch=tested["best_epoch"],
        test=finished.test,
        seconds_to_first_step=entries[0]["marks"]["first_step"],
        start=entries[0]["marks"],
        feed={"kind": feed.kind, "reason": feed.reason},
        parity=finished.parity,
        tracking_uri=server.uri,
    )
