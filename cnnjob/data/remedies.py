"""When refused rows end a job, and what to do about them: one sentence for each reason, with what the config says now.

It is said of the commonest reason: mending that one helps most.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.staging import StagedUnit
from cnnjob.errors import DatasetError, RefusedRowsError
from cnnjob.schema import DETAIL, ID, REASON, URI
from cnnjob.store_errors import shown


def check_refused(units: Sequence[StagedUnit], rows: int, config: PrepareConfig) -> None:
    """Refuse a job of which too many rows are refused, or which has nothing left to learn from.

    Args:
        units: All staged units, in any order.
        rows: Of the listing.
        config: Of the job.

    Raises:
        RefusedRowsError: More are refused than allowed.
        DatasetError: No two classes are left.
    """
    refused = [row for unit in sorted(units, key=lambda unit: unit.number) for row in unit.refused]
    bound = config.limits.max_refused_share
    if len(refused) > bound * rows:
        alternative = " Or raise limits.max_refused_share, and such rows are left out." if len(refused) < rows else ""
        raise RefusedRowsError(
            f"{_told(refused, rows)}. That is more than limits.max_refused_share ({bound}) allows, so nothing was "
            f"written. {remedy(commonest(refused)[REASON], config)}.{alternative}"
        )
    labels = np.unique(np.concatenate([unit.labels for unit in units])).tolist()
    if refused and len(labels) < 2:  # noqa: PLR2004 - told with the reasons
        raise DatasetError(
            f"{_told(refused, rows)}. No two classes are left to tell apart, so nothing was written. "
            f"{remedy(commonest(refused)[REASON], config)}."
        )


def _told(refused: Sequence[Mapping[str, str]], rows: int) -> str:
    """How many rows were refused, why, and an example of the commonest reason."""
    counted = ", ".join(f"{count} {reason}" for reason, count in by_reason(refused).items())
    example = commonest(refused)
    where = shown(example[URI] or example[ID])
    return f"{len(refused)} of {rows} rows were refused ({counted}), such as {where}: {example[DETAIL].rstrip('.')}"


def by_reason(refused: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Rows refused, by reason."""
    return dict(sorted(Counter(row[REASON] for row in refused).items()))


def commonest(refused: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """The first row of the commonest reason; of equally common ones, of the reason that comes first.

    Args:
        refused: At least one row as in ``schema.REFUSED``.
    """
    ((reason, _),) = Counter(row[REASON] for row in refused).most_common(1)
    return next(row for row in refused if row[REASON] == reason)


def remedy(reason: str, config: PrepareConfig) -> str:
    """What to do about rows that were refused.

    Args:
        reason: One of ``schema.REASONS``.
        config: Of the job that refused them.

    Returns:
        A sentence without its stop.
    """
    limits, resize = config.limits, config.image.resize
    of_pad = ", so larger pictures are refused" if resize == "pad" else ""
    remedies = {
        "wrong_size": f"image.resize is {resize}{of_pad}: set it to fit_pad, center_crop or stretch",
        "format_not_allowed": f"limits.formats is {', '.join(limits.formats)}: add the format, or convert the files",
        "too_many_bytes": f"limits.max_bytes is {limits.max_bytes}: raise it, or make the files smaller",
        "too_many_pixels": f"limits.max_pixels is {limits.max_pixels}: raise it, or make the pictures smaller",
        "label_unknown": _label_remedy(config),
        "gone": "Restore the files that are missing",
        "unreadable": "Give access to the files that cannot be read, or restore them",
        "changed": "Run the same command again once nothing writes to the source any more",
    }
    return remedies.get(reason, "Mend these files, or take them out of the source")


def too_few_to_train(config: PrepareConfig) -> str:
    """What to do where the training split has no two classes: a sentence without its stop."""
    if config.split.method == "given":
        return f"Correct the splits of {config.source.uri}, or set split.method to stratified"
    return "Lower split.val and split.test, or add pictures"


def _label_remedy(config: PrepareConfig) -> str:
    source = config.source
    if source.kind == "folder":
        where = "the folders of the splits in " if config.split.method == "given" else ""
        return f"Put the pictures of each class into a sub-folder of their own, in {where}{source.uri}"
    names = ", with a name that is in source.class_names" if source.class_names else ""
    return f"Fill the column {source.columns.label!r} of {source.uri}{names}"
