"""What a person or a script sees: progress on standard error, the result on standard output.

On a terminal: bars and tables. Elsewhere: plain lines. With ``--json``: one object on standard output, and
everything else, also what libraries and worker processes print, on standard error.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any

PLAIN_WIDTH = 120
PLAIN_INTERVAL_S = 5.0
"""Without a terminal, a stage that lasts says so this often."""


class Console:
    """The listener of ``cnnjob.progress``, and the writer of results.

    Attributes:
        as_json: Print results as one JSON object.
        lost: Why some of what is meant for standard output could not be written; None: nothing was lost.
    """

    def __init__(self, *, as_json: bool, out: IO[str], err: IO[str]) -> None:
        self.as_json = as_json
        self.lost: OSError | None = None
        self._out = out
        self._err = err
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, float] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._tables: set[str] = set()

    def note(self, message: str) -> None:
        """One line on standard error."""
        if self._bars is not None:
            self._bars.console.print(message, markup=False, highlight=False)
        else:
            # A note that finds no place is no reason to end the work.
            write(self._err, message + "\n")

    def advance(self, stage: str, done: int, total: int, unit: str) -> None:
        """A bar on a terminal; elsewhere a line now and then, and one when the stage is done. Both with the rate."""
        now = time.monotonic()
        began, first = self._began.setdefault(stage, (now, done))
        rate = f"{(done - first) / (now - began):,.0f} {unit}/s" if now > began and done > first else ""
        if self._err.isatty():
            self._advance_bar(stage, done, total, unit, rate)
        elif done >= total or now - self._told.setdefault(stage, now) > PLAIN_INTERVAL_S:
            self._told[stage] = now
            self.note(f"{stage}: {done:,} of {total:,} {unit}" + (f", {rate}" if rate else ""))
        if done >= total:
            del self._began[stage]

    def row(self, table: str, values: Mapping[str, object]) -> None:
        """A row of a table that grows while the work goes on."""
        self._close_bars()
        cells = {name: _cell(value) for name, value in values.items()}
        widths = {name: max(len(name), 8) for name in cells}
        if table not in self._tables:
            self._tables.add(table)
            self.note("  ".join(name.rjust(widths[name]) for name in cells))
        self.note("  ".join(text.rjust(widths[name]) for name, text in cells.items()))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, unbroken: Sequence[str] = ()) -> None:
        """A finished table on standard output; nothing with ``--json``.

        Args:
            columns: The headings.
            rows: With a cell for each column.
            unbroken: Headings of the columns that stay on one line as long as others can be made narrower; in those,
                what is too long for a line goes on in the next one.
        """
        self._close_bars()
        if self.as_json:
            return
        from rich import box
        from rich.console import Console as RichConsole
        from rich.table import Column, Table
        from rich.text import Text

        headings = [
            Column(each, no_wrap=True) if each in unbroken else Column(each, overflow="fold") for each in columns
        ]
        drawn = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            # As text: the name of a class may look like Rich's markup.
            drawn.add_row(*(Text(_cell(value)) for value in row))
        width = None if self._out.isatty() else PLAIN_WIDTH
        console = RichConsole(file=self._out, highlight=False, width=width)
        # Written by Rich, it would end the process where nobody reads it any more.
        with console.capture() as captured:
            console.print(drawn)
        self._put(captured.get())

    def say(self, text: str = "") -> None:
        """A line of the result on standard output; nothing with ``--json``."""
        self._close_bars()
        if not self.as_json:
            self._put(text + "\n")

    def result(self, result: object) -> None:
        """The result object; only with ``--json``."""
        self._close_bars()
        if self.as_json:
            self._put(json.dumps(plain(result), ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        """End the bars, whatever happened."""
        self._close_bars()

    def _put(self, text: str) -> None:
        self.lost = write(self._out, text) or self.lost

    def _advance_bar(self, stage: str, done: int, total: int, unit: str, rate: str) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bars is None:
            text, rates = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
            columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), rates)
            self._bars = Progress(*columns, console=RichConsole(file=self._err))
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(f"{stage} ({unit})", total=total, rate="")
        self._bars.update(self._tasks[stage], completed=done, rate=rate)

    def _close_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks = {}


def plain(value: Any) -> Any:
    """Dataclasses, models, mappings and sequences as plain values that JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


@contextmanager
def guarded_stdout() -> Iterator[IO[str]]:
    """Keep standard output for results.

    File descriptor 1 is pointed at standard error for the time of the work, so that no library, native code or
    worker process can mix its lines into a result that a script reads. Yields the real standard output.
    """
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        # A name of bytes that are no UTF-8 is printed as standard error has it, which is JSON's escape too.
        out = os.fdopen(os.dup(real), "w", encoding="utf-8", errors="backslashreplace")
        with out, redirect_stdout(sys.stderr):
            yield out
    finally:
        os.dup2(real, 1)
        os.close(real)


def write(stream: IO[str], text: str) -> OSError | None:
    """Write and flush. What cannot be written is lost, and so is all that follows it.

    Returns:
        Why; None where it is written, or who read it has gone, as `head` does: then nobody misses it.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # What is left in its buffer would fail again where it is closed, at the end of the process if not before.
        with open(os.devnull, "w") as null:  # noqa: PTH123 - nothing is encoded
            os.dup2(null.fileno(), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None


def open_closed_streams() -> None:
    """Let a standard stream that was closed when the process began lead nowhere: a file would take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The first of the free numbers is taken, which is that of the stream.
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - it stays open
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"  # noqa: PLR2004 - rates, not shares
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
