"""``cnnjob score``: one date's images in, a committed table of class probabilities out.

Resolve the model once and check its digest. List the input and plan the units. If the date has been published from
this very plan, say so and stop. Otherwise score the units that no earlier run finished, verify the parts against the
input as both are read back, and publish them at once.
"""

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cnnjob import exclusive, interrupt, storage
from cnnjob.config.load import dump_config
from cnnjob.config.prepare import ImageConfig
from cnnjob.config.score import ScoreConfig
from cnnjob.errors import (
    CnnjobError,
    DatasetError,
    IntegrityError,
    JobError,
    LostPartsError,
    OvertakenError,
    RefusedRowsError,
)
from cnnjob.models.bundle import image_form
from cnnjob.models.presets import net_of
from cnnjob.models.trace import trace
from cnnjob.scoring import commit
from cnnjob.scoring.dates import day_of, days, for_date, parse
from cnnjob.scoring.inputs import Input, open_input
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, ScoringModel, Unit
from cnnjob.scoring.sizing import Sizes, sizes_of
from cnnjob.scoring.table import ScoresManifest, Table, current
from cnnjob.scoring.verify import verify
from cnnjob.scoring.work import Desk, Receipt, drift_stride, finished_units
from cnnjob.tracking.registry import Resolved, resolve
from cnnjob.tracking.server import connect
from pipelines.clock import Pace
from pipelines.console import Console
from pipelines.score_checks import (
    check_classes,
    check_fit,
    check_refused,
    check_space,
    informed,
    is_mended,
    of_one_date,
    told_who_won,
)
from pipelines.score_place import (
    check_apart,
    check_date,
    check_form,
    check_keys,
    check_root,
    check_table,
    check_unclaimed,
    check_writable,
)
from pipelines.score_result import RangeResult, ScoreResult

_CLASSES_SHOWN = 10
"""Of the rows by class, so that a result of a thousand classes is a line."""


def now() -> dt.datetime:
    """The clock."""
    return dt.datetime.now(dt.UTC)


def run(config: ScoreConfig, console: Console) -> ScoreResult:
    """Score and publish the date that ``config`` asks for."""
    # The one look at the clock: midnight may pass while the job runs, and its date stays.
    date = day_of(config.date, now(), config.timezone)
    return score_date(config, date, resolve(connect(config.tracking.uri), config.model), console)


def run_range(config: ScoreConfig, first: str, last: str, console: Console) -> RangeResult:
    """Score the dates from ``first`` to ``last`` that have no scores, in order.

    A date with scores is left as it is, also where its input has changed since: ``--date`` scores it again. A date is
    passed over and told at the end where what it alone has is wrong: its input, its folder or its log, see
    ``score_checks.of_one_date``. Any other failure would be that of the next date too, and ends the command. Those
    before it are published, and the same command goes on with it.
    """
    check_root(config)
    asked = days(parse(first, "--from"), parse(last, "--to"))
    missing: list[dt.date] = []
    results: list[ScoreResult] = []
    failed: dict[str, str] = {}
    for day in asked:
        with _passed_over(day, failed, console):
            version, lost = _published(Table(config.output, day), config)
            if version is None or lost:
                missing.append(day)
    if missing:
        # Imported here: where no date is missing, there is no need to wait for Ray.
        from cnnjob.cluster.session import shared_session

        resolved = resolve(connect(config.tracking.uri), config.model)
        with shared_session():
            for day in missing:
                with _passed_over(day, failed, console):
                    results.append(score_date(config, day, resolved, console))
                    show(results[-1], console)
    return RangeResult(results, dict(sorted(failed.items())))


@contextmanager
def _passed_over(day: dt.date, failed: dict[str, str], console: Console) -> Iterator[None]:
    """What is wrong with one date of a range is told and noted in ``failed``, and the next one's turn comes."""
    try:
        yield
    except CnnjobError as error:
        if not error.of_one_date:
            raise
        failed[day.isoformat()] = str(error)
        console.note(f"{day} is passed over: {error}")


def score_date(config: ScoreConfig, date: dt.date, resolved: Resolved, console: Console) -> ScoreResult:
    """Score and publish one date."""
    began = time.perf_counter()
    check_root(config)
    table = Table(config.output, date)
    before, lost = _published(table, config)
    if lost:
        console.note(f"{lost} The date is scored again")
    is_whole = before is not None and not lost
    if before is not None and is_whole and config.mode == "skip":
        return _result(config, before, published=False, seconds=time.perf_counter() - began)
    model = _scoring_model(resolved)
    source = for_date(config.input.uri, date)
    is_own = source != config.input.uri
    with of_one_date(is_own=is_own):
        check_apart(config, source)
    with of_one_date():
        check_date(table)
    if before is None:
        check_table(table)
        with of_one_date():
            check_unclaimed(table)
    check_form(config, table, model, console)
    check_classes(config, model)
    with of_one_date(is_own=is_own):
        given = open_input(config, source, _form(config, resolved))
        check_fit(config, given, resolved)
        check_keys(table, source, given.keys)
        plan = given.plan(config, model)
        if not plan.rows:
            raise DatasetError(f"{source} has no rows in its split {config.input.split}; there is nothing to score.")
    if before is not None and is_whole and before.plan_digest == plan.digest:
        if config.mode == "error" or not is_mended(table, before, config.limits.max_bytes):
            return _result(config, before, published=False, seconds=time.perf_counter() - began)
        console.note(f"Files of {date} that could not be read can be now: it is scored again")
    elif before is not None and is_whole and config.mode == "error":
        raise JobError(
            f"{config.output} has scores for {date}, version {before.version} of model version "
            f"{before.model['version']}, and mode is error. Set mode: replace, or score another date."
        )
    check_writable(table)
    with (
        of_one_date(IntegrityError, OvertakenError),
        of_one_date(DatasetError, RefusedRowsError, is_own=is_own),
        told_who_won(table, plan, before),
    ):
        published, pace, reused = _work(config, table, given, plan, resolved, model, before, console)
    return _result(
        config,
        published,
        published=True,
        seconds=time.perf_counter() - began,
        images_per_s=pace.rows / sum(pace.stages.values()),
        images_per_s_steady=pace.steady,
        stages={name: round(seconds, 3) for name, seconds in pace.stages.items()},
        units={"planned": len(plan.units), "reused": reused},
    )


def _published(table: Table, config: ScoreConfig) -> tuple[ScoresManifest | None, LostPartsError | None]:
    """What is published for a date, and what is missing of it; what a dead run committed is finished."""
    with of_one_date():
        try:
            return commit.recover(table, config.history), None
        except LostPartsError as error:
            return current(table), error


def show(result: ScoreResult | RangeResult, console: Console) -> None:
    """The result for people."""
    if isinstance(result, RangeResult):
        count = len(result.dates)
        were = "1 date was missing and is scored" if count == 1 else f"{count} dates were missing and are scored"
        if count or not result.failed:
            console.say(were if count else "Nothing to do: no date is missing")
        if result.failed:
            console.say(f"Not scored: {', '.join(result.failed)}")
        return
    state = "Published" if result.published else "Nothing to do, already published:"
    rate = f", {result.images_per_s:,.0f} images/s" if result.images_per_s else ""
    refused = ", ".join(f"{count:,} {reason}" for reason, count in result.refused.items())
    console.say(
        f"{state} {result.rows:,} rows for {result.date} in {result.output}, {sum(result.refused.values()):,} refused"
        f"{f' ({refused})' if refused else ''}, model {result.model_name} version {result.model_version}{rate}"
    )
    if result.rows:
        console.say(f"Predicted: {_largest(result.counts)}")
    if result.quarantine:
        console.say(f"Refused rows: {result.quarantine}")


def _largest(counts: dict[str, int]) -> str:
    """The classes with most rows, largest first; those without a row are not named."""
    found = sorted(((name, rows) for name, rows in counts.items() if rows), key=lambda each: each[1], reverse=True)
    named = ", ".join(f"{name} ({rows:,})" for name, rows in found[:_CLASSES_SHOWN])
    more = len(found) - _CLASSES_SHOWN
    return named if more <= 0 else f"{named}, ... and {more:,} more"


def _work(
    config: ScoreConfig,
    table: Table,
    given: Input,
    plan: Plan,
    resolved: Resolved,
    model: ScoringModel,
    before: ScoresManifest | None,
    console: Console,
) -> tuple[ScoresManifest, Pace, int]:
    """Score what is left, verify, publish. Returns also how fast it went, and how many units were there before."""
    staging = table.staging(plan.digest, before.number if before else 0)
    ledger = Ledger(len(model.class_names), model.shape[0], finished_units(plan.units, staging))
    left = [unit for unit in plan.units if ledger.of(unit.name) is None]
    done = len(ledger)
    console.note(
        f"Scoring {plan.rows:,} rows for {table.date} with {model.name} version {model.version}"
        + (f"; {done} of {len(plan.units)} units were finished before" if done else "")
    )
    check_space(config, sum(unit.rows for unit in left), model)
    pace = Pace()
    # Ray comes first: where it has too few CPUs, nothing has been written. It ends last: readers do not wait for it.
    with _ray_for(config, left, given, resolved, console) as sizes, informed(table, console):
        scored_at = _scored_at(staging, plan, config)
        desk = Desk(
            given.stage(staging),
            staging,
            model,
            config.probabilities,
            scored_at,
            given.keys,
            drift_stride(plan.rows),
        )
        if sizes is not None:
            pace.processes = sizes.processes
            for receipt in _score(config, left, desk, resolved, sizes, console):
                ledger.add(receipt)
                pace.unit(receipt.rows, receipt.ended - receipt.seconds, receipt.ended)
        pace.stage("scoring")
        check_refused(config, plan, ledger, staging)
        verify(staging, plan, ledger, given)
        pace.stage("verify")
        document = config.model_dump(mode="json")
        interrupt.check()
        published = commit.publish(
            table, plan, ledger, model, document, scored_at, base=before, keys=given.keys, history=config.history
        )
        pace.stage("publish")
    return published, pace, done


def _form(config: ScoreConfig, resolved: Resolved) -> ImageConfig:
    """The form of the model's data set, with what the config says otherwise."""
    changed = {key: value for key, value in config.image.model_dump().items() if value is not None}
    return image_form(resolved.bundle.description).model_copy(update=changed)


def _scoring_model(resolved: Resolved) -> ScoringModel:
    description = resolved.bundle.description
    return ScoringModel(
        name=resolved.name,
        version=resolved.version,
        digest=resolved.bundle.digest,
        class_names=description.class_names,
        shape=description.shape,
        flops=trace(net_of(description.architecture)).flops,
    )


def _scored_at(staging: str, plan: Plan, config: ScoreConfig) -> dt.datetime:
    """When this plan was first made: a run that goes on after a death keeps the first run's time."""
    uri = storage.join(staging, commit.PLAN)
    if not storage.exists(uri):
        document = {
            "scored_at": now().isoformat(),
            "rows": plan.rows,
            "units": len(plan.units),
            "config": dump_config(config),
        }
        exclusive.create(uri, storage.json_bytes(document))
    return dt.datetime.fromisoformat(storage.read_json(uri)["scored_at"])


@contextmanager
def _ray_for(
    config: ScoreConfig, units: Sequence[Unit], given: Input, resolved: Resolved, console: Console
) -> Iterator[Sizes | None]:
    """Ray, while units are scored on it, and how; None where no unit is left, which needs no Ray."""
    if not units:
        yield None
        return
    # Imported here: where nothing is left to do, there is no need to wait for Ray.
    from cnnjob.cluster.session import Needs, check_open, cpus_available, gpus_available, session

    net = net_of(resolved.bundle.description.architecture)

    def fitting() -> Sizes:
        return sizes_of(config.engine, net, units=len(units), cpus=cpus_available(), gpus=gpus_available())

    def needs(sizes: Sizes, processes: int) -> Needs:
        return Needs(
            processes,
            sizes.threads,
            data_cpus=int(sizes.use_gpu and given.decodes),
            gpus=processes if sizes.use_gpu else 0,
            key="engine.num_processes",
        )

    # Only a stated number is asked of a cluster that has not been seen: this machine's says nothing of it.
    before = fitting()
    with session(needs(before, before.processes if config.engine.num_processes else 1), console):
        sizes = fitting()
        # Tasks do not wait for each other, as actors on GPUs do: where no number was stated, one that fits is enough.
        check_open(needs(sizes, sizes.processes if config.engine.num_processes or sizes.use_gpu else 1))
        console.note(f"Scoring in {sizes}")
        yield sizes


def _score(
    config: ScoreConfig, units: Sequence[Unit], desk: Desk, resolved: Resolved, sizes: Sizes, console: Console
) -> Iterator[Receipt]:
    from cnnjob.scoring import job

    rows, total = 0, sum(unit.rows for unit in units)
    for receipt in job.run(units, desk, resolved.bundle, sizes, num_processes=config.engine.num_processes):
        interrupt.check()
        rows += receipt.rows + len(receipt.refused)
        console.advance("scoring", rows, total, "rows")
        yield receipt


_NOTHING_DONE: dict[str, Any] = {"images_per_s": 0.0, "images_per_s_steady": 0.0, "stages": {}}


def _result(config: ScoreConfig, manifest: ScoresManifest, **figures: Any) -> ScoreResult:
    table = Table(config.output, dt.date.fromisoformat(manifest.date))
    quarantine = table.beside("quarantine", manifest.number, manifest.version) if manifest.refused else ""
    return ScoreResult(
        output=config.output,
        date=manifest.date,
        rows=manifest.rows,
        refused=manifest.refused,
        version=manifest.version,
        model_name=manifest.model["name"],
        model_version=manifest.model["version"],
        counts=dict(zip(manifest.class_names, manifest.counts, strict=True)),
        quarantine=quarantine,
        **{**_NOTHING_DONE, "units": {"planned": len(manifest.parts), "reused": len(manifest.parts)}, **figures},
    )
