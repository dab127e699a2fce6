"""Which dates a job scores: functions of what was asked for, one instant and a time zone; no clock is read here."""

import datetime as dt
import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from cnnjob.errors import UserError


def day_of(asked: dt.date | str | None, now: dt.datetime, timezone: str) -> dt.date:
    """The date that is scored.

    Args:
        asked: A date; ``today`` or ``yesterday``, of the calendar in ``timezone``; None where none was given.
        now: The instant the job began, with its zone.
        timezone: IANA name.

    Raises:
        UserError: No date was given, or what was given is none.
    """
    if isinstance(asked, dt.date):
        return asked
    if asked is None:
        raise UserError("the date is missing: give --date YYYY-MM-DD (or today, yesterday), or set date in the config")
    today = now.astimezone(ZoneInfo(timezone)).date()
    if asked in ("today", "yesterday"):
        return today if asked == "today" else today - dt.timedelta(days=1)
    return parse(asked, "--date")


def parse(text: str, option: str) -> dt.date:
    """A date as YYYY-MM-DD.

    Raises:
        UserError: It is no such date, such as 2025-02-29.
    """
    try:
        # Python takes weeks too, such as 2026-W05-6.
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return dt.date.fromisoformat(text)
    except ValueError:
        pass
    raise UserError(f"{option} {text!r} is no date; it should be YYYY-MM-DD, such as 2026-01-31")


def days(first: dt.date, last: dt.date) -> Iterator[dt.date]:
    """All days from ``first`` to ``last``, both included, in order.

    Raises:
        UserError: ``last`` is before ``first``.
    """
    if last < first:
        raise UserError(f"--to {last} is before --from {first}; the first date comes first")
    for number in range((last - first).days + 1):
        yield first + dt.timedelta(days=number)


def for_date(uri: str, date: dt.date) -> str:
    """A URI with ``{date}`` in it replaced by the date."""
    return uri.replace("{date}", date.isoformat())
