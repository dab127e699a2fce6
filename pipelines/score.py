"""``cnnjob score``: one date's images in, a committed table of class probabilities out.

Resolve the model once and check its digest. Read the input's manifest and plan the units. If the date has been
published from this very plan, say so and stop. Otherwise score the units that no earlier run finished, verify
the parts against the input as both are read back, and publish them at once.
"""

import datetime as dt
import time
from dataclasses import dataclass
from typing import Any

from cnnjob import storage
from cnnjob.cluster.session import Needs, cpus_available, machine_cpus, session
from cnnjob.config.load import dump_config
from cnnjob.config.score import ScoreConfig
from cnnjob.data.manifest import Manifest, read_manifest
from cnnjob.data.rows import Span, read_span
from cnnjob.errors import DatasetError, JobError, UserError
from cnnjob.models import bundle as bundles
from cnnjob.schema import ID
from cnnjob.scoring import commit, job
from cnnjob.scoring.commit import ScoresManifest, Table
from cnnjob.scoring.plan import Plan, ScoringModel, plan_dataset
from cnnjob.scoring.work import Desk, Receipt, finished, ids_digest
from cnnjob.tracking.registry import Resolved, resolve
from cnnjob.tracking.server import connect
from pipelines.console import Console


@dataclass(frozen=True)
class ScoreResult:
    """What ``cnnjob score --json`` prints.

    Attributes:
        output: Root of the table.
        date: YYYY-MM-DD.
        rows: Rows in the date's table.
        refused: Rows in quarantine, by reason.
        published: False where there was nothing left to do.
        version: The published version.
        model_name: Registered name of the model.
        model_version: Its version.
        images_per_s: Rows scored now over the time from the first unit's start to the publication's end.
        seconds: Wall time of the command's work.
        units: Units in the plan, and how many of them an earlier run had finished.
    """

    output: str
    date: str
    rows: int
    refused: dict[str, int]
    published: bool
    version: str
    model_name: str
    model_version: str
    images_per_s: float
    seconds: float
    units: dict[str, int]


def run(config: ScoreConfig, console: Console) -> ScoreResult:
    """Score and publish what ``config`` asks for."""
    began = time.perf_counter()
    if config.date is None:
        raise UserError("the date is missing: give --date YYYY-MM-DD, or set date in the config")
    manifest = read_manifest(config.input.uri)
    resolved = resolve(connect(config.tracking.uri), config.model)
    model = _scoring_model(resolved)
    _check_fit(config, manifest, resolved)
    plan = plan_dataset(config, manifest, model)
    table = Table(config.output, config.date)
    before = commit.recover(table)
    if before is not None and (before.plan_digest == plan.digest or config.mode == "skip"):
        return _result(config, before, published=False, seconds=time.perf_counter() - began)
    if before is not None and config.mode == "error":
        raise JobError(
            f"{config.output} has scores for {config.date}, version {before.version} of model version "
            f"{before.model['version']}, and mode is error. Set mode: replace, or score another date."
        )
    scored_at = _scored_at(table, plan, config)
    desk = Desk(config.input.uri, table.staging(plan), model, config.probabilities, scored_at)
    done = [receipt for unit in plan.units if (receipt := finished(unit, desk.staging))]
    console.note(
        f"Scoring {plan.rows:,} rows of {config.input.uri} for {config.date} with {model.name} version {model.version}"
        + (f"; {len(done)} of {len(plan.units)} units were finished before" if done else "")
    )
    started = time.perf_counter()
    receipts = [*done, *_score(config, plan, desk, resolved, {receipt.unit for receipt in done}, console)]
    commit.verify(table, plan, receipts, _expected_ids(config.input.uri, plan))
    published = commit.publish(table, plan, receipts, model, config.model_dump(mode="json"), scored_at)
    now = time.perf_counter()
    rate = (published.rows - sum(receipt.rows for receipt in done)) / (now - started)
    units = {"planned": len(plan.units), "reused": len(done)}
    return _result(config, published, published=True, seconds=now - began, images_per_s=rate, units=units)


def show(result: ScoreResult, console: Console) -> None:
    """The result for people."""
    state = "Published" if result.published else "Nothing to do, already published:"
    rate = f", {result.images_per_s:,.0f} images/s" if result.published else ""
    console.say(
        f"{state} {result.rows:,} rows for {result.date} in {result.output}, {sum(result.refused.values())} refused, "
        f"model {result.model_name} version {result.model_version}{rate}"
    )


def _scoring_model(resolved: Resolved) -> ScoringModel:
    description = resolved.bundle.description
    return ScoringModel(
        resolved.name, resolved.version, resolved.bundle.digest, description.class_names, description.shape
    )


def _check_fit(config: ScoreConfig, manifest: Manifest, resolved: Resolved) -> None:
    """The model takes images of the form that the input has."""
    wanted, found = resolved.bundle.description.image, manifest.image
    for key in ("channels", "height", "width", "color"):
        if wanted[key] != getattr(found, key):
            raise DatasetError(
                f"{config.input.uri} has images of {found.channels}x{found.height}x{found.width} {found.color}, and "
                f"{config.model} was trained on {wanted['channels']}x{wanted['height']}x{wanted['width']} "
                f"{wanted['color']}. Prepare the input with the image settings of the model's data set."
            )


def _scored_at(table: Table, plan: Plan, config: ScoreConfig) -> dt.datetime:
    """When this plan was first made: a run that goes on after a death keeps the first run's time."""
    uri = storage.join(table.staging(plan), "plan.json")
    if not storage.exists(uri):
        now = dt.datetime.now(dt.UTC)
        document = {"scored_at": now.isoformat(), "rows": plan.rows, "units": len(plan.units)}
        storage.write_json(uri, document)
        storage.write_bytes(storage.join(table.meta, "config.yaml"), dump_config(config).encode())
    return dt.datetime.fromisoformat(storage.read_json(uri)["scored_at"])


def _score(
    config: ScoreConfig, plan: Plan, desk: Desk, resolved: Resolved, done: set[str], console: Console
) -> list[Receipt]:
    units = [unit for unit in plan.units if unit.name not in done]
    if not units:
        return []
    graph = resolved.bundle.files[bundles.ONNX]
    processes = job.num_processes(config.engine, len(units), machine_cpus())
    needs = Needs(processes, config.engine.threads_per_process, key="engine.num_processes")
    receipts: list[Receipt] = []
    with session(needs, console):
        processes = job.num_processes(config.engine, len(units), cpus_available())
        for receipt in job.run(units, desk, graph, config.engine, processes):
            receipts.append(receipt)
            console.advance("scoring", sum(r.rows for r in receipts), sum(u.rows for u in units), "rows")
    return receipts


def _expected_ids(dataset: str, plan: Plan) -> int:
    """Sum of the digests of the input's ids, read from the input itself."""
    spans: list[Span] = [span for unit in plan.units for span in unit.spans]
    return sum(ids_digest(table.column(ID)) for span in spans for table in read_span(dataset, span, (ID,)))


def _result(config: ScoreConfig, manifest: ScoresManifest, **figures: Any) -> ScoreResult:
    return ScoreResult(
        output=config.output,
        date=manifest.date,
        rows=manifest.rows,
        refused=manifest.refused,
        version=manifest.version,
        model_name=manifest.model["name"],
        model_version=manifest.model["version"],
        **{"images_per_s": 0.0, "units": {"planned": len(manifest.parts), "reused": len(manifest.parts)}, **figures},
    )
