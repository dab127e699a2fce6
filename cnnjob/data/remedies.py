"""What to do about refused rows: one sentence for each reason, with what the config says now.

Who refuses too many rows says it of the commonest reason: mending that one helps most.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from cnnjob.config.prepare import PrepareConfig
from cnnjob.schema import REASON


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


def _label_remedy(config: PrepareConfig) -> str:
    source = config.source
    if source.kind == "folder":
        where = "the folders of the splits in " if config.split.method == "given" else ""
        return f"Put the pictures of each class into a sub-folder of their own, in {where}{source.uri}"
    names = ", with a name that is in source.class_names" if source.class_names else ""
    return f"Fill the column {source.columns.label!r} of {source.uri}{names}"
